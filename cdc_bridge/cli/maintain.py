"""`cdc-bridge status`, and `prune`, which forgets old changes of the log."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from cdc_bridge.admin import retention
from cdc_bridge.admin.retention import Pruned
from cdc_bridge.admin.status import AttachedTable, Status, read_status
from cdc_bridge.cli.command import Config, Dsn, SchemaName, connection, progress, say, say_lines
from cdc_bridge.model.errors import LockNotAcquired, NotInstalled
from cdc_bridge.statements import VERSION

_BEGIN = "Begin with: cdc-bridge attach --all"


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs; docs/cli.md has the members.")] = False,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Show what is attached, what the log holds, and who listens.

    \b
    Example:
      cdc-bridge status --json
    """
    found = None
    with connection("status", dsn, schema_name, config) as (conn, settings), contextlib.suppress(NotInstalled):
        by_itself = not (settings.roles or settings.anon_role)
        found = read_status(conn, settings.schema_name, settings.collections, reads_by_itself=by_itself)
    if as_json:
        members = as_members(found, settings.schema_name, VERSION)
        say(json.dumps(members, ensure_ascii=False, indent=2, default=lambda instant: instant.isoformat()))
    else:
        say_lines(_lines(found, settings.schema_name, VERSION))


def as_members(found: Status | None, schema: str, newest: int) -> dict[str, Any]:
    """Return what `--json` prints. Later releases add members, and never rename or remove one."""
    lists: dict[str, Any] = {"tables": [], "listeners": [], "problems": []}
    members = asdict(found) if found else {"notify": None, "log": None} | lists
    if found and found.log:
        members["log"] = {
            "size_bytes": found.log.size_bytes,
            "oldest_age_s": found.log.oldest_age_s,
            "segments_used": found.log.used,
            "gate_open": found.log.is_gate_open,
            "full": found.log.is_full,
        }
    head = {"schema": schema, "installed": found is not None, "version": None, "newest_version": newest}
    return head | members


def _lines(found: Status | None, schema: str, newest: int) -> Iterator[str]:
    if found is None:
        yield f'Nothing is attached: there is no schema "{schema}" in this database. {_BEGIN}'
        return
    yield f'Schema "{schema}", version {found.version or "unknown"} of our SQL (this program has {newest})'
    yield f"Attached: {len(found.tables) or f'nothing. {_BEGIN}'}"
    for table in found.tables:
        yield f"  {table}  ({'; '.join(_particulars(table))})"
    if log := found.log:
        held = f"{size(log.size_bytes)} in {log.used} of 8 segments, the oldest change"
        yield f"Change log: {'empty' if log.oldest_age_s is None else f'{held} {age(log.oldest_age_s)} old'}"
    if found.notify:
        is_open = found.log and found.log.is_gate_open
        now = "notify now (the gate is open)" if is_open else "do not notify now (the gate is shut)"
        yield f"Notify: {found.notify}; writers {now}"
    yield f"Listening bridges: {len(found.listeners)}"
    for listener in found.listeners:
        since = f" since {listener.since:%Y-%m-%d %H:%M:%S %Z}" if listener.since else ""
        yield f"  process {listener.pid} from {listener.client_address or 'this machine'}{since}"
    problems = [*found.problems, *(problem for table in found.tables for problem in table.problems)]
    yield f"Problems: {len(problems) or 'none'}"
    for problem in problems:
        yield f"  {problem}"


def _particulars(table: AttachedTable) -> Iterator[str]:
    yield f"collection {table.collection}"
    yield table.mode
    yield f"captured for each {table.captured_for_each}"
    if table.partitions:
        yield f"partitions: {table.partitions}"
    if table.excluded_columns:
        yield f"without {', '.join(table.excluded_columns)}"


def prune(
    older_than: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Forget what is older; 0: everything.  [retention_age_s]"),
    ] = None,
    keep_bytes: Annotated[
        int | None,
        typer.Option(min=0, metavar="NUMBER", help="Forget the oldest beyond this size.  [retention_bytes]"),
    ] = None,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Forget old changes of the log.

    A running bridge does that by itself; this is for cron, where bridges do not run all the time. It ends with 4 if a
    part of the log stayed locked.

    \b
    Example:
      cdc-bridge prune --older-than 3600
    """
    with connection("prune", dsn, schema_name, config) as (conn, settings):
        with progress("forgetting", retention.RING) as tick:
            done = retention.prune(
                conn,
                settings.schema_name,
                settings.retention_age_s if older_than is None else older_than,
                settings.retention_bytes if keep_bytes is None else keep_bytes,
                tick,
            )
        holders = retention.holders(conn, settings.schema_name, done.locked)
    _report(done)
    if done.locked:
        numbers = ", ".join(map(str, sorted(done.locked)))
        raise LockNotAcquired(f"forget segment {numbers} of the change log", retention.LOCK_TIMEOUT_MS / 1000, holders)


def _report(done: Pruned) -> None:
    for each in done.forgotten:
        newest = f", the newest change {age(each.newest_age_s)} old" if each.newest_age_s is not None else ""
        say(f"forgot segment {each.number}: {size(each.size_bytes)}{newest}")
    if done.advanced:
        say("writers go on to the next segment")
    if done.is_pruned_elsewhere:
        say("Nothing to do: another session is pruning.")
    elif not (done.forgotten or done.advanced or done.locked):
        say("Nothing to do.")


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
