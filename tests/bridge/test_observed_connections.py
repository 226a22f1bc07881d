"""Connections to PostgreSQL that break at any point, and heartbeats while writers are too busy to notify."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.bridge.test_gate import gate_becomes
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.holding import held_table
from tests.support.proxy import Proxy
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(90)]

QUERY: dict[str, Any] = {"fields": ["id", "v"], "limit": -1}


@pytest.fixture
def tables(database: Database) -> Database:
    """`t` for small changes, `a` for large transactions."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text);"
        "CREATE TABLE a (id int PRIMARY KEY, v int NOT NULL, pad text);"
        "INSERT INTO a SELECT n, 0, repeat('x', 1000) FROM generate_series(1, 1200) n"
    )
    attach(database, "t", "a")
    return database


@asynccontextmanager
async def breaking(tables: Database, table: str) -> AsyncIterator[tuple[Proxy, Client]]:
    """A bridge that reaches the database through a proxy, and a client that follows a table."""
    async with Proxy.before(tables.dsn) as proxy:
        quick: dict[str, Any] = {"heartbeat_interval_s": 0.02, "reconnect_delay_max_s": 0.05}
        async with running_bridge(proxy.dsn(tables.dsn), **quick) as bridge, connected(bridge.url) as client:
            await client.send({"type": "subscribe", "collection": table, "query": QUERY})
            await client.expect(event="init")
            yield proxy, client


async def created(client: Client, last: int) -> list[int]:
    """The ids of all rows up to this one."""
    found: list[int] = []
    while last not in found:
        found += [row["id"] for row in (await client.expect(event="create", timeout=20))["data"]]
    return found


async def test_burst_is_told_once_and_in_order_wherever_connections_break(tables: Database) -> None:
    """Single rows, a transaction of several statements, and rows that are notified without their values."""
    burst = 57
    async with breaking(tables, "t") as (proxy, client):

        def write(first: int) -> list[int]:
            tables.execute(f"INSERT INTO t VALUES ({first})")
            tables.execute("; ".join(f"INSERT INTO t VALUES ({first + n})" for n in (1, 2, 3)))
            tables.execute(f"INSERT INTO t VALUES ({first + 4}, repeat('x', 20000))")
            tables.execute(f"INSERT INTO t SELECT n FROM generate_series({first + 5}, {first + 54}) n ORDER BY n")
            tables.execute(f"INSERT INTO t VALUES ({first + 55})")
            tables.execute(f"INSERT INTO t VALUES ({first + 56})")
            return list(range(first, first + burst))

        before = proxy.replied_bytes
        rows = write(0)
        assert await created(client, rows[-1]) == rows
        whole_bytes = proxy.replied_bytes - before
        for number in range(20):
            proxy.cut_after(1 + whole_bytes * number // 20)
            rows = write(burst * (number + 1))
            assert await created(client, rows[-1]) == rows


async def test_large_transaction_is_told_once_and_in_order_wherever_connections_break(tables: Database) -> None:
    async with breaking(tables, "a") as (proxy, client):
        versions = dict.fromkeys(range(1, 1201), 0)

        async def is_told(upto: int) -> None:
            while set(versions.values()) != {upto}:
                for row in (await client.expect(event="update", timeout=20))["data"]:
                    assert row["v"] == versions[row["id"]] + 1
                    versions[row["id"]] = row["v"]

        large = "; ".join(["UPDATE a SET v = v + 1"] * 4)
        before = proxy.replied_bytes
        tables.execute(large)
        await is_told(4)
        whole_bytes = proxy.replied_bytes - before
        for number in range(1, 6):
            proxy.cut_after(whole_bytes * number // 6)
            tables.execute(large)
            await is_told(4 * number + 4)


async def test_change_is_told_though_connections_break_while_it_is_asked_what_it_shows(tables: Database) -> None:
    tables.execute(
        "CREATE TABLE author (id int PRIMARY KEY, name text); INSERT INTO author VALUES (1, 'Ann');"
        "ALTER TABLE t ADD author int REFERENCES author"
    )
    attach(tables, "author")
    async with (
        Proxy.before(tables.dsn) as proxy,
        running_bridge(proxy.dsn(tables.dsn), reconnect_delay_max_s=0.1) as bridge,
        connected(bridge.url) as client,
    ):
        query = {"fields": ["id", "author.name"], "limit": -1}
        await client.send({"type": "subscribe", "collection": "t", "query": query})
        await client.expect(event="init", data=[])
        async with held_table(tables, "author") as hold:
            tables.execute("SET session_replication_role = replica; INSERT INTO t VALUES (1, 'a', 1)")
            await hold.is_waited_for()
            proxy.cut()
        await client.expect(data=[{"id": 1, "author": {"name": "Ann"}}], timeout=20)
        tables.execute("INSERT INTO t VALUES (2, 'b', 1)")
        await client.until(event="create", data=[{"id": 2, "author": {"name": "Ann"}}], timeout=20)


async def test_heartbeats_prove_nothing_that_busy_writers_do_not_notify(tables: Database) -> None:
    async with (
        running_bridge(tables.dsn, heartbeat_interval_s=0.004) as bridge,
        connected(bridge.url) as client,
        await tables.connect() as writer,
    ):
        await client.send({"type": "subscribe", "collection": "t", "query": QUERY})
        await client.expect(event="init")
        written = 0
        for _ in range(2):  # busy enough for the gate to shut, and then as many again
            for row_id in range(written, written + 400):
                await writer.execute("INSERT INTO t VALUES (%s)", [row_id])
            written += 400
            await gate_becomes(tables, is_open=False)
        assert await created(client, written - 1) == list(range(written))
