"""Where words go: results to stdout, everything about them to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cdc_bridge.conninfo import mask

if TYPE_CHECKING:
    from cdc_bridge.schema.plan import Plan


class ReaderGone(Exception):
    """Whoever read our stdout has stopped reading, as `head` does. No error: there is nothing left to do."""


def say(text: str) -> None:
    """A result. It is written at once, so that a reader of the pipe has it. Raises `ReaderGone`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def note(text: str) -> None:
    """What a person should know but a program that reads stdout should not stumble over."""
    print(text, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """An error or a warning, under our name and without a password."""
    note(f"cdc-bridge: {mask(text)}")


def report(done: Plan) -> None:
    """What `attach` or `detach` has done."""
    for sentence in done.notes:
        note(sentence)
    for task in done.tasks:
        say(task.title)
    if not done.tasks:
        say("Nothing to do.")
