"""Our SQL: the files of the top-level folder `sql/`, with the name of our schema put in.

Migrations run once each, in the order of their numbers. Functions are replaced whole, each time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from psycopg import sql

from cdc_bridge.model.errors import UsageError

VERSION = 3
"""The version that these files install: what `cdc.version()` answers afterwards."""

_OPENING_COMMENT = re.compile(r"\A(?:--.*\n)+")
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def identifier(schema: str) -> sql.Identifier:
    """The name of our schema, which has to be plain: it stands inside of string literals too."""
    if not _SCHEMA_NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise UsageError(
            f"the schema name {schema!r} cannot be used: take small letters, digits and underscores, not pg_..."
        )
    return sql.Identifier(schema)


def statement(name: str, schema: str | None = None, /, **parts: sql.Composable) -> sql.Composed:
    """The file `name` (`queries/catalog`) with our schema, and whatever else it leaves open, filled in.

    Without the comment that it opens with, which is for readers of the file. A statement that leaves nothing open but
    our schema, or not even that, is read and put together once a process.
    """
    return _fill(_template(name), schema, parts) if parts else _whole(name, schema)


def migrations(after: int) -> list[str]:
    """The names of the migrations that a database of version `after` still needs."""
    return [name for name in _names("migrations") if _number(name) > after]


def functions() -> list[str]:
    """The names of all functions' files. PostgreSQL looks into their bodies late, so any order does."""
    return _names("functions")


def granting(schema: str) -> sql.Composed:
    """What gives the recorded runtime role its rights on our schema, see `schema.roles`."""
    return statement("roles/grant", schema, **rights(schema))


def rights(schema: str) -> dict[str, sql.Composable]:
    """The parts that statements about the runtime role have in common."""
    return {"recorded": statement("roles/recorded", schema), "rights": statement("roles/rights", schema)}


def script(schema: str) -> str:
    """All of it, as `psql` runs it on a database that has none of it yet."""
    names = [*migrations(after=0), *functions()]
    head = _fill(read("steps/script_head"), None, {"version": sql.Literal(VERSION)})
    parts = [head, *(_fill(read(name), schema, {}) for name in names), granting(schema)]
    return "\n\n".join([*(part.as_string().strip() for part in parts), "COMMIT;\n"])


def _fill(template: str, schema: str | None, parts: Mapping[str, sql.Composable]) -> sql.Composed:
    ours = {} if schema is None else {"cdc": identifier(schema)}
    # Our own file is as literal as a string in the code.
    return sql.SQL(template).format(**ours, **parts)


@cache
def _whole(name: str, schema: str | None) -> sql.Composed:
    return _fill(_template(name), schema, {})


@cache
def _template(name: str) -> str:
    return _OPENING_COMMENT.sub("", read(name))


@cache
def read(name: str) -> str:
    """The file as it is."""
    return files("cdc_bridge.sql").joinpath(f"{name}.sql").read_text(encoding="utf-8")


@cache
def _names(folder: str) -> list[str]:
    paths = files("cdc_bridge.sql").joinpath(folder).iterdir()
    return sorted(f"{folder}/{path.name.removesuffix('.sql')}" for path in paths if path.name.endswith(".sql"))


def _number(migration: str) -> int:
    return int(migration.partition("/")[2].partition("_")[0])
