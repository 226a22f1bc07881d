"""`cdc-bridge top`: what happens now, in the database and in bridges."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdc_bridge.admin.activity import WRITES, Rates, Sample, rates, read_sample
from cdc_bridge.admin.migrations import require_installed
from cdc_bridge.admin.tables import catalog_settings
from cdc_bridge.cli.command import Config, Dsn, SchemaName, connection, say
from cdc_bridge.cli.maintain import age, size
from cdc_bridge.cli.scrape import scrape, summary
from cdc_bridge.logs import printable
from cdc_bridge.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

SHOWN_MAX = 10
"""The lines of a list on the screen. `--json` has all."""


def top(
    url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Where a bridge answers; may be repeated.  [host and port of the settings]"),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.1, max=86_400, metavar="SECONDS", help="The time between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one interval and end, as when piped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line; docs/cli.md has the members.")] = False,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Show what happens now, until Ctrl-C.

    Writes, the change log, the gate, bridges and how late they are: by statistics of the database, and by /metrics of
    bridges that can be reached.

    \b
    Examples:
      cdc-bridge top
      cdc-bridge top --once --json
    """
    with connection("top", dsn, schema_name, config) as (conn, settings), catalog_settings(conn):
        require_installed(conn, settings.schema_name)
        looks = _looks(lambda: read_sample(conn, settings.schema_name, settings.collections), url, settings, interval)
        if as_json:
            for members in looks:
                say(json.dumps(members, ensure_ascii=False))
                if once:
                    return
        elif once or not sys.stdout.isatty():
            _print(next(looks))
        else:
            _show(looks)


def _looks(look: Any, urls: Sequence[str] | None, settings: Settings, interval_s: float) -> Iterator[dict[str, Any]]:
    """Yield the members of `--json` for each interval."""
    scheme = "https" if settings.tls_certificate else "http"
    asked = urls or [f"{scheme}://{settings.host}:{settings.port}"]
    before, scraped = look(), list(map(scrape, asked))
    while True:
        time.sleep(interval_s)
        after, scraped_after = look(), list(map(scrape, asked))
        found = list(map(summary, scraped, scraped_after))
        yield _members(after, rates(before, after), found)
        before, scraped = after, scraped_after


def _members(now: Sample, gained: Rates, bridges: Sequence[dict[str, Any]]) -> dict[str, Any]:
    log = now.log
    return {
        "at": now.at_s,
        "interval_s": gained.interval_s,
        "writes": [
            {"collection": name, **{f"{kind}_per_s": each for kind, each in zip(WRITES, counts, strict=True)}}
            for name, counts in gained.writes
        ],
        "log": {
            "rows_per_s": gained.logged,
            "size_bytes": log and log.size_bytes,
            "oldest_age_s": log and log.oldest_age_s,
            "segments_used": log and log.used,
            "full": log and log.is_full,
        },
        "gate_open": log and log.is_gate_open,
        "notify": now.notify,
        "notification_queue_usage": now.queue_usage,
        "new_gaps": gained.new_gaps,
        "gaps": now.gaps,
        "oldest_write_s": now.oldest_write_s,
        "sees_all_transactions": now.sees_all,
        "bridges": [
            {"pid": each.pid, "version": each.version, "behind_s": each.behind_s, "silent_s": each.silent_s}
            for each in now.bridges
        ],
        "metrics": list(bridges),
    }


# --- on a terminal ---


def _print(members: dict[str, Any]) -> None:
    from rich.console import Console

    Console(highlight=False).print(_view(members))


