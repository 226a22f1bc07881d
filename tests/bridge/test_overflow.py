"""Clients that stop reading, read on, or are slow: what each `overflow` does, with PostgreSQL and real sockets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, Closed, Message, connected

pytestmark = [pytest.mark.timeout(120)]

BACKLOG_BYTES_MAX = 64 * 1024


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, n int, v text); INSERT INTO t VALUES (0, 0, '')")
    attach(database, "t")
    return database


class Copy:
    """What a client knows of `t`, which it may stop to read."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.rows: dict[int, int] = {}
        self.cursor: str | None = None
        self.inits: list[str | None] = []

    async def subscribe(self, **options: Any) -> None:
        query = {"fields": ["id", "n", "v"], "limit": -1}
        await self.client.send({"type": "subscribe", "collection": "t", "uid": "t", "query": query} | options)
        self.take(await self.client.expect(event="init"))

    def take(self, message: Message) -> None:
        self.cursor = message.get("cursor", self.cursor)
        if message["event"] == "init":
            self.inits.append("resumed" if message.get("resumed") else message.get("reason"))
            if "data" in message:
                self.rows.clear()
        for each in message.get("data", ()):
            if message["event"] == "delete":
                self.rows.pop(each, None)
            else:
                self.rows[each["id"]] = each["n"]

    def stop(self) -> None:
        self.client.connection.transport.pause_reading()

    def read_on(self) -> None:
        self.client.connection.transport.resume_reading()

    async def becomes(self, rows: dict[int, int]) -> None:
        while self.rows != rows:
            self.take(await self.client.expect(type="subscription"))

    async def until_closed(self) -> int | None:
        try:
            while True:
                self.take(await self.client.expect(type="subscription"))
        except Closed as closed:
            return closed.code


def truth(database: Database) -> dict[int, int]:
    return dict(database.execute("SELECT id, n FROM t"))


def upsert(database: Database, n: int, rows: str) -> None:
    database.execute(f"INSERT INTO t {rows} ON CONFLICT (id) DO UPDATE SET n = {n}, v = excluded.v")


async def change_much(database: Database, witness: Copy) -> None:
    """More than may wait, of a few rows. The witness reads all the time, so all of it has come when it has it."""
    for n in range(1, 120):
        upsert(database, n, f"VALUES ({n % 3}, {n}, repeat('x', 2000))")
        if n % 10 == 0:
            await witness.becomes(truth(database))
    database.execute("DELETE FROM t WHERE id = 1")
    await witness.becomes(truth(database))


async def test_client_that_is_closed_goes_on_from_the_last_cursor_that_it_received(table: Database) -> None:
    async with running_bridge(table.dsn, backlog_bytes_max=BACKLOG_BYTES_MAX) as bridge, connected(bridge.url) as other:
        witness = Copy(other)
        await witness.subscribe()
        async with connected(bridge.url) as client:
            copy = Copy(client)
            await copy.subscribe(cursor=True)
            copy.stop()
            await change_much(table, witness)
            copy.read_on()
            assert await copy.until_closed() == 1013
            assert copy.rows != truth(table)
        async with connected(bridge.url) as client:
            copy.client = client
            await copy.subscribe(cursor=True, after=copy.cursor)
            await copy.becomes(truth(table))
            assert copy.inits == [None, "resumed"]


