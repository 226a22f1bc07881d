"""Connections with a session of their own, watched by keepalives, and never waited for once they are given up."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection

from cdc_bridge.conninfo import HEARTBEAT
from cdc_bridge.model.errors import CaptureLost, SharedSession
from cdc_bridge.statements import statement

KEEPALIVES: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
ROUNDS = 4
ANSWER_LIMIT_S = 3.0

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]


class Connector:
    """Connects to one database, and finds out whether a connection has a server session of its own.

    Theory: libpq is told the process id of its server session when it connects. A pooler tells another one, since it
    has to route cancellations itself. Behind a pooler, a second connection is made, and both ask for the id of their
    session by turns, in transactions of their own. Where a session belongs to one connection, each finds the same one
    every time; where a pooler lends sessions for one transaction, they meet, or one of them is moved. Nothing is set
    before that is known, so nothing is left in sessions that others use after us.
    """

    def __init__(self, conninfo: str, timeout_s: float) -> None:
        self._conninfo = conninfo
        self._timeout_s = timeout_s
        self._is_checked = False
        self._checking = asyncio.Lock()

    async def connect(self, purpose: str) -> Connection:
        """Open a connection in autocommit mode. `purpose` is its `application_name`. Raises `SharedSession`."""
        connection = await self._connect(purpose)
        try:
            await self.require_own_session(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def require_own_session(self, connection: AsyncConnection[Any]) -> None:
        """Raises `SharedSession` where a pooler lends sessions for one transaction. To be called first of all."""
        if self._is_checked:
            return
        async with self._checking:
            if not self._is_checked:
                await self._check(connection)
                self._is_checked = True

    async def _check(self, connection: AsyncConnection[Any]) -> None:
        ours = await _session_of(connection)
        if ours == connection.pgconn.backend_pid:
            return
        async with await self._connect(HEARTBEAT) as other:
            for _ in range(ROUNDS):
                is_lent = await _session_of(other) == ours
                is_moved = any([await _session_of(connection) != ours for _ in range(2)])
                if is_lent or is_moved:
                    raise SharedSession

    async def _connect(self, purpose: str) -> Connection:
        return await AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            prepare_threshold=None,  # poolers
            connect_timeout=max(2, round(self._timeout_s)),
            application_name=purpose,
            client_encoding="UTF8",
            **KEEPALIVES,
        )


async def _session_of(connection: AsyncConnection[Any]) -> int:
    timer = asyncio.get_running_loop().call_later(ANSWER_LIMIT_S, drop, connection)
    try:
        cursor = await connection.execute(statement("queries/session_id"))
        [session_id] = await cursor.fetchone() or (0,)
    except psycopg.OperationalError as error:
        raise CaptureLost(f"no session for another connection: {str(error).strip()}") from error
    finally:
        timer.cancel()
    return int(session_id)


def drop(connection: AsyncConnection[Any]) -> None:
    """Break the socket of a connection, so that whoever waits for an answer gets an error at once.

    Cancelling the task that waits is no way: psycopg then asks the server to cancel the query and waits up to five
    seconds for that, and as long again for the query to end. A server that is away answers neither.
    """
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
