"""`cdc-bridge attach`."""

from __future__ import annotations

from typing import Annotated

import typer

from cdc_bridge.admin.mode import Mode, Notify
from cdc_bridge.cli.options import TABLES_HELP, Config, Dsn, SchemaName, load, refuse_unclear_choice
from cdc_bridge.cli.output import complain, report, say
from cdc_bridge.model.errors import UsageError


def attach(  # noqa: PLR0917 - Typer calls it, by keyword
    tables: Annotated[list[str] | None, typer.Argument(help=TABLES_HELP, show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every table of public, or of --schema.")] = False,
    schema: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --all: the schema whose tables to attach; may be repeated."),
    ] = None,
    exclude_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE.COLUMN", help="A column that never leaves its table, now and later; may be repeated."
        ),
    ] = None,
    plan: Annotated[bool, typer.Option(help="Print the SQL and its locks, and change nothing.")] = False,
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="durable: by a log of changes in the database. live: at once, and kept nowhere. Without it attached"
            " tables keep theirs, and new ones are durable.",
            show_default=False,
        ),
    ] = None,
    notify: Annotated[
        Notify | None,
        typer.Option(
            help="For the whole database, and it needs no tables beside it. auto: writers may notify. off: nothing ever"
            " does, for two-phase commit; every table has to be durable. Recorded, until it is said otherwise.  [auto]",
            show_default=False,
        ),
    ] = None,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Install change capture on tables.

    Repeating it changes nothing. It waits for no lock for long, so it never holds up the application.

    \b
    Examples:
      cdc-bridge attach messages sales.orders
      cdc-bridge attach --all --exclude-column users.password_hash
      cdc-bridge attach --notify off
      cdc-bridge attach --all --mode durable --notify off
      cdc-bridge attach --all --plan
    """  # noqa: D301 - the \b is meant
    from cdc_bridge.admin import attach as attaching
    from cdc_bridge.cli.database import connection

    if notify is None or tables or every or mode or exclude_column:
        refuse_unclear_choice(tables, every)
    if schema and not every:
        raise UsageError("--schema says which tables --all means: add --all, or write the tables as schema.table")
    settings = load(config, {"dsn": dsn, "schema": schema_name})
    request = attaching.Request(
        tables=tuple(tables or ()),
        all_of_schemas=tuple(schema or ("public",)) if every else (),
        excluded=tuple(exclude_column or ()),
        mode=mode,
        notify=notify,
    )
    with connection(settings, "attach") as conn:
        planned = attaching.plan(conn, request, settings.schema_name)
        if plan:
            say(str(planned))
            return
        attaching.apply(conn, planned, notice=complain)
    report(planned)
