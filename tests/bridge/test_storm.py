"""Hundreds of clients lose their bridge at once and come back to the next one together, as in a deployment."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.proxy import Proxy
from tests.support.rawclient import UPGRADE, raw
from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(240)]

CLIENTS = 300
WITHIN_S = 120
NOWHERE = "host=127.0.0.1 port=1"
QUEUED = 700
LOG_SESSION = b"'plan_cache_mode'"
"""In the first statement of each reading of the log for clients."""

QUERIES: Sequence[tuple[dict[str, Any], int]] = (
    ({}, 1),
    ({}, 1),
    ({"filter": {"n": {"_eq": 0}}}, 3),
    ({"fields": ["id"], "filter": {"id": {"_gt": 0}}}, 1),
)
"""What clients ask for by turns: of a query with a filter only each third row is sent."""


@dataclass
class Visitor:
    """One client over all its connections: the ids that it was told, in their order, and its last cursor."""

    query: dict[str, Any]
    step: int
    ids: list[int] = field(default_factory=list)
    cursor: str = ""
    inits: list[Message] = field(default_factory=list)
    client: Client | None = None

    async def connect(self, url: str) -> None:
        self.client = await Client.connect(url)

    async def subscribe(self) -> None:
        assert self.client is not None
        asked = {"type": "subscribe", "collection": "t", "cursor": True, "query": {"limit": 0} | self.query}
        await self.client.send(asked | ({"after": self.cursor} if self.cursor else {}))

    async def knows(self, last: int) -> None:
        """Read until it has been told of this row."""
        assert self.client is not None
        while not self.ids or self.ids[-1] < last:
            message = await self.client.next(WITHIN_S)
            self.cursor = message["cursor"]
            if message["event"] == "init":
                self.inits.append(message)
            else:
                assert message["event"] == "create"
                self.ids += [row["id"] for row in message["data"]]

    def expected(self, first: int, last: int) -> list[int]:
        return [number for number in range(first, last + 1) if number % self.step == 0]


async def test_clients_of_a_killed_bridge_resume_together_and_the_log_is_read_for_many_at_once(
    database: Database,
) -> None:
    """Each gets every row that it missed once and in order, and nobody gets fresh data."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE other (id int)")
    attach(database, "t", "other")
    visitors = [Visitor(*QUERIES[number % len(QUERIES)]) for number in range(CLIENTS)]
    async with Proxy.before(database.dsn) as proxy:
        async with BridgeProcess(proxy.dsn(database.dsn)) as bridge:
            await bridge.ready()
            for number, third in enumerate((visitors[::3], visitors[1::3], visitors[2::3])):
                await asyncio.gather(*(visitor.connect(bridge.url) for visitor in third))
                await asyncio.gather(*(visitor.subscribe() for visitor in third))
                for visitor in third:
                    assert visitor.client is not None
                    visitor.inits.append(message := await visitor.client.until(event="init", timeout=WITHIN_S))
                    visitor.cursor = message["cursor"]
                database.execute("INSERT INTO other VALUES (1)")
                if number < 2:  # the last third has nothing but its data
                    insert(database, 3 * number + 1, 3 * number + 3)
                    known = [visitor for visitor in visitors if visitor.inits]
                    await asyncio.gather(*(visitor.knows(3 * number + 3) for visitor in known))
            bridge.kill()
            await bridge.wait()
        for first in range(7, 207, 10):
            insert(database, first, first + 9)
        proxy.requests[LOG_SESSION] = 0
        async with BridgeProcess(proxy.dsn(database.dsn)) as bridge:
            await bridge.ready()
            await asyncio.gather(*(visitor.connect(bridge.url) for visitor in visitors))
            await asyncio.gather(*(visitor.subscribe() for visitor in visitors))
            insert(database, 207, 207)
            await asyncio.gather(*(visitor.knows(207) for visitor in visitors))
    for number, visitor in enumerate(visitors):
        first = (1, 4, 7)[number % 3]
        assert visitor.ids == visitor.expected(first, 207)
        assert [init.get("resumed") for init in visitor.inits] == [None, True]
        assert all("reason" not in init for init in visitor.inits)
    assert 0 < proxy.requests[LOG_SESSION] < CLIENTS / 3


async def test_clients_that_come_while_the_bridge_is_busy_wait_in_the_queue_of_the_kernel() -> None:
    """None has to try again, which TCP does after seconds; what they sent meanwhile is there when they are accepted."""
    async with BridgeProcess(NOWHERE) as bridge, contextlib.AsyncExitStack() as stack:
        bridge.signal(signal.SIGSTOP)
        clients = [await stack.enter_async_context(raw(port_of(bridge))) for _ in range(QUEUED)]
        for client in clients:
            await client.send(f"{UPGRADE}\r\n".encode())
        bridge.signal(signal.SIGCONT)
        for client in clients:
            assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")


async def test_bridge_with_too_many_open_files_accepts_clients_later() -> None:
    """It says so, goes on for those whom it has, and serves the others as soon as it can."""
    async with BridgeProcess(NOWHERE) as bridge, connected(bridge.url) as known, contextlib.AsyncExitStack() as stack:
        before = resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE, (0, before[1]))
        client = await stack.enter_async_context(raw(port_of(bridge)))
        await client.send(f"{UPGRADE}\r\n".encode())
        await bridge.says("connections cannot be accepted")
        await known.send({"type": "ping"})
        await known.expect(type="pong")
        resource.prlimit(bridge.pid, resource.RLIMIT_NOFILE, before)
        assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
    assert "Traceback" not in bridge.stderr


def port_of(bridge: BridgeProcess) -> int:
    return int(bridge.http.rpartition(":")[2])


def insert(database: Database, first: int, last: int) -> None:
    database.execute(f"INSERT INTO t SELECT id, id % 3 FROM generate_series({first}, {last}) id")
