"""A hundred clients that stop reading: what is kept for them is bounded, and nobody loses anything silently."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.server import Database
from tests.support.wsclient import Client, Closed, Message, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(240)]

CLIENTS_OF_EACH = 34
BACKLOG_BYTES_MAX = 4 * 1024 * 1024
ROW_BYTES = 5_000
KEYS = 20
STATEMENTS = 120
"""Each changes half of the rows: in all three times `BACKLOG_BYTES_MAX`, of which the newest states are 100 kB."""

GROWTH_BYTES_MAX = 100 * 1024 * 1024
"""A backlog for each topic, a frame for each client, and room for Python; a backlog for each client is 400 MiB."""

WITHIN_S = 60


@dataclass
class Follower:
    """One client over all its connections: its copy of the table, and all states of each row in their order."""

    client: Client
    states: dict[int, list[int]] = field(default_factory=lambda: {key: [] for key in range(KEYS)})
    rows: dict[int, int] = field(default_factory=dict)
    inits: list[str | None] = field(default_factory=list)
    cursor: str | None = None

    async def subscribe(self, **options: Any) -> None:
        asked = {"type": "subscribe", "collection": "t", "cursor": True, "query": {"limit": -1}}
        await self.client.send(asked | options)
        self.take(await self.client.expect(event="init", timeout=WITHIN_S))

    def take(self, message: Message) -> None:
        self.cursor = message.get("cursor", self.cursor)
        if message["event"] == "init":
            self.inits.append("resumed" if message.get("resumed") else message.get("reason"))
            self.rows |= {row["id"]: row["n"] for row in message.get("data", ())}
            return
        for row in message["data"]:
            self.states[row["id"]].append(row["n"])
            self.rows[row["id"]] = row["n"]

    async def becomes(self, rows: dict[int, int]) -> None:
        while self.rows != rows:
            self.take(await self.client.expect(type="subscription", timeout=WITHIN_S))

    async def until_closed(self) -> int | None:
        try:
            while True:
                self.take(await self.client.expect(type="subscription", timeout=WITHIN_S))
        except Closed as closed:
            return closed.code

    async def resume(self, url: str) -> None:
        self.client = await Client.connect(url)
        await self.subscribe(after=self.cursor)


async def test_memory_is_bounded_by_topic_and_all_are_told(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, v text);"
        f"INSERT INTO t SELECT id, 0, '' FROM generate_series(0, {KEYS - 1}) id"
    )
    attach(database, "t")
    states = {key: [n for n in range(1, STATEMENTS + 1) if n % 2 == key % 2] for key in range(KEYS)}
    newest = {key: of_key[-1] for key, of_key in states.items()}
    async with (
        BridgeProcess(database.dsn, "--backlog-bytes-max", str(BACKLOG_BYTES_MAX)) as bridge,
        AsyncExitStack() as stack,
    ):
        await bridge.ready()
        witness = Follower(await stack.enter_async_context(connected(bridge.url)))
        await witness.subscribe()
        slow: dict[str, list[Follower]] = {"close": [], "latest": [], "resync": []}
        for overflow, several in slow.items():
            for _ in range(CLIENTS_OF_EACH):
                several.append(Follower(await stack.enter_async_context(connected(bridge.url))))
                await several[-1].subscribe(overflow=overflow)
                several[-1].client.connection.transport.pause_reading()
        memory_bytes = [_memory_bytes(bridge.pid)]
        for n in range(1, STATEMENTS + 1):
            database.execute(f"UPDATE t SET n = {n}, v = repeat('x', {ROW_BYTES}) WHERE id % 2 = {n % 2}")
            await witness.becomes(dict(database.execute("SELECT id, n FROM t")))
            memory_bytes.append(_memory_bytes(bridge.pid))
        assert witness.states == states
        assert witness.inits == [None]
        assert max(memory_bytes) - memory_bytes[0] < GROWTH_BYTES_MAX

        for several in slow.values():
            for follower in several:
                follower.client.connection.transport.resume_reading()
        assert await asyncio.gather(*(each.until_closed() for each in slow["close"])) == [1013] * CLIENTS_OF_EACH
        assert all(follower.states != states for follower in slow["close"])
        await asyncio.gather(*(follower.resume(bridge.url) for follower in slow["close"]))
        await asyncio.gather(*(follower.becomes(newest) for several in slow.values() for follower in several))
        for follower in slow["close"]:
            assert follower.states == states
            assert follower.inits == [None, "resumed"]
            await follower.client.close()
        assert [follower.inits for follower in slow["latest"]] == [[None]] * CLIENTS_OF_EACH
        assert [follower.inits for follower in slow["resync"]] == [[None, "resync"]] * CLIENTS_OF_EACH


def _memory_bytes(pid: int) -> int:
    words = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()
    return int(words[0]) * 1024
