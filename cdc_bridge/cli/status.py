"""`cdc-bridge status`, and `prune`, which forgets old changes of the log."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdc_bridge.cli.options import Config, Dsn, SchemaName, load
from cdc_bridge.cli.output import age, say, size
from cdc_bridge.model.errors import LockNotAcquired, NotInstalled

if TYPE_CHECKING:
    from cdc_bridge.admin.retention import Log, Pruned
    from cdc_bridge.admin.status import AttachedTable, Listener, Status


_BEGIN = "Begin with: cdc-bridge attach --all"


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs; docs/cli.md has the members.")] = False,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Show what is attached, how, what the change log holds, and who listens.

    \b
    Example:
      cdc-bridge status --json
    """  # noqa: D301 - the \b is meant
    from cdc_bridge.admin.status import read_status
    from cdc_bridge.cli.database import connection
    from cdc_bridge.statements import VERSION

    settings = load(config, {"dsn": dsn, "schema": schema_name})
    with connection(settings, "status") as conn:
        found = None
        with contextlib.suppress(NotInstalled):
            by_itself = not (settings.roles or settings.anon_role)
            found = read_status(conn, settings.schema_name, settings.collections, reads_by_itself=by_itself)
    if as_json:
        say(json.dumps(as_members(found, settings.schema_name, VERSION), ensure_ascii=False, indent=2))
    else:
        say("\n".join(_lines(found, settings.schema_name, VERSION)))


def as_members(found: Status | None, schema: str, newest: int) -> dict[str, Any]:
    """Return what `--json` prints. Later releases add members, and never rename or remove one."""
    return {
        "schema": schema,
        "installed": found is not None,
        "version": found.version if found else None,
        "newest_version": newest,
        "tables": [_table(table) for table in found.tables] if found else [],
        "notify": found.notify.value if found and found.notify else None,
        "log": _log(found.log) if found and found.log else None,
        "listeners": [_listener(listener) for listener in found.listeners] if found else [],
        "problems": list(found.problems) if found else [],
    }


def _table(table: AttachedTable) -> dict[str, Any]:
    return {
        "schema": table.relation.schema,
        "name": table.relation.name,
        "collection": table.collection,
        "mode": table.mode.value,
        "captured_for_each": table.level.value.lower(),
        "excluded_columns": list(table.excluded),
        "partitions": table.partitions,
        "problems": list(table.problems),
    }


def _log(log: Log) -> dict[str, Any]:
    return {
        "size_bytes": log.size_bytes,
        "oldest_age_s": log.oldest_age_s,
        "segments_used": log.used,
        "gate_open": log.is_gate_open,
        "full": log.is_full,
    }


def _listener(listener: Listener) -> dict[str, Any]:
    return {
        "pid": listener.pid,
        "application_name": listener.application_name,
        "client_address": listener.client_address,
        "since": listener.since.isoformat() if listener.since else None,
    }


def _lines(found: Status | None, schema: str, newest: int) -> Iterator[str]:
    if found is None:
        yield f'Nothing is attached: there is no schema "{schema}" in this database. {_BEGIN}'
        return
    yield f'Schema "{schema}", version {found.version or "unknown"} of our SQL (this program has {newest})'
    yield f"Attached: {len(found.tables) or f'nothing. {_BEGIN}'}"
    for table in found.tables:
        yield f"  {table.relation}{_particulars(table)}"
    if found.log:
        yield f"Change log: {_extent(found.log)}"
    if found.notify:
        yield f"Notify: {found.notify}; writers {_gate(found.log)}"
    yield f"Listening bridges: {len(found.listeners)}"
    for listener in found.listeners:
        yield f"  {_whereabouts(listener)}"
    problems = [*found.problems, *(problem for table in found.tables for problem in table.problems)]
    yield f"Problems: {len(problems) or 'none'}"
    for problem in problems:
        yield f"  {problem}"


def _particulars(table: AttachedTable) -> str:
    parts = [f"collection {table.collection}", table.mode, f"captured for each {table.level.value.lower()}"]
    if table.partitions:
        parts.append(f"partitions: {table.partitions}")
    if table.excluded:
        parts.append(f"without {', '.join(table.excluded)}")
    return f"  ({'; '.join(parts)})"


def _extent(log: Log) -> str:
    if log.oldest_age_s is None:
        return "empty"
    return f"{size(log.size_bytes)} in {log.used} of 8 segments, the oldest change {age(log.oldest_age_s)} old"


def _gate(log: Log | None) -> str:
    return "notify now (the gate is open)" if log and log.is_gate_open else "do not notify now (the gate is shut)"


def _whereabouts(listener: Listener) -> str:
    address = listener.client_address or "this machine"
    since = f" since {listener.since:%Y-%m-%d %H:%M:%S %Z}" if listener.since else ""
    return f"process {listener.pid} from {address}{since}"


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
    """Forget old changes of the change log, as a running bridge does by itself.

    For cron, where bridges do not run all the time. It ends with 4 if a part of the log stayed locked.

    \b
    Example:
      cdc-bridge prune --older-than 3600
    """  # noqa: D301 - the \b is meant
    from cdc_bridge.admin import retention
    from cdc_bridge.cli.database import connection

    settings = load(config, {"dsn": dsn, "schema": schema_name})
    with connection(settings, "prune") as conn:
        done = retention.prune(
            conn,
            settings.schema_name,
            settings.retention_age_s if older_than is None else older_than,
            settings.retention_bytes if keep_bytes is None else keep_bytes,
        )
        holders = retention.holders(conn, settings.schema_name, done.locked)
    _report(done)
    if done.locked:
        numbers = ", ".join(map(str, sorted(done.locked)))
        raise LockNotAcquired(
            f"forget segment {numbers} of the change log", None, retention.LOCK_TIMEOUT_MS / 1000, holders
        )


def _report(done: Pruned) -> None:
    for each in done.forgotten:
        newest = f", the newest change {age(each.newest_age_s)} old" if each.newest_age_s is not None else ""
        say(f"forgot segment {each.number}: {size(each.size_bytes)}{newest}")
    if done.advanced:
        say("writers go on to the next segment")
    if done.is_somebody_else_pruning:
        say("Nothing to do: somebody else is pruning.")
    elif not (done.forgotten or done.advanced or done.locked):
        say("Nothing to do.")
