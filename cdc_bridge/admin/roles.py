"""The two roles that keep the rights of bridges small: the owner, which attaches, and the runtime role, as which
bridges connect.

The rights of the runtime role stand in `sql/roles/rights.sql`, and nowhere else. Its name is recorded
with the owner role (`sql/roles/recorded.sql`), so every installation of our schema, or of a newer version, grants
them.
"""

from dataclasses import dataclass

from psycopg import sql

from cdc_bridge.model.errors import UsageError
from cdc_bridge.statements import Connection, granting, read, rights, statement

NAME_BYTES_MAX = 63
OWNER, RUNTIME = "cdc_owner", "cdc_bridge"


@dataclass(frozen=True, slots=True)
class RoleNames:
    """The names of the roles. `reads_as`: the roles of clients, to which the runtime role switches by SET ROLE."""

    owner: str = OWNER
    runtime: str = RUNTIME
    reads_as: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `UsageError`."""
        for name in (self.owner, self.runtime, *self.reads_as):
            if not name or len(name.encode()) > NAME_BYTES_MAX or "\0" in name:
                raise UsageError(f"{name!r} cannot be the name of a role: PostgreSQL takes 1 to {NAME_BYTES_MAX} bytes")
            if name.lower() in {"public", "none"} or name.startswith("pg_"):
                raise UsageError(
                    f"{name!r} cannot be the name of a role here: PostgreSQL gives it a meaning of its own"
                )
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

    `guard`: include what `sql/roles/guard.sql` creates, with its comments, which are for readers of the script.
    """
    guard_name = sql.Identifier(f"{schema[: NAME_BYTES_MAX - 6]}_guard")
    created = statement(
        "roles/create",
        schema,
        owner=sql.Literal(roles.owner),
        runtime=sql.Literal(roles.runtime),
        reads_as=sql.Literal(list(roles.reads_as)),
        granting=granting(schema),
        guarding=sql.SQL(read("roles/guard") if guard else "").format(guard=guard_name),
    )
    opening = "".join(f"{line}\n" for line in read("roles/create").splitlines()[:4])
    return opening + created.as_string()


def lacks(conn: Connection, schema: str, *, of: sql.Composed | None = None) -> list[Lack]:
    """Return what the recorded runtime role lacks; nothing where none is recorded. `of`: another role in its place."""
    parts = rights(schema) | ({"recorded": of} if of else {})
    found = conn.execute(statement("roles/missing", schema, **parts), {"schema": schema})
    return [
        Lack(role, privilege, f'the schema "{schema}"' if kind == "SCHEMA" else f"{schema}.{name}")
        for role, kind, name, privilege in found
    ]
