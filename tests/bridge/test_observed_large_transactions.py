"""Transactions that are too large to be told in one go, while other changes come and clients read slowly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.bridge.test_gate import gate_becomes
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess, running_bridge
from tests.support.proxy import Proxy
from tests.support.server import Database
from tests.support.wsclient import Client, Closed, Message, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(90)]

ROWS, UPDATES = 2500, 4
BACKLOG_BYTES = 96 * 1024
"""Much less than what a large transaction comes to, and more than a page of it."""

GROWTH_BYTES_MAX = 28 * 1024 * 1024
"""Less than the text of a transaction of three times the size."""

FENCE = 9_999_999
QUERY: dict[str, Any] = {"fields": ["id", "v"], "limit": -1}


@pytest.fixture
def tables(database: Database) -> Database:
    """`a` and `b` for large transactions of about 10 MiB, `c` for small ones."""
    for name in ("a", "b"):
        database.execute(
            f"CREATE TABLE {name} (id int PRIMARY KEY, v int NOT NULL, pad text);"
            f"INSERT INTO {name} SELECT n, 0, repeat('x', 1000) FROM generate_series(1, {ROWS}) n"
        )
    database.execute("CREATE TABLE c (id int PRIMARY KEY)")
    attach(database, "a", "b", "c")
    return database


def large(table: str) -> str:
    return "; ".join([f"UPDATE {table} SET v = v + 1"] * UPDATES)


async def subscribe(client: Client, table: str, uid: str = "u", **options: Any) -> None:
    query = {"fields": ["id"], "limit": -1} if table == "c" else QUERY
    await client.send({"type": "subscribe", "collection": table, "uid": uid, "query": query} | options)


async def is_told_in_order(client: Client, message: Message | None = None) -> None:
    """Every update of every row once, in its order, and behind them the row that was written last.

    `message`: the first one, where it has been taken already.
    """
    versions = dict.fromkeys(range(1, ROWS + 1), 0)
    while True:
        message = message or await client.next(30)
        if message["event"] == "create":
            assert message["data"] == [{"id": FENCE, "v": 0}], "a small change came before the large ones"
            break
        assert message["event"] == "update"
        for row in message["data"]:
            assert row["v"] == versions[row["id"]] + 1
            versions[row["id"]] = row["v"]
        message = None
    assert set(versions.values()) == {UPDATES}


def write_fence(database: Database, table: str) -> None:
    database.execute(f"INSERT INTO {table} VALUES ({FENCE}, 0)")


async def others_are_told(client: Client, database: Database, times: int = 20) -> None:
    """Small changes of `c` arrive, one after the other: long enough for what is not waited with to happen."""
    [(first,)] = database.execute("SELECT coalesce(max(id), 0) + 1 FROM c")
    for row_id in range(first, first + times):
        database.execute("INSERT INTO c VALUES (%s)", [row_id])
        await client.expect(event="create", data=[{"id": row_id}])


@asynccontextmanager
async def slow_client(url: str, table: str, **options: Any) -> AsyncIterator[tuple[Client, Proxy]]:
    """One that follows the table and is sent nothing until the proxy lets replies go."""
    async with Proxy.before_bridge(url) as proxy, connected(proxy.url) as client:
        await subscribe(client, table, **options)
        await client.expect(event="init")
        proxy.hold_replies()
        try:
            yield client, proxy
        finally:
            proxy.cut()  # else it would wait for the answer to its farewell


@pytest.mark.parametrize("stalled", ["a", "b"])
async def test_two_large_transactions_are_told_side_by_side_and_small_changes_wait_for_their_own(
    tables: Database, stalled: str
) -> None:
    """Nobody takes what is told of one of them, so it goes on while the other one is told and small changes come."""
    async with (
        running_bridge(tables.dsn, backlog_bytes_max=BACKLOG_BYTES) as bridge,
        slow_client(bridge.url, stalled) as (slow, proxy),
        connected(bridge.url) as quick,
        connected(bridge.url) as small,
    ):
        for client, table in ((quick, "b" if stalled == "a" else "a"), (small, "c")):
            await subscribe(client, table)
            await client.expect(event="init")
        await gate_becomes(tables, is_open=True)  # so small changes are notified, with their rows
        with psycopg.connect(tables.dsn) as first, psycopg.connect(tables.dsn) as second:
            first.execute(large("a").encode())
            second.execute(large("b").encode())
        first_message = await quick.next()  # so both have begun
        for table in ("a", "b"):
            write_fence(tables, table)
        await is_told_in_order(quick, first_message)
        await others_are_told(small, tables)
        proxy.let_replies_go()
        await is_told_in_order(slow)


async def test_large_transaction_goes_on_with_the_quickest_client(tables: Database) -> None:
    """Who takes nothing meanwhile is closed when too much waits, and the others are told everything."""
    async with (
        running_bridge(tables.dsn, backlog_bytes_max=BACKLOG_BYTES) as bridge,
        slow_client(bridge.url, "a") as (slow, proxy),
        connected(bridge.url) as quick,
    ):
        await subscribe(quick, "a")
        await quick.expect(event="init")
        tables.execute(large("a"))
        write_fence(tables, "a")
        await is_told_in_order(quick)
        proxy.let_replies_go()
        with pytest.raises(Closed, match="1013"):
            await slow.until(event="none", timeout=30)


async def test_heartbeats_prove_nothing_for_a_table_of_which_a_large_transaction_is_still_told(
    tables: Database,
) -> None:
    """The data of somebody who comes meanwhile have all of it, and whatever is told later is not told to them again.

    It is told to nobody until that one comes, and then while one heartbeat follows the other.
    """
    everything = QUERY | {"fields": ["id", "v", "pad"]}
    async with (
        running_bridge(tables.dsn, backlog_bytes_max=10 * BACKLOG_BYTES, heartbeat_interval_s=0.004) as bridge,
        slow_client(bridge.url, "a", query=everything),
        connected(bridge.url) as small,
        connected(bridge.url) as late,
    ):
        await subscribe(small, "c")
        await small.expect(event="init")
        tables.execute(large("a"))
        await others_are_told(small, tables)
        await subscribe(late, "a")
        assert {row["v"] for row in (await late.expect(event="init"))["data"]} == {UPDATES}
        write_fence(tables, "a")
        await late.expect(event="create", data=[{"id": FENCE, "v": 0}], timeout=30)


async def test_memory_stays_bounded_while_a_large_transaction_waits_for_its_client(tables: Database) -> None:
    tables.execute(f"INSERT INTO a SELECT n, 0, repeat('x', 1000) FROM generate_series({ROWS + 1}, {3 * ROWS}) n")
    async with (
        BridgeProcess(tables.dsn, "--backlog-bytes-max", str(BACKLOG_BYTES)) as bridge,
        connected(bridge.url) as small,
    ):
        await bridge.ready()
        await subscribe(small, "c")
        await small.expect(event="init")
        async with slow_client(bridge.url, "a") as (slow, proxy):
            status = Path(f"/proc/{bridge.pid}/status")
            before_bytes = peak_bytes(status)
            tables.execute(large("a"))
            write_fence(tables, "a")
            await others_are_told(small, tables, 100)
            grown_bytes = peak_bytes(status) - before_bytes
            proxy.let_replies_go()
            while (await slow.next(30))["event"] == "update":
                pass
        assert grown_bytes < GROWTH_BYTES_MAX


def peak_bytes(status: Path) -> int:
    """The most that a process has taken so far."""
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
