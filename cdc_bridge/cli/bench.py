"""`cdc-bridge bench`: what capture would cost the writers of this database."""

import json
from typing import Annotated

import psycopg
import typer

from cdc_bridge.admin.bench import Bench, Measured
from cdc_bridge.cli.command import Config, Dsn, connection, progress, say

_ROWS = "Rows of the statements that write many."


def bench(
    rounds: Annotated[int, typer.Option(min=1, help="How often each kind of write is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long writers of single rows write.")] = 1.0,
    rows: Annotated[int, typer.Option(min=1, help=_ROWS)] = 20_000,
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
        measuring = Bench(conn, lambda: psycopg.connect(settings.conninfo, autocommit=True), rounds, seconds, rows)
        with progress("measuring", measuring.steps) as tick:
            found = measuring.run(tick)
    if as_json:
        say(json.dumps([_members(each) for each in found], indent=2))
    else:
        say("\n".join(map(_line, found)))


def _members(found: Measured) -> dict[str, object]:
    unit = "rows_per_s" if found.is_rate else "seconds"
    return {"what": found.title, "unit": unit, "plain": found.plain, "attached": found.attached, "ratio": found.ratio}


def _line(found: Measured) -> str:
    spread = f"{min(found.ratios):.2f}-{max(found.ratios):.2f}"
    means = "of its speed is left" if found.is_rate else "times as long"
    return f"{found.title:<24} {found.ratio:5.2f} ({spread}) {means}"
