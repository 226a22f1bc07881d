"""`cdc-bridge bench`: what capture would cost the writers of this database."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Annotated

import psycopg
import typer

from cdc_bridge.admin.bench import Bench, Measured
from cdc_bridge.cli.command import Config, Dsn, connection, note, progress, say

_ROWS = "Rows of the statements that write many."


def bench(
    rounds: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="How often each kind of write is measured.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.1, metavar="NUMBER", help="How long writers of single rows write.")
    ] = 1.0,
    rows: Annotated[int, typer.Option(min=1, metavar="NUMBER", help=_ROWS)] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; docs/cli.md has the members.")] = False,
    dsn: Dsn = None,
    config: Config = None,
) -> None:
    """Measure what capture costs writers, before you decide.

    It writes to two tables of its own, one of them attached, in the schemas cdc_bench and cdc_bench_log, and removes
    them again. It needs the right to create schemas. Expect load on the database for half a minute.

    \b
    Example:
      cdc-bridge bench --dsn postgresql://user@host/database
    """
    with connection("bench", dsn, None, config) as (conn, settings):
        connect = partial(psycopg.connect, settings.conninfo, autocommit=True)
        measuring = Bench(conn, connect, rounds, seconds, rows, _removing)
        with progress("measuring", measuring.steps) as tick:
            found = measuring.run(tick)
    if as_json:
        say(json.dumps([_members(each) for each in found], indent=2))
    else:
        say("\n".join(map(_line, found)))


@contextmanager
def _removing() -> Iterator[None]:
    """Ignore a Ctrl-C, and say so. The next one ends the removal."""

    def ignore(number: int, frame: FrameType | None) -> None:
        del number, frame
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note("\nremoving the schemas of the measurement; another Ctrl-C leaves them behind, for the next run to remove")

    before = signal.signal(signal.SIGINT, ignore)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _members(found: Measured) -> dict[str, object]:
    unit = "rows_per_s" if found.is_rate else "seconds"
    return {"what": found.title, "unit": unit, "plain": found.plain, "attached": found.attached, "ratio": found.ratio}


def _line(found: Measured) -> str:
    spread = f"{min(found.ratios):.2f}-{max(found.ratios):.2f}"
    means = "of its speed is left" if found.is_rate else "times as long"
    return f"{found.title:<24} {found.ratio:5.2f} ({spread}) {means}"
