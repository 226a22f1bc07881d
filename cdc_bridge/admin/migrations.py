"""Our schema in a database: whether it is there, and what would bring it to this version."""

from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from cdc_bridge.admin.plan import NO_LOCK, Plan, Step, Task, check_connection, on_schema
from cdc_bridge.admin.roles import lacks
from cdc_bridge.admin.tables import catalog_settings
from cdc_bridge.model.errors import DatabaseError, NotInstalled, NotOwner
from cdc_bridge.statements import (
    VERSION,
    Connection,
    functions,
    granting,
    lock_of,
    migrations,
    purpose,
    statement,
)


@dataclass(frozen=True, slots=True)
class InstalledSchema:
    """`version` is 0 without a schema, and None in a schema without the function that tells it.

    A schema that is not ours has another purpose and only the name in common, as `public` would. `is_owned`: by this
    role, or by one that it is a member of; `is_own`: by this role itself.
    """

    version: int | None
    is_usable: bool = True
    is_owned: bool = True
    is_own: bool = True
    owner: str = ""


def require_ours(conn: Connection, schema: str) -> InstalledSchema:
    """Return what is installed, if anything. Raises `DatabaseError` if the schema is not ours."""
    found = conn.execute(statement("queries/version", schema), {"schema": schema}).fetchone()
    if found is None:
        return InstalledSchema(version=0)
    is_ours, tells_version, is_usable, is_owned, is_own, owner = found
    if not is_ours:
        raise DatabaseError(
            f'the schema "{schema}" is there and is not ours: with --schema-name or CDC_BRIDGE_SCHEMA, name the one'
            " that is, or one that is not there yet"
        )
    version = None
    if tells_version and is_usable:
        with suppress(psycopg.errors.InsufficientPrivilege):
            [version] = conn.execute(statement("queries/call_version", schema)).fetchone() or [None]
    return InstalledSchema(version, is_usable, is_owned, is_own, owner)


def require_installed(conn: Connection, schema: str) -> InstalledSchema:
    """Raises `NotInstalled`, and `DatabaseError` where the schema has another purpose."""
    there = require_ours(conn, schema)
    if there.version == 0:
        raise NotInstalled(schema)
    return there


def plan_upgrade(conn: Connection, schema: str = "cdc") -> Plan:
    """Return what brings our SQL in the database to this version. Raises `NotInstalled`, other `DatabaseError`.

    Tables stay attached as they are. Bridges of the version before, and writers, go on meanwhile and afterwards.
    """
    check_connection(conn)
    with catalog_settings(conn):
        return Plan(schema, tuple(installation(conn, require_installed(conn, schema), schema)))


def installation(conn: Connection, there: InstalledSchema, schema: str) -> list[Task]:
    """Return the task that installs what is missing, or gives the runtime role the rights it lacks."""
    if steps := missing(conn, schema):
        searching = Step(statement("steps/search"), NO_LOCK, "names mean PostgreSQL's own")
        name = f'install version {VERSION} in the schema "{schema}"'
        # The session that we waited for may have done it.
        return [on_schema(name, schema, [searching, *steps], is_needed=lambda conn: bool(missing(conn, schema)))]
    if there.is_owned and (lacking := lacks(conn, schema)):
        giving = Step(granting(schema), NO_LOCK, "exactly what serving needs")
        return [on_schema(f'give the role "{lacking[0].role}" its rights on the schema "{schema}"', schema, [giving])]
    return []


def missing(conn: Connection, schema: str) -> list[Step]:
    """Return the steps that bring the database to this version, if any. Raises `DatabaseError`.

    All of it belongs to one role, also after an upgrade by another one: what our triggers call runs with its rights.
    """
    there = require_ours(conn, schema)
    if there.version == VERSION:
        return []
    if not there.is_usable or (there.version != 0 and not there.is_owned):
        raise NotOwner(f'the schema "{schema}"', there.owner)
    if there.version is None:
        raise DatabaseError(
            f'of the schema "{schema}" only a part is left: remove that with cdc-bridge detach --all --purge,'
            " or choose another with --schema-name"
        )
    if there.version > VERSION:
        raise DatabaseError(
            f'the schema "{schema}" has version {there.version} of our SQL and this program brings version {VERSION}:'
            " use a newer cdc-bridge"
        )
    names = [*migrations(after=there.version), *functions()]
    steps = [
        Step(
            statement(name, schema), lock_of(name) or NO_LOCK, f"version {VERSION} of our SQL, {name}: {purpose(name)}"
        )
        for name in names
    ]
    if not there.is_own:
        owner = sql.Identifier(there.owner)
        steps.insert(0, Step(statement("steps/become", owner=owner), NO_LOCK, "all of it belongs to one role"))
    return [*steps, Step(granting(schema), NO_LOCK, "exactly what serving needs")]
