"""Where words go: results to stdout, everything about them to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cdc_bridge.conninfo import mask

if TYPE_CHECKING:
    from cdc_bridge.admin.plan import Plan


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


def size(count: float) -> str:
    """Bytes, as a person reads them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 10_000 or unit == "GB":
            return f"{count:,.0f} {unit}"
        count /= 1024
    raise AssertionError


def age(seconds: float) -> str:
    """A time span, as a person reads it."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
