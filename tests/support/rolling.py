"""A deployment: bridges behind HAProxy are restarted in turn while rows are written and clients follow them.

The clients are our own listener's (`cdc_bridge.client`): they resume from their cursors, and come back when a bridge
asks them to.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from cdc_bridge.client import Message, Wanted, messages
from tests.support.bridge import BridgeProcess
from tests.support.haproxy import haproxy
from tests.support.process import free_port
from tests.support.server import Database

ALL_WITHIN_S = 120.0
TABLE = "CREATE TABLE t (id int PRIMARY KEY, text text NOT NULL)"
INSERT = "INSERT INTO t VALUES (%s, 'a row of the deployment')"


@dataclass(eq=False)
class Client:
    """Follows the table. `silence_s`: the longest time between two rows. `fresh`: how often it got fresh data later."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    seen: set[int] = field(default_factory=set)
    duplicates: int = 0
    fresh: int = 0
    closes: int = 0
    silence_s: float = 0
    _last_s: float = 0

    async def follow(self, url: str) -> None:
        async with contextlib.aclosing(messages(url, Wanted("t", query={"limit": 0}), self._note)) as arriving:
            async for message in arriving:
                self._take(message)

    def _take(self, message: Message) -> None:
        if message.event == "init":
            self.fresh += self.begun.is_set() and not message.content.get("resumed")
            self.begun.set()
            return
        ids = {row["id"] for row in message.content["data"]}
        self.duplicates += len(message.content["data"]) - len(ids - self.seen)
        self.seen |= ids
        now_s = time.monotonic()
        if self._last_s:
            self.silence_s = max(self.silence_s, now_s - self._last_s)
        self._last_s = now_s

    def _note(self, sentence: str) -> None:
        self.closes += "shutting down" in sentence


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clients of a deployment saw. `lost` and `duplicates` are rows, over all clients."""

    clients: int
    rows: int
    lost: int
    duplicates: int
    fresh: int
    closes: int
    silence_s: float
    took_s: float


async def deploy(database: Database, directory: Path, *, clients: int, drain_s: float, rows_per_s: float) -> Outcome:
    """Restart both of two bridges in turn. The database has `TABLE`, attached."""
    ports = [free_port(), free_port()]

    async def start(port: int) -> BridgeProcess:
        bridge = BridgeProcess(database.dsn, "--port", str(port), "--drain-s", str(drain_s))
        await stack.enter_async_context(bridge)
        await bridge.ready()
        return bridge

    async with contextlib.AsyncExitStack() as stack:
        bridges = [await start(port) for port in ports]
        proxy = await stack.enter_async_context(haproxy(directory, ports))
        await proxy.sees_all_up()
        fleet = [Client() for _ in range(clients)]
        async with asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(client.follow(proxy.url)) for client in fleet]
            async with asyncio.timeout(ALL_WITHIN_S):
                await asyncio.gather(*(client.begun.wait() for client in fleet))
            writer = Writer(database, 1 / rows_per_s)
            writing = tasks.create_task(writer.run())
            began_s = time.monotonic()
            await writer.has_written(10)
            for number, port in enumerate(ports):
                bridges[number].terminate()
                assert await bridges[number].wait(drain_s + 60) == 0
                assert "Traceback" not in bridges[number].stderr, bridges[number].stderr
                bridges[number] = await start(port)
                await proxy.sees_all_up()
                await writer.has_written(writer.rows + 10)
            took_s = time.monotonic() - began_s
            writer.ends.set()
            await writing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALL_WITHIN_S):
                    while any(len(client.seen) < writer.rows for client in fleet):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            for each in following:
                each.cancel()
    return Outcome(
        clients,
        writer.rows,
        sum(writer.rows - len(client.seen) for client in fleet),
        sum(client.duplicates for client in fleet),
        sum(client.fresh for client in fleet),
        sum(client.closes for client in fleet),
        max(client.silence_s for client in fleet),
        took_s,
    )


class Writer:
    """Inserts a row at a time. `rows` have been committed."""

    def __init__(self, database: Database, pause_s: float) -> None:
        self.rows = 0
        self.ends = asyncio.Event()
        self._database = database
        self._pause_s = pause_s
        self._news = asyncio.Condition()

    async def run(self) -> None:
        async with await self._database.connect() as connection:
            while not self.ends.is_set():
                await connection.execute(INSERT, [self.rows])
                async with self._news:
                    self.rows += 1
                    self._news.notify_all()
                await asyncio.sleep(self._pause_s)

    async def has_written(self, rows: int) -> None:
        """Wait until so many rows have been committed."""
        async with self._news, asyncio.timeout(ALL_WITHIN_S):
            await self._news.wait_for(lambda: self.rows >= rows)
