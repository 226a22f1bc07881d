"""The two connections of the change stream: one listens, the other one reads the log and sends heartbeats.

Rule: both live and die together, and with them whatever runs on their behalf. What ends them is raised by `take`, or
by the question that is under way.

Without a listener nothing is notified, and the log is all there is: where the operator has decided so, and on a hot
standby, where nothing notifies and nothing can be written.

Theory: libpq's sockets are watched by the event loop. Whenever one is readable, all that has come is taken in one plain
call: notifications go to a list, an answer wakes the task that waits for it. Nothing else happens there.

Bound: `NOTIFICATIONS_MAX` notifications that nobody has taken. Past it the listener's socket is not read, and what is
notified waits in PostgreSQL's queue.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, pq
from psycopg.adapt import Transformer

from cdc_bridge.capture.connection import Connection, Connector
from cdc_bridge.conninfo import HEARTBEAT, LISTEN
from cdc_bridge.model.errors import CaptureLost, DatabaseError, DatabaseSilent, NotInstalled, PayloadError, SchemaClosed
from cdc_bridge.statements import statement

_GOOD = {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}

NOTIFICATIONS_MAX = 2_000
LONG_ANSWER_S = 60.0
"""For what has to look through much of the log."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """`heartbeat_timeout_s` bounds how long a dead connection goes unnoticed; `poll_interval_s` is how often the log is
    read where nothing notifies.
    """

    conninfo: str
    schema: str = "cdc"
    heartbeat_interval_s: float = 2
    heartbeat_timeout_s: float = 6
    connect_timeout_s: float = 5
    reconnect_delay_min_s: float = 0.1
    reconnect_delay_max_s: float = 10
    poll_interval_s: float = 0.05


class Numbered(NamedTuple):
    """A statement with PostgreSQL's own parameters, `$1` and so on, and their names in this order."""

    text: bytes
    names: tuple[str, ...]


_PARAMETER = re.compile(r"%\((\w+)\)s")


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
        """The answer to `queries/name`. Raises psycopg's errors, and `CaptureLost` when none comes in time."""
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
        """The first row of an answer; it has to be there."""
        return (await self.rows(name, parameters))[0]

    def take(self) -> list[bytes]:
        """All notifications that have come."""
        if self.error is None:
            if self._pgconn.ssl_in_use:  # the socket does not tell of what is decrypted already
                self._consume()
            if not self._is_watched:
                self._watch()
        taken, self.notifications = self.notifications, []
        return taken

    async def close(self) -> None:
        """Without a word to the server, which may be away."""
        self._unwatch()
        await self.connection.close()

    async def _answer(self, limit_s: float | None) -> Any:
        """The result of what was sent. Raises its error."""
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
    match value:
        case None:
            return None
        case list():
            return f"{{{','.join(map(str, value))}}}".encode()
        case _:
            return str(value).encode()


@dataclass(slots=True)
class CaptureSession:
    """See the module's docstring."""

    options: StreamOptions
    connector: Connector
    wakeup: Wakeup
    reader: WatchedConnection
    is_standby: bool = False
    listener: WatchedConnection | None = None
    failure: Exception | None = None
    """What ended something that runs beside."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def generation(self) -> tuple[bytes, bytes]:
        """The life of the database, and the key of cursors."""
        token, key = await self.reader.row("standby_era" if self.is_standby else "begin_era")
        return uuid.UUID(token).bytes[:8], bytes(str(key), "ascii")

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it until it ends, or this session does."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    def fail(self, error: Exception) -> None:
        self.failure = error
        self.wakeup.set()

    def take(self) -> list[bytes]:
        """All notifications that have come. Raises what ended the session, once there is none."""
        listener = self.listener
        notifications = listener.take() if listener is not None else []
        error = self.failure or self.reader.error or (listener.error if listener is not None else None)
        if error is not None:
            if not notifications:
                raise error
            self.wakeup.set()
        return notifications

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, psycopg.Error, OSError, PayloadError, CaptureLost):
                await task
        if self.listener is not None:
            await self.listener.close()
        await self.reader.close()

    async def open_reader(self) -> WatchedConnection:
        """Another connection that reads the log."""
        return await _open_reader(self.options, self.connector, self.wakeup)


@asynccontextmanager
async def open_session(options: StreamOptions, connector: Connector) -> AsyncIterator[CaptureSession]:
    """Connect both, or the one where nothing notifies."""
    wakeup = Wakeup()
    session = CaptureSession(options, connector, wakeup, await _open_reader(options, connector, wakeup))
    try:
        await require_ours(session.reader, options.schema)
        session.is_standby = (await session.reader.row("standby"))[0] == "yes"
        decided = await session.reader.rows("notify")
        if not session.is_standby and not (decided and decided[0][0] == "off"):
            session.listener = await _watched(options, connector, LISTEN, wakeup)
        yield session
    finally:
        await session.end()


async def _open_reader(options: StreamOptions, connector: Connector, wakeup: Wakeup) -> WatchedConnection:
    reader = await _watched(options, connector, HEARTBEAT, wakeup)
    try:
        await reader.rows("log_session")
    except BaseException:
        await reader.close()
        raise
    return reader


async def _watched(options: StreamOptions, connector: Connector, purpose: str, wakeup: Wakeup) -> WatchedConnection:
    connection = await connector.connect(purpose)
    watched = WatchedConnection(connection, options.schema, options.heartbeat_timeout_s, wakeup)
    try:
        await watched.rows("listener_session", limit_s=options.connect_timeout_s)
    except BaseException:
        await watched.close()
        raise
    return watched


async def require_ours(reader: WatchedConnection, schema: str) -> None:
    """Raises `NotInstalled`, `SchemaClosed`, and `DatabaseError` where a part of it is closed without a word."""
    user = reader.connection.info.user
    try:
        [(number,)] = await reader.rows("channel")
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        raise NotInstalled(schema) from None
    except errors.InsufficientPrivilege:
        versions = await reader.rows("version", {"schema": schema})
        raise SchemaClosed(user, schema, versions[0][-1] if versions else "?") from None
    if unreadable := await reader.rows("unreadable", {"schema": schema}):
        raise DatabaseError(
            f'role "{user}" may not read the sequence {schema}.{unreadable[0][0]}: cdc-bridge sql --roles'
            " prints what a bridge needs, and attach gives it to the runtime role"
        )
    if number is None:
        raise NotInstalled(schema)
