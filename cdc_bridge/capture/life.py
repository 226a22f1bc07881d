"""The life of a pair of connections: one listens, the other one reads the log and sends heartbeats.

Rule: the two live and die together, and with them whatever runs on their behalf. What arrives comes through the inbox
in its order, the error that ends it included; nobody else reads it.

Without a listener nothing is notified, and the log is all there is: where it was so decided, and on a hot standby,
where nothing notifies and nothing can be written.

Bound: `INBOX_MAX` items. Past that the listener is not read from, and what is notified waits in PostgreSQL's queue.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from cdc_bridge.capture.connection import Connection, connect, require_ours
from cdc_bridge.conninfo import HEARTBEAT, LISTEN
from cdc_bridge.model.errors import CaptureLost, PayloadError
from cdc_bridge.statements import statement

INBOX_MAX = 10_000
AT_ONCE_MAX = 100
"""Items told without giving others a turn on the event loop."""


@dataclass(frozen=True, slots=True)
class LogOptions:
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
class Life:
    """See the module's docstring."""

    options: LogOptions
    reader: Connection
    is_standby: bool = False
    listener: Connection | None = None
    inbox: asyncio.Queue[Any] = field(default_factory=lambda: asyncio.Queue(INBOX_MAX))
    poll_due_s: float = 0
    """When the log is to be read next, by the monotonic clock."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    # --- asking the database ---

    def in_time(self) -> asyncio.Timeout:
        """The bound of whatever the reader is asked."""
        return asyncio.timeout(self.options.heartbeat_timeout_s)

    async def rows(
        self, query: str, parameters: dict[str, Any] | None = None, *, prepare: bool | None = None
    ) -> list[tuple[Any, ...]]:
        """What the reader is answered, by the name of the query."""
        composed = statement(f"queries/{query}", self.options.schema)
        return await (await self.reader.execute(composed, parameters, prepare=prepare)).fetchall()

    async def row(
        self, query: str, parameters: dict[str, Any] | None = None, *, prepare: bool | None = None
    ) -> tuple[Any, ...]:
        """The first row; it has to be there."""
        return (await self.rows(query, parameters, prepare=prepare))[0]

    async def run(self, query: str, parameters: dict[str, Any] | None = None) -> None:
        await self.reader.execute(statement(f"queries/{query}", self.options.schema), parameters)

    async def generation(self) -> tuple[bytes, bytes]:
        """The life of the database, and the key of cursors."""
        token, key = await self.row("standby_era" if self.is_standby else "begin_era")
        return uuid.UUID(token).bytes[:8], bytes(str(key), "ascii")

    # --- what runs beside ---

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs until it ends, or this life does."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def listen(self) -> None:
        if self.listener is not None:
            await self.listener.execute(statement("queries/listen", self.options.schema))
            self.start(_pump(self.listener, self.inbox))

    async def arrived(self, until_s: float) -> list[Any]:
        """What has come in, waiting for it until some time."""
        items = []
        if self.inbox.empty():
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, until_s - time.monotonic())):
                    items.append(await self.inbox.get())
        while len(items) < AT_ONCE_MAX and not self.inbox.empty():
            items.append(self.inbox.get_nowait())
        return items

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError, psycopg.Error, OSError, PayloadError):
                await task
        if self.listener is not None:
            await self.listener.close()


@asynccontextmanager
async def connected(options: LogOptions) -> AsyncIterator[Life]:
    """Both connections, or the one where nothing notifies."""
    async with await connect(options.conninfo, HEARTBEAT, options.connect_timeout_s) as reader:
        life = Life(options, reader)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                notifies = await _prepare(life)
            if notifies and not life.is_standby:
                life.listener = await connect(options.conninfo, LISTEN, options.connect_timeout_s)
                async with asyncio.timeout(options.connect_timeout_s):
                    await life.listener.execute(statement("queries/listener_session"))
            yield life
        finally:
            await life.end()


async def _prepare(life: Life) -> bool:
    """Make the reader's session ours. Whether writers may notify."""
    await life.run("listener_session")
    await require_ours(life.reader, life.options.schema)
    await life.run("log_session")
    life.is_standby = (await life.row("standby"))[0] == "yes"
    decided = await life.rows("notify")
    return not decided or bool(decided[0][0] != "off")


async def _pump(listener: Connection, inbox: asyncio.Queue[Any]) -> None:
    """Put every notification into the inbox, and at last what ended it."""
    try:
        async for note in listener.notifies():
            await inbox.put(note.payload)
        await inbox.put(CaptureLost("the connection that listens has ended"))
    except (psycopg.Error, OSError, UnicodeDecodeError) as error:
        await inbox.put(error)
