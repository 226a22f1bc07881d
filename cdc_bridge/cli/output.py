"""Write results to stdout, and everything about them to stderr."""

import sys

from cdc_bridge.admin.plan import Plan
from cdc_bridge.conninfo import mask


class ReaderGone(Exception):
    """The reader of our stdout has stopped reading, as `head` does. This is no error."""


def say(text: str) -> None:
    """Write a result at once, so that the reader of a pipe has it. Raises `ReaderGone`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def note(text: str) -> None:
    """Write what a person should know to stderr, where no program that reads stdout stumbles over it."""
    print(text, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Write an error or a warning, under our name and without a password."""
    note(f"cdc-bridge: {mask(text)}")


def report(done: Plan) -> None:
    """Print what `attach` or `detach` has done."""
    for sentence in done.notes:
        note(sentence)
    say("\n".join(task.title for task in done.tasks) or "Nothing to do.")


def size(count: float) -> str:
    """Return a size in words."""
    for unit in ("bytes", "kB", "MB"):
        if count < 10_000:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.0f} GB"


def age(seconds: float) -> str:
    """Return a time span in words."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
