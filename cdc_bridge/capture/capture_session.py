"""The two connections of the change stream: one listens, the other one reads the log and sends heartbeats.

Rule: both live and die together, and with them whatever runs on their behalf. What ends them is raised by `take`, or
by the question that is under way.

Without a listener nothing is notified, and the log is all there is: where the operator has decided so, and on a hot
standby, where nothing notifies and nothing can be written.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors

from cdc_bridge.capture.connection import Connector, Wakeup, WatchedConnection
from cdc_bridge.conninfo import HEARTBEAT, LISTEN
from cdc_bridge.histogram import Histogram
from cdc_bridge.model.errors import CaptureLost, DatabaseError, NotInstalled, PayloadError, SchemaClosed


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


@dataclass(slots=True)
class StreamCounts:
    """Counts of what all sessions of a change stream have done, for metrics.

    `read`: readings of the log that found changes. `lost`: sessions that have ended. `gate` is its state now, and
    `gate_changes` how often it came to each. `reading`: when the last of these readings began, by the monotonic clock,
    and how many items were pending before what it found.
    """

    read: Histogram = field(default_factory=Histogram)
    reading: tuple[float, int] | None = None
    lost: int = 0
    gate: str = "shut"
    gate_changes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class CaptureSession:
    """See the module's docstring."""

    options: StreamOptions
    connector: Connector
    counts: StreamCounts = field(default_factory=StreamCounts)
    wakeup: Wakeup = field(default_factory=Wakeup)
    reader: WatchedConnection = field(init=False)
    is_standby: bool = False
    listener: WatchedConnection | None = None
    failure: Exception | None = None
    """The error that ended a task of the session."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def generation(self) -> tuple[bytes, bytes]:
        """Return the generation of the database, and the key of cursors."""
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
        """Return the notifications received. If there are none, raise the error that ended the session, if any."""
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
        """Open a connection that reads the log."""
        reader = await self.watch(HEARTBEAT)
        try:
            await reader.rows("log_session")
        except BaseException:
            await reader.close()
            raise
        return reader

    async def watch(self, purpose: str) -> WatchedConnection:
        options = self.options
        connection = await self.connector.connect(purpose)
        watched = WatchedConnection(connection, options.schema, options.heartbeat_timeout_s, self.wakeup)
        try:
            await watched.rows("listener_session", limit_s=options.connect_timeout_s)
        except BaseException:
            await watched.close()
            raise
        return watched


@asynccontextmanager
async def open_session(
    options: StreamOptions, connector: Connector, counts: StreamCounts
) -> AsyncIterator[CaptureSession]:
    """Connect both, or the one where nothing notifies."""
    session = CaptureSession(options, connector, counts)
    session.reader = await session.open_reader()
    try:
        await _require_ours(session.reader, options.schema)
        session.is_standby = (await session.reader.row("standby"))[0] == "yes"
        decided = await session.reader.rows("notify")
        if not session.is_standby and not (decided and decided[0][0] == "off"):
            session.listener = await session.watch(LISTEN)
        yield session
    finally:
        await session.end()


async def _require_ours(reader: WatchedConnection, schema: str) -> None:
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
