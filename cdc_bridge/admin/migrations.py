"""Our schema in a database: whether it is there, and what would bring it to this version."""

from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from cdc_bridge.model.errors import DatabaseError, NotInstalled, NotOwner
from cdc_bridge.statements import VERSION, Connection, functions, granting, migrations, statement


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


def missing(conn: Connection, schema: str) -> list[sql.Composed]:
    """Return the statements that bring the database to this version, if any. Raises `DatabaseError`.

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
    become = [] if there.is_own else [statement("steps/become", owner=sql.Identifier(there.owner))]
    return [*become, *(statement(name, schema) for name in names), granting(schema)]
