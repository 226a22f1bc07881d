"""`cdc-bridge sql`."""

from __future__ import annotations

from typing import Annotated

import typer

from cdc_bridge.cli.options import Config, SchemaName, load
from cdc_bridge.cli.output import say
from cdc_bridge.model.errors import UsageError


def sql(  # noqa: PLR0917 - Typer calls it, by keyword
    roles: Annotated[
        bool, typer.Option("--roles", help="Instead, the SQL that makes two roles: one that attaches, one that serves.")
    ] = False,
    owner_role: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --roles: who attaches, and owns our schema.  [cdc_owner]"),
    ] = None,
    runtime_role: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --roles: who serves, and can do no more.  [cdc_bridge]")
    ] = None,
    reads_as: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --roles: a role that clients can have; may be repeated."),
    ] = None,
    guard: Annotated[
        bool, typer.Option(help="With --roles: forbid casts to json of which others than superusers are the makers.")
    ] = True,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Print our SQL, for those who install it by their own migrations.

    It makes the schema with its change log and functions, and changes no table of yours; attach does that.
    With --roles it makes the roles that attach and serve connect as, see docs/topics/roles.md.

    \b
    Examples:
      cdc-bridge sql > migrations/0042_cdc_bridge.sql
      cdc-bridge sql --roles --reads-as anon --reads-as authenticated | psql -1 database
    """  # noqa: D301 - the \b is meant
    from cdc_bridge import statements
    from cdc_bridge.admin.roles import RoleNames, script

    schema = load(config, {"schema": schema_name}).schema_name
    if roles:
        named = {"owner": owner_role, "runtime": runtime_role}
        wanted = RoleNames(**{part: name for part, name in named.items() if name}, reads_as=tuple(reads_as or ()))
        say(script(wanted, schema, guard=guard).rstrip())
        return
    if owner_role or runtime_role or reads_as:
        raise UsageError("--owner-role, --runtime-role and --reads-as name roles: add --roles")
    say(statements.script(schema).rstrip())
