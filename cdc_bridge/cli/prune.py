"""`cdc-bridge prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cdc_bridge.cli.options import Config, Dsn, SchemaName, load
from cdc_bridge.cli.output import age, say, size
from cdc_bridge.model.errors import LockNotAcquired

if TYPE_CHECKING:
    from cdc_bridge.admin.retention import Pruned


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
