"""What a subscription asks for decides what it is told, also where keys change; and what the handshake offers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'in'), (2, 'out')")
    attach(database, "t")
    return database


async def subscribe(client: Client, **options: Any) -> None:
    await client.send({"type": "subscribe", "collection": "t"} | options)
    await client.expect(event="init")


async def test_row_that_changes_its_key_is_no_update(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client, connected(bridge.url) as other:
        await subscribe(client, event="update")
        await subscribe(other)
        table.execute("UPDATE t SET id = 3 WHERE id = 1")
        await other.expect(event="delete", data=[1])
        await other.expect(event="create", data=[{"id": 3, "v": "in"}])
        table.execute("UPDATE t SET v = 'new' WHERE id = 2")
        await client.expect(event="update", data=[{"id": 2, "v": "new"}])


async def test_row_that_changes_its_key_enters_a_filter_under_the_new_one(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, query={"filter": {"v": {"_eq": "in"}}})
        table.execute("UPDATE t SET id = 3, v = 'in' WHERE id = 2")
        await client.expect(event="update", data=[{"id": 3, "v": "in"}])
        table.execute("DELETE FROM t")
        assert sorted((await client.expect(event="delete"))["data"]) == [1, 3]


async def test_row_that_changes_its_key_leaves_a_filter_under_the_old_one(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, query={"filter": {"v": {"_eq": "in"}}})
        table.execute("UPDATE t SET id = 3, v = 'out' WHERE id = 1")
        await client.expect(event="delete", data=[1], reason="leave")
        table.execute("DELETE FROM t; INSERT INTO t VALUES (4, 'in')")
        await client.expect(event="create", data=[{"id": 4, "v": "in"}])


async def test_rows_that_enter_leave_and_stay_while_their_keys_change_end_as_in_the_table(table: Database) -> None:
    table.execute("INSERT INTO t SELECT n, 'in' FROM generate_series(11, 19) n")
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "t", "query": {"filter": {"v": {"_eq": "in"}}}})
        known = {row["id"] for row in (await client.expect(event="init"))["data"]}
        table.execute(
            "UPDATE t SET id = id + 100, v = CASE WHEN id % 3 = 0 THEN 'out' WHEN id % 3 = 1 THEN 'in' ELSE v END"
        )
        table.execute("INSERT INTO t VALUES (1000, 'in')")
        while 1000 not in known:
            message = await client.next()
            if message["event"] == "delete":
                assert known.issuperset(message["data"])
                known.difference_update(message["data"])
            else:
                known |= {row["id"] for row in message["data"]}
        assert known == {row_id for (row_id,) in table.execute("SELECT id FROM t WHERE v = 'in'")}


@pytest.mark.parametrize("compression", [False, True])
async def test_compression_is_offered_where_it_is_on_alone(table: Database, compression: bool) -> None:
    async with (
        running_bridge(table.dsn, compression=compression) as bridge,
        connected(bridge.url, compression="deflate") as client,
    ):
        response = client.connection.response
        assert response is not None
        assert ("permessage-deflate" in response.headers.get("Sec-WebSocket-Extensions", "")) is compression
