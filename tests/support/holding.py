"""Holds what the bridge asks PostgreSQL for exactly as long as a test wants, and says when it is held."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdc_bridge.database.sessions import prepare
from tests.support.server import Database

HELD_WITHIN_S = 20.0
FIRST, SECOND = 4711, 4712
"""Two advisory locks. Functions of policies and triggers wait for them with `WAITS`."""

WAITS = """
CREATE FUNCTION waits(lock int) RETURNS boolean LANGUAGE plpgsql STABLE SET lock_timeout = 0 AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(lock);
    RETURN true;
END $$;
"""
"""`waits(4711)` is true as soon as nobody holds that advisory lock, whatever `lock_timeout` the session has."""

TABLE = """
CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE t_few PARTITION OF t FOR VALUES FROM (MINVALUE) TO (1000000);
CREATE TABLE t_held PARTITION OF t FOR VALUES FROM (1000000) TO (MAXVALUE);
"""
"""Who reads `t` waits for who holds `t_held`. Who inserts into `t`, or writes to `t_few`, does not."""


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bridge in this process wait for what is held, however long a busy machine takes, and not try again."""

    async def prepare_patiently(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
        await prepare(connection, schema)
        await connection.execute("SET lock_timeout = 0")

    monkeypatch.setattr("cdc_bridge.database.pools.prepare", prepare_patiently)
    monkeypatch.setattr("cdc_bridge.engine.scheduler.PATIENCE_S", 60.0)


class Hold:
    """A lock that somebody else waits for. `execute` runs statements in the transaction that holds it."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], database: Database) -> None:
        self._connection = connection
        self._database = database

    async def execute(self, statement: str) -> None:
        await self._connection.execute(statement.encode())

    async def is_waited_for(self, count: int = 1) -> None:
        """Wait until so many sessions wait for this one. Nothing but asking tells."""
        try:
            async with asyncio.timeout(HELD_WITHIN_S), await self._database.connect() as watcher:
                while await self._waiting(watcher) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError("nobody waits for what is held") from None

    async def cut_those_who_wait(self) -> None:
        """End the sessions that wait for this one."""
        async with await self._database.connect() as watcher:
            await watcher.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))",
                [self._connection.info.backend_pid],
            )

    async def release(self) -> None:
        """Commit, and let those who wait go on. Does nothing the second time."""
        await self._connection.commit()

    async def _waiting(self, watcher: psycopg.AsyncConnection[Any]) -> int:
        cursor = await watcher.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))",
            [self._connection.info.backend_pid],
        )
        return int((await cursor.fetchall())[0][0])


@contextlib.asynccontextmanager
async def held_table(database: Database, table: str) -> AsyncIterator[Hold]:
    """Nobody else reads or writes the table until the hold is released, which the end of the block does too."""
    async with await database.connect(autocommit=False) as connection:
        lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table))
        await connection.execute(lock)
        yield Hold(connection, database)


@contextlib.asynccontextmanager
async def held_lock(database: Database, number: int = FIRST) -> AsyncIterator[Hold]:
    """Whoever calls `waits(number)` waits until the hold is released, which the end of the block does too."""
    async with await database.connect(autocommit=False) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        yield Hold(connection, database)


async def sessions_are_idle(database: Database, but: int = 0) -> None:
    """Wait until all sessions of a bridge but so many have nothing to do. Nothing but asking tells."""
    async with asyncio.timeout(HELD_WITHIN_S), await database.connect() as watcher:
        while True:
            cursor = await watcher.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'cdc_bridge%' AND state <> 'idle'"
            )
            if (await cursor.fetchall()) == [(but,)]:
                return
            await asyncio.sleep(0.005)
