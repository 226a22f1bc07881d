"""`cdc-bridge attach`, `upgrade` and `detach`, and `sql`, which prints what they install."""

from typing import Annotated

import psycopg
import typer

from cdc_bridge import statements
from cdc_bridge.admin import attach as attaching
from cdc_bridge.admin import detach as detaching
from cdc_bridge.admin import migrations
from cdc_bridge.admin.mode import Mode, Notify
from cdc_bridge.admin.plan import Plan, apply
from cdc_bridge.admin.roles import OWNER, RUNTIME, RoleNames
from cdc_bridge.admin.roles import script as role_script
from cdc_bridge.cli.command import (
    Config,
    Dsn,
    SchemaName,
    Tables,
    complain,
    connection,
    load,
    note,
    progress,
    say,
    say_lines,
)
from cdc_bridge.logs import printable
from cdc_bridge.model.errors import UsageError

_MODE = (
    "durable: changes are kept in a log in the database. live: they are only notified. By default attached tables"
    " keep their mode, and new ones are durable."
)
_NOTIFY = (
    "For the whole database; no table needs to be named. auto: writers may notify. off: nothing notifies, for two-phase"
    " commit; every table has to be durable. The choice is recorded in the database.  [auto]"
)
_SCHEMA = "With --all: the schema whose tables to attach; may be repeated."
_PLAN = "Print the SQL and its locks, and change nothing."
_PUBLISH = (
    "Attach although a publication FOR ALL TABLES will send cdc_bridge's tables too: its subscribers have them already."
)
_EXCLUDED = "A column that never leaves its table, now and later; may be repeated."


def attach(
    tables: Tables = None,
    every: Annotated[bool, typer.Option("--all", help="Every table of public, or of --schema.")] = False,
    schema: Annotated[list[str] | None, typer.Option(metavar="NAME", help=_SCHEMA)] = None,
    exclude_column: Annotated[list[str] | None, typer.Option(metavar="TABLE.COLUMN", help=_EXCLUDED)] = None,
    plan: Annotated[bool, typer.Option(help=_PLAN)] = False,
    mode: Annotated[Mode | None, typer.Option(help=_MODE, show_default=False)] = None,
    notify: Annotated[Notify | None, typer.Option(help=_NOTIFY, show_default=False)] = None,
    publish: Annotated[bool, typer.Option("--publish", help=_PUBLISH)] = False,
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
    """
    all_of = tuple(schema or ("public",)) if every else ()
    request = attaching.Request(tuple(tables or ()), all_of, tuple(exclude_column or ()), mode, notify, publish)
    if schema and not every:
        raise UsageError("--schema says which tables --all means: add --all, or write the tables as schema.table")
    with connection("attach", dsn, schema_name, config) as (conn, settings):
        planned = attaching.plan(conn, request, settings.schema_name)
        if plan:
            say(str(planned))
            return
        _carry_out(conn, planned, "attaching")
    _report(planned)


def upgrade(
    plan: Annotated[bool, typer.Option(help=_PLAN)] = False,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Bring the SQL in the database to the version of this program.

    It attaches nothing, and repeating it changes nothing. Bridges and writers go on meanwhile: those of one version
    before work with the new SQL, and this program works with the SQL of one version before.

    \b
    Examples:
      cdc-bridge upgrade --plan
      cdc-bridge upgrade
    """
    with connection("upgrade", dsn, schema_name, config) as (conn, settings):
        planned = migrations.plan_upgrade(conn, settings.schema_name)
        if plan:
            say(str(planned))
            return
        _carry_out(conn, planned, "upgrading")
    _report(planned)


def detach(
    tables: Tables = None,
    every: Annotated[bool, typer.Option("--all", help="Every table that is attached.")] = False,
    purge: Annotated[
        bool, typer.Option(help="With --all: remove the schema of cdc_bridge too, so that nothing is left.")
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
    """
    request = detaching.Request(tuple(tables or ()), all_tables=every, purge=purge)
    with connection("detach", dsn, schema_name, config) as (conn, settings):
        planned = detaching.plan(conn, request, settings.schema_name)
        _carry_out(conn, planned, "detaching")
    _report(planned)


def _carry_out(conn: psycopg.Connection, planned: Plan, label: str) -> None:
    with progress(label, len(planned.tasks)) as tick:
        apply(conn, planned, notice=complain, tick=tick)


def _report(done: Plan) -> None:
    """Print what was done."""
    for sentence in done.notes:
        note(printable(sentence))
    say_lines([task.title for task in done.tasks] or ["Nothing to do."])


def sql(
    roles: Annotated[
        bool, typer.Option("--roles", help="Instead, the SQL that makes two roles: one that attaches, one that serves.")
    ] = False,
    owner_role: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"With --roles: the role that attaches, and owns the schema.  [{OWNER}]"),
    ] = None,
    runtime_role: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"With --roles: the role that serves, and can do no more.  [{RUNTIME}]"),
    ] = None,
    reads_as: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --roles: a role that clients can have; may be repeated."),
    ] = None,
    guard: Annotated[
        bool, typer.Option(help="With --roles: forbid casts to json by functions of roles that are no superusers.")
    ] = True,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Print the SQL that attach installs, for migrations of your own.

    It makes the schema with its change log and functions, and changes no table of yours; attach does that.
    With --roles it makes the roles that attach and serve connect as, see docs/topics/roles.md.

    \b
    Examples:
      cdc-bridge sql > migrations/0042_cdc_bridge.sql
      cdc-bridge sql --roles --reads-as anon --reads-as authenticated | psql -v ON_ERROR_STOP=1 database
    """
    schema = load(config, {"schema": schema_name}).schema_name
    if roles:
        names = RoleNames(owner_role or OWNER, runtime_role or RUNTIME, tuple(reads_as or ()))
        say(role_script(names, schema, guard=guard).rstrip())
        return
    if owner_role or runtime_role or reads_as:
        raise UsageError("--owner-role, --runtime-role and --reads-as name roles: add --roles")
    say(statements.script(schema).rstrip())
