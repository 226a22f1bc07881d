"""Pools of connections that read: for the catalog, for clients, and for what memory cannot decide.

Rule: nothing is set in a session before it is known to be ours (`capture.connection`). A connection that the server has
closed is replaced when it is requested. That is found out without a query, so a dead line delays no task. When the
database falls silent, all connections are broken at once, and the tasks that wait for them get an error.

Bound: each pool has its size. Idle connections beyond one are closed after `IDLE_S`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from weakref import WeakSet

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.capture.connection import KEEPALIVES, Connector, drop
from cdc_bridge.conninfo import READ
from cdc_bridge.database.sessions import prepare
from cdc_bridge.logs import facts

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

IDLE_S = 60.0


class ReadPools:
    """See the module's docstring. `problems` says of each pool why it gets no connection, while that is so."""

    def __init__(
        self,
        conninfo: str,
        schema: str,
        connector: Connector,
        *,
        connect_timeout_s: float,
        reconnect_delay_max_s: float,
    ) -> None:
        self.problems: dict[int, str] = {}
        self._conninfo = conninfo
        self._schema = schema
        self._connector = connector
        self._connect_timeout_s = connect_timeout_s
        self._reconnect_delay_max_s = reconnect_delay_max_s
        self._connections: WeakSet[AsyncConnection[Any]] = WeakSet()
        self._pools = 0
        self._kept = 0

    @asynccontextmanager
    async def open(self, size_max: int, *, kept: int = 1, prepare_threshold: int | None = None) -> AsyncIterator[Pool]:
        """Open a pool that keeps this many connections while idle. It connects when the database is there."""
        self._kept += kept
        self._pools += 1
        number = self._pools
        pool: Pool = AsyncConnectionPool(
            self._conninfo,
            connection_class=_reporting_to(self, number),
            min_size=kept,
            max_size=size_max,
            max_idle=IDLE_S,
            timeout=self._connect_timeout_s,
            reconnect_timeout=self._reconnect_delay_max_s,
            open=False,
            configure=lambda connection: self._configure(connection, number),
            check=_check,
            kwargs={
                "autocommit": True,
                "prepare_threshold": prepare_threshold,
                "application_name": READ,
                "client_encoding": "UTF8",
                "connect_timeout": max(2, round(self._connect_timeout_s)),
                **KEEPALIVES,
            },
        )
        await pool.open(wait=False)
        try:
            yield pool
        finally:
            await pool.close(timeout=1)

    def drop(self) -> None:
        """Break all connections, those in use as well: the database is silent."""
        for connection in list(self._connections):
            drop(connection)

    def note(self, number: int, error: psycopg.Error) -> None:
        """Log that a pool gets no connection: once, for as long as it lasts."""
        reason = str(error).strip()
        if reason not in self.problems.values():
            needed = facts(reason=reason, needed_while_idle=self._kept + STREAM_CONNECTIONS)
            log.warning("no connection to read with, trying again", extra=needed)
        self.problems[number] = reason

    async def _configure(self, connection: AsyncConnection[Any], number: int) -> None:
        timer = asyncio.get_running_loop().call_later(self._connect_timeout_s, drop, connection)
        try:
            await self._connector.require_own_session(connection)
            await prepare(connection, self._schema)
        except psycopg.OperationalError as error:
            self.note(number, error)
            raise
        finally:
            timer.cancel()
        self._connections.add(connection)
        self.problems.pop(number, None)


STREAM_CONNECTIONS = 2
"""The connections of the change stream."""


def _reporting_to(pools: ReadPools, number: int) -> type[AsyncConnection[Any]]:
    class PooledConnection(AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **keywords: Any) -> Any:
            try:
                return await super().connect(*args, **keywords)
            except psycopg.OperationalError as error:
                pools.note(number, error)
                raise

    return PooledConnection


async def _check(connection: AsyncConnection[Any]) -> None:
    """Raises when the server has closed the connection: its last words come first, then the end."""
    connection.pgconn.consume_input()
    connection.pgconn.consume_input()
