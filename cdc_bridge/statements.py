"""Our SQL: the files of the top-level folder `sql/`, with the name of our schema put in.

A file holds one statement or function, under its own name, or several short ones, each under a line `-- name: NAME`.
Migrations run once each, in the order of their numbers. Functions are replaced whole, each time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Generic, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import BaseRowFactory

from cdc_bridge.model.errors import UsageError

VERSION = 4
"""The version that these files install: what `cdc.version()` answers afterwards."""

T = TypeVar("T")

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_OPENING_COMMENT = re.compile(r"\A(?:--.*\n)+")
_FIRST_SENTENCE = re.compile(r"(?s)\A(.+?)\.(?:\s|\Z)")
_LOCK_LINE = re.compile(r"^-- Lock: (.+)\.$", re.MULTILINE)
_NAME_LINE = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def identifier(schema: str) -> sql.Identifier:
    """Return the name of our schema, which has to be plain, since it stands in string literals too."""
    if not _SCHEMA_NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise UsageError(
            f"the schema name {schema!r} cannot be used: take small letters, digits and underscores, not pg_..."
        )
    return sql.Identifier(schema)


def statement(name: str, schema: str | None = None, /, **parts: sql.Composable) -> sql.Composed:
    """Return the statement `name` (`queries/catalog`) with our schema, and the other `parts` it leaves open, filled in.

    The comment that it opens with is left out: it is for readers of the file. A statement without other parts is put
    together once a process.
    """
    return _fill(_template(name), schema, parts) if parts else _whole(name, schema)


@dataclass(frozen=True, slots=True)
class TypedQuery(Generic[T]):
    """A query whose rows are read as values, for connections of both kinds."""

    statement: sql.Composed
    parameters: Mapping[str, Any]
    row_factory: BaseRowFactory[T]

    def all(self, conn: Connection) -> list[T]:
        with conn.cursor(row_factory=self.row_factory) as cursor:
            return cursor.execute(self.statement, self.parameters).fetchall()

    async def all_async(self, conn: AsyncConnection[Any]) -> list[T]:
        async with conn.cursor(row_factory=self.row_factory) as cursor:
            await cursor.execute(self.statement, self.parameters)
            return await cursor.fetchall()


def migrations(after: int) -> list[str]:
    """Return the names of the migrations that a database of version `after` still needs."""
    return [name for name in names("migrations") if int(name[len("migrations/") :].partition("_")[0]) > after]


def functions() -> list[str]:
    """Return the names of all functions. PostgreSQL looks into their bodies late, so any order does."""
    return names("functions")


def purpose(name: str) -> str:
    """Return what a file is for: the first sentence of its opening comment."""
    opening = _OPENING_COMMENT.match(read(name))
    words = " ".join(opening[0].replace("--", "").split()) if opening else name
    sentence = _FIRST_SENTENCE.match(words)
    return sentence[1] if sentence else words


def lock_of(name: str) -> str | None:
    """Return the lock that a migration takes on tables which are there already, as its comment says."""
    found = _LOCK_LINE.search(read(name))
    return found[1] if found else None


def granting(schema: str) -> sql.Composed:
    """Return what gives the recorded runtime role its rights on our schema, see `admin.roles`."""
    return statement("roles/grant", schema, **rights(schema))


def rights(schema: str) -> dict[str, sql.Composable]:
    """Return the parts that statements about the runtime role have in common."""
    return {"recorded": statement("roles/recorded", schema), "rights": statement("roles/rights", schema)}


def script(schema: str) -> str:
    """Return the script by which `psql` installs everything on a database that has none of it yet."""
    wanted = [*migrations(after=0), *functions()]
    head = _fill(read("steps/script_head"), None, {"version": sql.Literal(VERSION)})
    parts = [head, *(_fill(read(name), schema, {}) for name in wanted), granting(schema)]
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
    """Return a statement, or the file of that name, as it stands there."""
    folder, _, own_name = name.partition("/")
    return _folder(folder)[own_name]


def names(folder: str) -> list[str]:
    """Return the names of all statements of one folder of `sql/`."""
    return sorted(f"{folder}/{name}" for name in _folder(folder))


@cache
def _folder(folder: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files("cdc_bridge.sql").joinpath(folder).iterdir():
        if path.name.endswith(".sql"):
            text = path.read_text(encoding="utf-8")
            before, *named = _NAME_LINE.split(text)
            whole = {path.name.removesuffix(".sql"): before} if not named else {}
            found |= whole | {name: body.strip() + "\n" for name, body in zip(named[::2], named[1::2], strict=True)}
    return found
