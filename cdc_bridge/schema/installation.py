"""Our schema in a database: whether it is there, and what would bring it to this version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from cdc_bridge.errors import DatabaseError, NotInstalled, NotOwner
from cdc_bridge.statements import VERSION, functions, migrations, statement


@dataclass(frozen=True, slots=True)
class Installation:
    """`version` is 0 without a schema, and None in a schema without the function that tells it."""

    version: int | None
    is_usable: bool = True
    is_owned: bool = True
    owner: str = ""


def read_installation(conn: psycopg.Connection[Any], schema: str) -> Installation:
    found = conn.execute(statement("queries/version", schema), {"schema": schema}).fetchone()
    if found is None:
        return Installation(version=0)
    tells_version, is_usable, is_owned, owner = found
    return Installation(_version(conn, schema) if tells_version and is_usable else None, is_usable, is_owned, owner)


def require_installed(conn: psycopg.Connection[Any], schema: str) -> Installation:
    """Raises `NotInstalled`."""
    installation = read_installation(conn, schema)
    if installation.version == 0:
        raise NotInstalled(schema)
    return installation


def missing(conn: psycopg.Connection[Any], schema: str) -> list[sql.Composed]:
    """The statements that bring the database to this version; none when it is there. Raises `DatabaseError`."""
    there = read_installation(conn, schema)
    if there.version == VERSION:
        return []
    _refuse(there, schema)
    names = [*migrations(after=there.version or 0), *functions()]
    return [statement(name, schema) for name in names]


def _refuse(there: Installation, schema: str) -> None:
    if not there.is_usable or (there.version != 0 and not there.is_owned):
        raise NotOwner(f'the schema "{schema}"', there.owner)
    if there.version is None:
        raise DatabaseError(
            f'the schema "{schema}" is not ours, or only a part of it is left: choose another with --schema-name,'
            " or remove what is left with cdc-bridge detach --all --purge"
        )
    if there.version > VERSION:
        raise DatabaseError(
            f'the schema "{schema}" has version {there.version} of our SQL and this program brings version {VERSION}:'
            " use a newer cdc-bridge"
        )


def _version(conn: psycopg.Connection[Any], schema: str) -> int | None:
    try:
        found = conn.execute(statement("queries/call_version", schema)).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return int(found[0]) if found else None
