"""`cdc-bridge listen`: a subscriber in the terminal."""

import asyncio
import datetime
import enum
import os
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated

import typer

from cdc_bridge.cli import TERMINATED, leave_at_sigterm
from cdc_bridge.cli.command import ReaderGone, complain, say
from cdc_bridge.client import Message, Wanted, messages

DEFAULT_URL = "ws://127.0.0.1:8765/websocket"

_STYLES = {"create": "green", "update": "yellow", "delete": "red", "init": "cyan"}


class Event(enum.StrEnum):
    """The values of `--event`."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


def listen(
    collection: Annotated[
        str,
        typer.Argument(metavar="COLLECTION", help="The collection, as messages or sales.orders; status lists them."),
    ],
    url: Annotated[str, typer.Option(metavar="URL", help="Where the bridge listens.")] = DEFAULT_URL,
    fields: Annotated[str, typer.Option(metavar="A,B", help="Only these fields, separated by commas.")] = "",
    event: Annotated[Event | None, typer.Option(help="Only changes of this kind.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The server's messages, one a line; the default when piped.")
    ] = False,
) -> None:
    """Subscribe to a collection and print what arrives, until Ctrl-C.

    It connects again by itself and goes on from where it was, or else with the current rows (init).

    \b
    Examples:
      cdc-bridge listen messages
      cdc-bridge listen messages --event create --fields id,text
      cdc-bridge listen messages | jq .data
    """
    leave_at_sigterm(TERMINATED)  # until the loop has its own
    names = [name.strip() for name in fields.split(",") if name.strip()]
    wanted = Wanted(collection, event.value if event else None, {"fields": names} if names else {})
    is_pretty = sys.stdout.isatty() and not as_json
    asyncio.run(_listen(url, wanted, pretty_printer() if is_pretty else lambda message: say(message.text)))


async def _listen(url: str, wanted: Wanted, show: Callable[[Message], None]) -> None:
    """Show what arrives. Raises `typer.Exit` at SIGTERM, and `ReaderGone` when the other end of our stdout closes, be
    there something to write or not.
    """
    loop, task, descriptor = asyncio.get_running_loop(), asyncio.current_task(), sys.stdout.fileno()
    reasons: list[Exception] = []

    def end(reason: Exception) -> None:
        loop.remove_reader(descriptor)
        reasons.append(reason)
        assert task
        task.cancel()

    # An exception from a signal handler would end the loop in the midst of its work, and leave tasks behind.
    loop.add_signal_handler(signal.SIGTERM, end, typer.Exit(TERMINATED))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        # Nothing can be read from the writing end of a pipe, so the only thing to be told of is its end.
        loop.add_reader(descriptor, end, ReaderGone())
    try:
        async with aclosing(messages(url, wanted, notice=complain)) as arriving:
            async for message in arriving:
                show(message)
    except asyncio.CancelledError:
        if reasons:
            raise reasons[0] from None
        raise


def pretty_printer() -> Callable[[Message], None]:
    """Print time, event and row for a terminal, in lines as wide as its window."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)

    def show(message: Message) -> None:
        time = f"{datetime.datetime.now().astimezone():%H:%M:%S}"
        for words in message.describe():
            line = Text.assemble((time, "dim"), "  ", (f"{message.event:<6}", _STYLES.get(message.event, "")), "  ")
            console.print(line.append(words), no_wrap=True, overflow="ellipsis")

    return show
