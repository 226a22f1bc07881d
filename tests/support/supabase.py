"""A database as Supabase makes it, and its tokens: see `tests/bridge/supabase.sql`."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import psycopg
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin import attach as attaching
from cdc_bridge.admin.roles import RoleNames, script
from cdc_bridge.model.row import encode_exact
from tests.support.server import Database, Server

SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"
ROLES = ("anon", "authenticated", "service_role")
AUTH = (Path(__file__).parent / "auth.sql").read_text()
"""The functions by which policies ask for claims."""

SCHEMA = Path(__file__).parent.parent / "bridge" / "supabase.sql"

_MAKE_ROLES = """
DO $$ BEGIN
    IF to_regrole('anon') IS NULL THEN CREATE ROLE anon NOLOGIN NOINHERIT; END IF;
    IF to_regrole('authenticated') IS NULL THEN CREATE ROLE authenticated NOLOGIN NOINHERIT; END IF;
    IF to_regrole('service_role') IS NULL THEN CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS; END IF;
END $$
"""


@contextlib.contextmanager
def client_roles(server: Server) -> Iterator[None]:
    """They go by the names that they have everywhere, so all databases of the server share them."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(_MAKE_ROLES)
        yield
        with contextlib.suppress(errors.DependentObjectsStillExist):  # another run is at work there
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.SQL(", ").join(map(sql.Identifier, ROLES))))


@dataclass(frozen=True, slots=True)
class Person:
    """Who bears a token. Without a `sub` it is the key that everybody has."""

    name: str
    sub: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    role: str = "authenticated"

    @property
    def token_claims(self) -> dict[str, Any]:
        """As GoTrue makes them."""
        now_s = int(time.time())
        times = {"iat": now_s, "exp": now_s + 3600}
        if not self.sub:
            return {"iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": self.role, **times}
        session = {
            "iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
            "sub": self.sub,
            "aud": "authenticated",
            **times,
            "email": f"{self.name}@example.com",
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {"email_verified": True, "name": self.name},
            "role": self.role,
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now_s}],
            "session_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name)),
            "is_anonymous": False,
        }
        return session | self.claims

    @property
    def token(self) -> str:
        return jwt.encode(self.token_claims, SECRET, algorithm="HS256")


@dataclass(frozen=True, slots=True)
class Place:
    """The database, whose tables belong to `app`, and as whom bridges connect to it."""

    database: Database
    roles: RoleNames
    app: str

    @property
    def runtime_dsn(self) -> str:
        return make_conninfo(self.database.dsn, user=self.roles.runtime)

    def attach(self, *tables: str) -> None:
        """As the docs say, by the owner, a member of the tables' owner for as long as that takes."""
        self.database.execute(f"GRANT {self.app} TO {self.roles.owner}")
        with psycopg.connect(self.database.dsn, user=self.roles.owner, autocommit=True) as owner:
            attaching.apply(owner, attaching.plan(owner, attaching.Request(tables)), lock_limit_s=5)
        self.database.execute(f"REVOKE {self.app} FROM {self.roles.owner}")

    def seen_by(self, person: Person, query: str) -> list[tuple[Any, ...]]:
        """What PostgREST would answer."""
        with psycopg.connect(self.runtime_dsn) as connection:
            who = {"role": person.role, "claims": encode_exact(person.token_claims)}
            connection.execute(
                "SELECT set_config('role', %(role)s, true), set_config('request.jwt.claims', %(claims)s, true)", who
            )
            return connection.execute(query.encode()).fetchall()


@contextlib.contextmanager
def supabase(database: Database, schema: str | None = None) -> Iterator[Place]:
    """Nothing is attached yet. `schema` is SQL for what is there besides `auth`, with a schema `private`."""
    suffix = database.name[-12:]
    roles = RoleNames(f"cdc_owner_{suffix}", f"authenticator_{suffix}", ROLES)
    app = f"app_{suffix}"
    database.execute(f"CREATE ROLE {app}; ALTER DATABASE {database.name} OWNER TO {app}")
    database.execute(f"SET ROLE {app};" + AUTH + (schema or SCHEMA.read_text()))
    database.execute(script(roles, "cdc"))
    database.execute(f"GRANT USAGE ON SCHEMA private TO {roles.runtime}")  # as docs/limits.md says
    try:
        yield Place(database, roles, app)
    finally:
        everybody = f"{roles.owner}, {roles.runtime}, {app}"
        database.execute(f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER")
        database.execute(f"DROP OWNED BY {everybody} CASCADE")
        database.execute(f"DROP OWNED BY {', '.join(ROLES)} CASCADE; DROP ROLE {everybody}")
