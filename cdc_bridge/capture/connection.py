"""Connections with a session of their own, watched by keepalives, and never waited for once they are given up.

Theory: the event loop watches the sockets of `WatchedConnection`. Whenever one is readable, all that has come is taken
in one plain call: notifications go to a list, an answer wakes the task that waits for it. Nothing else happens there.

Bound: `NOTIFICATIONS_MAX` notifications that were not taken. Policy: past it the socket is not read, and notifications
wait in PostgreSQL's queue.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import AsyncConnection, errors, pq
from psycopg.adapt import Transformer

from cdc_bridge.conninfo import HEARTBEAT
from cdc_bridge.model.errors import CaptureLost, DatabaseSilent, SharedSession
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
LONG_ANSWER_S = 60.0
"""The timeout of a query that reads much of the log."""

NOTIFICATIONS_MAX = 2_000

_GOOD = {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}
_PARAMETER = re.compile(r"%\((\w+)\)s")

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]


class Connector:
    """Connects to one database, and finds out whether a connection has a server session of its own.

    Theory: libpq learns the process id of its server session when it connects. A pooler reports another id, since it
    routes cancellations itself. Then a second connection is made, and both ask for the id of their session by turns, in
    separate transactions. If each connection owns its session, each gets the same id every time. If a pooler lends
    sessions for one transaction, both get the same id, or the id of one changes. Nothing is set before that is known,
    so no setting is left in sessions that others use after us.
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
            prepare_threshold=None,  # poolers do not keep prepared statements
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
    """Break the socket of a connection, so that a task that waits for an answer gets an error at once.

    Cancelling the task that waits is no way: psycopg then asks the server to cancel the query and waits up to five
    seconds for that, and as long again for the query to end. A server that is away answers neither.
    """
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


class Numbered(NamedTuple):
    """A statement with PostgreSQL's own parameters, `$1` and so on, and their names in this order."""

    text: bytes
    names: tuple[str, ...]


@cache
def numbered(name: str, schema: str) -> Numbered:
    """The statement `queries/name`."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    text = _PARAMETER.sub(number, statement(f"queries/{name}", schema).as_string())
    return Numbered(text.encode(), tuple(names))


class Wakeup:
    """Lets one task wait until something has happened, or until some time by the monotonic clock.

    A timer that would end the wait too early is left as it is: the task looks, and waits again.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._happened = False
        self._waiting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    def set(self) -> None:
        self._happened = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self, until_s: float) -> None:
        """Give others a turn on the event loop in any case."""
        if self._happened or (remaining_s := until_s - time.monotonic()) <= 0:
            await asyncio.sleep(0)
        else:
            if self._timer is None or self._timer_s > until_s:
                self._set_timer(until_s, remaining_s)
            self._waiting = self._loop.create_future()
            await self._waiting
        self._happened = False

    def _set_timer(self, at_s: float, in_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(in_s, self._ring)
        self._timer_s = at_s

    def _ring(self) -> None:
        self._timer = None
        self.set()


class WatchedConnection:
    """A connection whose socket the event loop watches. It asks one question at a time, by prepared statements.

    An answer that does not come in time ends the connection: the server is away, or what is asked cannot be had.
    """

    def __init__(self, connection: Connection, schema: str, answer_limit_s: float, wakeup: Wakeup) -> None:
        self.connection = connection
        self.notifications: list[bytes] = []
        self.error: Exception | None = None
        self._pgconn: Any = connection.pgconn
        self._schema = schema
        self._answer_limit_s = answer_limit_s
        self._wakeup = wakeup
        self._transformer = Transformer(connection)
        self._prepared: set[str] = set()
        self._answered: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._socket: int = self._pgconn.socket
        self._is_watched = False
        self._watch()

    async def rows(
        self, name: str, parameters: dict[str, Any] | None = None, *, limit_s: float | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the answer to `queries/name`. Raises psycopg's errors, and `CaptureLost` when none comes in time."""
        query = numbered(name, self._schema)
        if name not in self._prepared:
            self._pgconn.send_prepare(name.encode(), query.text)
            await self._answer(limit_s)
            self._prepared.add(name)
        values = [_text((parameters or {})[each]) for each in query.names]
        self._pgconn.send_query_prepared(name.encode(), values)
        result = await self._answer(limit_s)
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    async def row(self, name: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
        """Return the first row of an answer, which must have one."""
        return (await self.rows(name, parameters))[0]

    def take(self) -> list[bytes]:
        """Return the notifications received."""
        if self.error is None:
            if self._pgconn.ssl_in_use:  # decrypted bytes do not make the socket readable
                self._consume()
            if not self._is_watched:
                self._watch()
        taken, self.notifications = self.notifications, []
        return taken

    async def close(self) -> None:
        """Close the connection without a message to the server, which may be away."""
        self._unwatch()
        await self.connection.close()

    async def _answer(self, limit_s: float | None) -> Any:
        """Return the result of what was sent. Raises its error."""
        if self.error is not None:
            raise self.error
        self._watch()
        timer = self._loop.call_later(limit_s or self._answer_limit_s, self._time_out)
        result = None
        try:
            if self._pgconn.flush():
                self._loop.add_writer(self._socket, self._on_writable)
            while True:
                if self._pgconn.is_busy():
                    self._answered = self._loop.create_future()
                    await self._answered
                if (next_one := self._pgconn.get_result()) is None:
                    break
                result = next_one
        except asyncio.CancelledError:
            self._fail(CaptureLost("a question was given up"))
            raise
        finally:
            timer.cancel()
            self._answered = None
        assert result is not None
        if result.status not in _GOOD:
            raise errors.error_from_result(result, encoding="utf-8")
        return result

    def _consume(self) -> None:
        """Take all that has come."""
        pgconn, notifications = self._pgconn, self.notifications
        try:
            pgconn.consume_input()
            if pgconn.ssl_in_use:  # libpq reads 8 KiB at least, and a TLS record has 16 at most
                pgconn.consume_input()
            while note := pgconn.notifies():
                notifications.append(note.extra)
            if self._answered is not None and not self._answered.done() and not pgconn.is_busy():
                self._answered.set_result(None)
        except psycopg.Error as error:
            self._fail(error)
        if notifications:
            self._wakeup.set()
            if len(notifications) >= NOTIFICATIONS_MAX and self._answered is None:
                self._unwatch()

    def _on_writable(self) -> None:
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as error:
            self._fail(error)

    def _time_out(self) -> None:
        self._fail(DatabaseSilent("the database does not answer in time"))

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._unwatch()
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
        self._wakeup.set()

    def _watch(self) -> None:
        if not self._is_watched:
            self._loop.add_reader(self._socket, self._consume)
            self._is_watched = True

    def _unwatch(self) -> None:
        if self._is_watched:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._is_watched = False


def _text(value: Any) -> bytes | None:
    """A parameter as PostgreSQL reads it."""
    if value is None:
        return None
    if isinstance(value, list):
        return f"{{{','.join(map(str, value))}}}".encode()
    return str(value).encode()