def _show(looks: Iterator[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        live.update("The first figures come in a moment.", refresh=True)
        for members in looks:
            live.update(_view(members), refresh=True)


def _view(members: dict[str, Any]) -> "RenderableType":
    from rich.console import Group

    return Group(
        _facts("database", _database(members)),
        _table("rows written a second", ["collection", *WRITES], _writes(members)),
        _table("bridges", ["process", "version", "behind", "silent"], _bridges(members)),
        *(part for each in members["metrics"] for part in bridge_view(each)),
    )


def _database(members: dict[str, Any]) -> Iterator[tuple[str, str]]:
    log = members["log"]
    yield "log", f"{log['rows_per_s']:,.0f} rows/s"
    if log["size_bytes"] is None:
        yield "size", "this role may not read it"
    else:
        oldest = "" if log["oldest_age_s"] is None else f", {age(log['oldest_age_s'])} back"
        yield "size", f"{size(log['size_bytes'])} in {log['segments_used']} of 8 segments{oldest}"
        yield (
            "gate",
            ("open: writers notify" if members["gate_open"] else "shut")
            + ("; NOTHING IS WRITTEN TO THE LOG" if log["full"] else ""),
        )
    yield "queue of notifications", f"{members['notification_queue_usage']:.0%} full"
    yield "gaps", f"{members['gaps']} ({members['new_gaps']} new)"
    oldest_write = "none" if members["oldest_write_s"] is None else age(members["oldest_write_s"])
    seen = "" if members["sees_all_transactions"] else " (others' are hidden from this role)"
    yield "oldest transaction that writes", f"{oldest_write}{seen}"


def _writes(members: dict[str, Any]) -> Iterator[list[str]]:
    for each in members["writes"][:SHOWN_MAX]:
        yield [each["collection"], *(f"{each[f'{kind}_per_s']:,.1f}" for kind in WRITES)]


def _bridges(members: dict[str, Any]) -> Iterator[list[str]]:
    for each in members["bridges"][:SHOWN_MAX]:
        silent = "unknown" if each["silent_s"] is None else f"{each['silent_s']:.1f} s"
        yield [str(each["pid"]), each["version"], f"{each['behind_s']} s", silent]


def bridge_view(found: dict[str, Any]) -> Iterator["RenderableType"]:
    if found["problem"]:
        yield _facts(found["url"], [("", found["problem"])])
        return
    yield _facts(
        found["url"],
        [
            ("ready", _ready(found)),
            ("changes", f"{found['changes_per_s']:,.1f}/s"),
            ("deliveries", f"{found['deliveries_per_s']:,.1f}/s, {size(found['sent_bytes_per_s'])}/s"),
            ("clients", f"{found['connections']:,.0f}, {found['subscriptions']:,.0f} subscriptions"),
            ("topics", f"{found['topics']:,.0f}, {size(found['backlog_bytes'])} kept for clients that lag"),
            ("oldest undelivered", f"{found['oldest_undelivered_s']:.3f} s"),
            ("new", f"{found['new_gaps']:.0f} gaps, {found['new_resyncs']:.0f} resyncs"),
            ("too slow, closed", f"{found['closed_as_slow']:.0f}"),
        ],
    )
    causes = [[each["cause"], _bound(each["p50_s"]), _bound(each["p99_s"])] for each in found["lag"]]
    if trip := found["round_trip"]:
        causes.append(["round trip to clients", _bound(trip["p50_s"]), _bound(trip["p99_s"])])
    if causes:
        yield _table("lag by cause, at most", ["cause", "half", "99 %"], causes)
    late = [
        [each["collection"], f"{each['late']} of {each['subscribers']}", size(each["waiting_bytes"]), _late(each)]
        for each in found["late_topics"]
    ]
    if late:
        yield _table("topics with clients that lag", ["collection", "clients", "waiting", "oldest"], late)
    policies = [[each["collection"], each["policy"], f"{each['busy']:.1%}"] for each in found["policies"][:SHOWN_MAX]]
    if policies:
        yield _table("policies that PostgreSQL evaluates", ["collection", "policy", "of the time"], policies)


def _ready(found: dict[str, Any]) -> str:
    return "yes" if found["ready"] else "; ".join(found["reasons"]) or "unknown"


def _late(topic: dict[str, Any]) -> str:
    return "unknown" if topic["oldest_age_s"] is None else f"{topic['oldest_age_s']:.1f} s"


def _bound(seconds: float | None) -> str:
    return "more" if seconds is None else f"{1000 * seconds:g} ms"


def _facts(title: str, facts: Any) -> "Table":
    return _table(title, ["", ""], ([name, words] for name, words in facts))


def _table(title: str, columns: Sequence[str], rows: Any) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), style="bold"), title_justify="left", show_header=any(columns), box=None)
    for position, column in enumerate(columns):
        table.add_column(
            column, justify="right" if position and any(columns) else "left", style="" if position else "cyan"
        )
    for row in rows:
        table.add_row(*(Text(printable(each)) for each in row))
    return table
