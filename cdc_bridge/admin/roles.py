"""The two roles that keep the rights of bridges small: the owner, which attaches, and the runtime role, as which
bridges connect.

The rights of the runtime role stand in `sql/roles/rights.sql`, and nowhere else. Its name is recorded
with the owner role (`sql/roles/recorded.sql`), so every installation of our schema, or of a newer version, grants
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from cdc_bridge.model.errors import UsageError
from cdc_bridge.statements import granting, read, rights, statement

NAME_BYTES_MAX = 63
_RESERVED = {"public", "none"}


@dataclass(frozen=True, slots=True)
class RoleNames:
    """The names of the roles. `reads_as`: the roles of clients, to which the runtime role switches by SET ROLE."""

    owner: str = "cdc_owner"
    runtime: str = "cdc_bridge"
    reads_as: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `UsageError`."""
        for name in (self.owner, self.runtime, *self.reads_as):
            _check(name)
        if self.owner == self.runtime:
            raise UsageError(f"owner and runtime role are both called {self.owner}: two roles are what this is about")


@dataclass(frozen=True, slots=True)
class Lack:
    """A right that the runtime role has not been given, or has lost."""

    role: str
    privilege: str
    what: str

    def __str__(self) -> str:
        return f'the runtime role "{self.role}" lacks {self.privilege} on {self.what}: run attach again as the owner'


def script(roles: RoleNames, schema: str, *, guard: bool = True) -> str:
    """Return the script for `psql` that creates the roles. Names occur in it as literals only.

    `guard`: include what `sql/roles/guard.sql` creates.
    """
    parts = {
        "owner": sql.Literal(roles.owner),
        "runtime": sql.Literal(roles.runtime),
        "reads_as": sql.Literal(_array(roles.reads_as)),
        "granting": granting(schema),
        "guarding": _guarding(schema) if guard else sql.SQL(""),
    }
    opening = "".join(f"{line}\n" for line in read("roles/create").splitlines()[:4])
    return opening + statement("roles/create", schema, **parts).as_string()


def lacks(conn: psycopg.Connection[Any], schema: str) -> list[Lack]:
    """Return what the recorded runtime role lacks; nothing where none is recorded."""
    query = statement("roles/missing", schema, **rights(schema))
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(query, {"schema": schema}).fetchall()
    return [Lack(role, privilege, _what(kind, name, schema)) for role, kind, name, privilege in found]


def _what(kind: str, name: str, schema: str) -> str:
    return f'the schema "{schema}"' if kind == "SCHEMA" else f"{schema}.{name}"


def _check(name: str) -> None:
    if not name or len(name.encode()) > NAME_BYTES_MAX or "\0" in name:
        raise UsageError(f"{name!r} cannot be the name of a role: PostgreSQL takes 1 to {NAME_BYTES_MAX} bytes")
    if name.lower() in _RESERVED or name.startswith("pg_"):
        raise UsageError(f"{name!r} cannot be the name of a role here: PostgreSQL gives it a meaning of its own")


def _guarding(schema: str) -> sql.Composable:
    """Return the guard with its comments, which are for readers of the script."""
    template = sql.SQL(read("roles/guard"))
    return template.format(guard=sql.Identifier(f"{schema[: NAME_BYTES_MAX - 6]}_guard"))


def _array(names: tuple[str, ...]) -> str:
    """Return an array of texts as PostgreSQL reads it."""
    escaped = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "{" + ",".join(f'"{name}"' for name in escaped) + "}"
