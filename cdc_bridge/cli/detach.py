"""`cdc-bridge detach`."""

from __future__ import annotations

from typing import Annotated

import typer

from cdc_bridge.cli.options import TABLES_HELP, Config, Dsn, SchemaName, load, refuse_unclear_choice
from cdc_bridge.cli.output import complain, report


def detach(  # noqa: PLR0917 - Typer calls it, by keyword
    tables: Annotated[list[str] | None, typer.Argument(help=TABLES_HELP, show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every table that is attached.")] = False,
    purge: Annotated[
        bool, typer.Option(help="With --all: remove our schema too, so that nothing of us is left.")
    ] = False,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Remove change capture from tables.

    \b
    Examples:
      cdc-bridge detach messages
      cdc-bridge detach --all --purge
    """  # noqa: D301 - the \b is meant
    from cdc_bridge.admin import detach as detaching
    from cdc_bridge.cli.database import connection

    refuse_unclear_choice(tables, every)
    settings = load(config, {"dsn": dsn, "schema": schema_name})
    request = detaching.Request(tuple(tables or ()), all_tables=every, purge=purge)
    with connection(settings, "detach") as conn:
        planned = detaching.plan(conn, request, settings.schema_name)
        detaching.apply(conn, planned, notice=complain)
    report(planned)