@pytest.mark.parametrize(("overflow", "inits"), [("resync", [None, "resync"]), ("latest", [None])])
@pytest.mark.parametrize("pace", ["on", "off"])
async def test_client_that_reads_on_has_the_table_again(
    table: Database, overflow: str, inits: list[str | None], pace: str
) -> None:
    """Without pacing, the kernel and the transport have much before anything waits in the bridge."""
    backlog_bytes_max = BACKLOG_BYTES_MAX if pace == "on" else 64 * BACKLOG_BYTES_MAX
    async with (
        running_bridge(table.dsn, backlog_bytes_max=backlog_bytes_max) as bridge,
        connected(bridge.url) as other,
        connected(f"{bridge.url}?pace={pace}") as client,
    ):
        witness, copy = Copy(other), Copy(client)
        await witness.subscribe()
        await copy.subscribe(overflow=overflow, cursor=True)
        copy.stop()
        if pace == "off":
            for n in range(30):
                upsert(table, n, f"SELECT id, {n}, repeat('x', 10000) FROM generate_series(1000, 1100) id")
                await witness.becomes(truth(table))
        await change_much(table, witness)
        copy.read_on()
        await copy.becomes(truth(table))
        assert copy.inits == inits
        table.execute("UPDATE t SET n = -1 WHERE id = 2")
        await copy.becomes(truth(table))
        cursor = copy.cursor
        await client.send({"type": "unsubscribe", "uid": "t"})
        await client.expect(event="unsubscribe")
        table.execute("UPDATE t SET n = -2 WHERE id = 2")
        await copy.subscribe(overflow=overflow, cursor=True, after=cursor)
        await copy.becomes(truth(table))
        assert copy.inits == [*inits, "resumed"]


async def test_clients_that_stop_at_once_are_told_and_others_are_served_meanwhile(table: Database) -> None:
    """A hundred of each kind."""
    async with (
        running_bridge(table.dsn, backlog_bytes_max=BACKLOG_BYTES_MAX) as bridge,
        connected(bridge.url) as other,
        AsyncExitStack() as stack,
    ):
        witness = Copy(other)
        await witness.subscribe()
        copies: dict[str, list[Copy]] = {"close": [], "latest": [], "resync": []}
        for overflow, several in copies.items():
            for _ in range(100):
                several.append(Copy(await stack.enter_async_context(connected(bridge.url))))
                await several[-1].subscribe(overflow=overflow)
                several[-1].stop()
        await change_much(table, witness)
        for several in copies.values():
            for copy in several:
                copy.read_on()
        assert await asyncio.gather(*[each.until_closed() for each in copies["close"]]) == [1013] * 100
        for overflow, inits in [("latest", [None]), ("resync", [None, "resync"])]:
            for copy in copies[overflow]:
                await copy.becomes(truth(table))
                assert copy.inits == inits


async def test_client_without_a_key_among_its_fields_gets_fresh_data_instead_of_the_latest(table: Database) -> None:
    async with (
        running_bridge(table.dsn, backlog_bytes_max=BACKLOG_BYTES_MAX) as bridge,
        connected(bridge.url) as other,
        connected(bridge.url) as client,
    ):
        witness = Copy(other)
        await witness.subscribe()
        query = {"fields": ["n", "v"], "limit": -1}
        await client.send({"type": "subscribe", "collection": "t", "query": query, "overflow": "latest"})
        await client.expect(event="init")
        client.connection.transport.pause_reading()
        await change_much(table, witness)
        client.connection.transport.resume_reading()
        init = await client.until(event="init", reason="resync")
        assert sorted(row["n"] for row in init["data"]) == sorted(truth(table).values())


async def test_status_says_how_far_behind_a_client_is(table: Database) -> None:
    """The answer is the first thing that a client reads which has sent the question while it did not read."""
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as other, connected(bridge.url) as client:
        witness, copy = Copy(other), Copy(client)
        await witness.subscribe()
        await copy.subscribe()
        await client.send({"type": "status", "uid": "s"})
        idle = {"uid": "t", "bytes": 0, "events": 0, "seconds": 0.0}
        assert await client.next() == {"type": "status", "data": [idle], "uid": "s"}
        copy.stop()
        await change_much(table, witness)
        await client.send({"type": "status", "uid": "s"})
        await other.send({"type": "status"})
        await other.until(type="status")
        copy.read_on()
        answer = await client.until(type="status")
        (lag,) = answer["data"]
        assert lag["uid"] == "t"
        assert 100 <= lag["events"] <= 120
        assert lag["bytes"] > 100 * 2000
        assert 0 < lag["seconds"] < 60
        await copy.becomes(truth(table))
