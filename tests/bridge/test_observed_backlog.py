"""What waits for a client that is busy: how much of it may, in which frames it goes, and whose turn it is."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.proxy import Proxy
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)")
    attach(database, "t", "u")
    return database


async def subscribe(client: Client, table: str = "t", **options: Any) -> None:
    query = {"fields": ["id"], "sort": ["id"], "limit": -1}
    await client.send({"type": "subscribe", "collection": table, "uid": table, "query": query} | options)
    await client.expect(event="init")


async def test_client_that_sends_requests_and_reads_no_answer_is_closed(tables: Database) -> None:
    async with running_bridge(tables.dsn, backlog_bytes_max=64 * 1024) as bridge, connected(bridge.url) as client:
        client.connection.transport.pause_reading()
        for _ in range(3000):
            await client.send({"type": "ping"})
        await is_sent_to(client, b"too slow")
        client.connection.transport.resume_reading()
        assert await client.closed() == 1013
        assert len(client.seen) < 3000


async def is_sent_to(client: Client, text: bytes) -> None:
    """Wait until this has come to a client that reads nothing. Nothing but looking tells."""
    number = client.connection.transport.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(number)) as looking:
        async with asyncio.timeout(20):
            while text not in _waiting(looking):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def _waiting(looking: socket.socket) -> bytes:
    """What a socket has received and nobody has read."""
    try:
        return looking.recv(1 << 20, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


async def test_subscriptions_of_a_client_take_turns(tables: Database) -> None:
    """One has 100,000 rows waiting when something happens to the other one."""
    async with (
        running_bridge(tables.dsn) as bridge,
        Proxy.before_bridge(bridge.url) as proxy,
        connected(proxy.url) as client,
        connected(bridge.url) as witness,
    ):
        for each in (client, witness):
            await subscribe(each, "t")
            await subscribe(each, "u")
        proxy.hold_replies()
        tables.execute("INSERT INTO t SELECT n FROM generate_series(1, 100000) n")
        await witness.collect(100_000, uid="t")
        tables.execute("INSERT INTO u VALUES (1)")
        await witness.until(uid="u", event="create")
        proxy.let_replies_go()
        uids = [(await client.next())["uid"] for _ in range(10)]
        assert "u" in uids
        assert len(await client.collect(90_000, uid="t")) < 100_000


async def test_rows_that_leave_together_keep_their_transactions_and_old_values(tables: Database) -> None:
    """Three transactions of two statements each, which all wait for the client."""
    tables.execute("INSERT INTO t SELECT n, '0' FROM generate_series(1, 3) n")
    async with (
        running_bridge(tables.dsn) as bridge,
        Proxy.before_bridge(bridge.url) as proxy,
        connected(proxy.url) as client,
        connected(bridge.url) as witness,
    ):
        query = {"fields": ["id", "v"], "limit": -1}
        for each in (client, witness):
            await subscribe(each, query=query, tx=True, old=True)
        proxy.hold_replies()
        xids: dict[str, str] = {}
        for version in ("1", "3", "5"):
            following = str(int(version) + 1)
            [(xid,)] = tables.execute(
                f"BEGIN; UPDATE t SET v = '{version}' WHERE id < 3; UPDATE t SET v = '{following}' WHERE id > 1;"
                "SELECT pg_current_xact_id()::text"
            )
            xids |= {version: xid, following: xid}
        while (await witness.next())["data"][-1] != {"id": 3, "v": "6"}:
            pass
        proxy.let_replies_go()
        rows: dict[int, list[str]] = {1: ["0"], 2: ["0"], 3: ["0"]}
        while rows[3][-1] != "6":
            message = await client.expect(event="update")
            assert len(message["data"]) == len(message["old"])
            for row, old in zip(message["data"], message["old"], strict=True):
                assert message["tx"]["id"] == xids[row["v"]]
                assert old == {"id": row["id"], "v": rows[row["id"]][-1]}
                rows[row["id"]].append(row["v"])
        assert rows == {1: ["0", "1", "3", "5"], 2: list("0123456"), 3: ["0", "2", "4", "6"]}
