"""A database role for the readers of one test's database, and their tokens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import jwt

from tests.support.bridge import RunningBridge, running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

SECRET = "a secret of the tests that is long enough"
SUB = "(current_setting('request.jwt.claims', true)::json ->> 'sub')"
"""Who asks, for policies."""


@dataclass(frozen=True, slots=True)
class Readers:
    """`role` is granted by the test itself what it needs."""

    database: Database
    role: str

    def token(self, sub: str, role: str | None = None, *, lasts_s: int = 3600) -> str:
        claims = {"role": role or self.role, "sub": sub, "exp": int(time.time()) + lasts_s}
        return jwt.encode(claims, SECRET, algorithm="HS256")

    @contextlib.asynccontextmanager
    async def bridge(self, *roles: str, **options: Any) -> AsyncIterator[RunningBridge]:
        """One that knows these readers by their tokens; `roles` are further ones."""
        served = (self.role, *roles)
        async with running_bridge(
            self.database.dsn, jwt_secret=SECRET, jwt_leeway_s=0, roles=served, auth_mode="strict", **options
        ) as bridge:
            yield bridge

    @contextlib.asynccontextmanager
    async def connected(
        self, bridge: RunningBridge, sub: str, role: str | None = None, *, lasts_s: int = 3600
    ) -> AsyncIterator[Client]:
        async with connected(f"{bridge.url}?access_token={self.token(sub, role, lasts_s=lasts_s)}") as client:
            yield client


@contextlib.contextmanager
def readers_of(database: Database, *more: str) -> Iterator[Readers]:
    """`more`: further roles, by the beginnings of their names; all go at the end."""
    names = [f"{beginning}_{database.name}" for beginning in ("reader", *more)]
    database.execute("; ".join(f"CREATE ROLE {name} NOLOGIN" for name in names))
    try:
        yield Readers(database, names[0])
    finally:
        listed = ", ".join(names)
        database.execute(f"DROP OWNED BY {listed}; DROP ROLE {listed}")
