"""A client that comes back with any cursor that it was given: nothing is missing, and nothing is told that it had."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode, Notify, record_notify
from tests.bridge.missed import write_untold
from tests.bridge.test_gate import gate_becomes
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.follower import beginning, following
from tests.support.proxy import Proxy
from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]

Told: TypeAlias = tuple[str, Any]
"""The event of a row, and its id."""

FENCE = 9_999_999
"""The id of a row that is written last."""


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    attach(database, "t")
    return database


async def subscribe(client: Client, **options: Any) -> Message:
    """With cursors; the `init` is handed back."""
    query = {"fields": ["id"], "sort": ["id"], "limit": -1}
    await client.send({"type": "subscribe", "collection": "t", "cursor": True, "query": query} | options)
    return await client.until(event="init")


def told_by(message: Message) -> list[Told]:
    event = message["event"]
    return [(event, row if event == "delete" else row["id"]) for row in message["data"]]


async def until_fence(client: Client) -> list[Message]:
    """All messages up to the row that is written last."""
    messages = [await client.next()]
    while ("create", FENCE) not in told_by(messages[-1]):
        messages.append(await client.next())
    return messages


async def missed(url: str, cursor: str) -> list[Told]:
    """What somebody is told who comes back with this cursor, after which something has been written."""
    async with connected(url) as client:
        assert (await subscribe(client, after=cursor)).get("resumed") is True
        return [told for message in await until_fence(client) for told in told_by(message)]


def write_fence(database: Database) -> None:
    database.execute(f"INSERT INTO t VALUES ({FENCE})")


async def test_resuming_inside_of_a_transaction_brings_its_other_statements_once(table: Database) -> None:
    """Every statement is an event of its own with a cursor of its own; whoever has it comes back with that."""
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await gate_becomes(table, is_open=True)
        await subscribe(client)
        table.execute(
            "INSERT INTO t VALUES (1); UPDATE t SET v = 'x'; INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 1;"
            "INSERT INTO t VALUES (3); UPDATE t SET v = 'y' WHERE id = 2"
        )
        write_fence(table)
        messages = await until_fence(client)
        told = [told for message in messages for told in told_by(message)]
        assert told == [
            ("create", 1), ("update", 1), ("create", 2), ("delete", 1), ("create", 3), ("update", 2), ("create", FENCE)
        ]  # fmt: skip
        assert len(messages) == len(told)
        for number, message in enumerate(messages[:-1], 1):
            assert await missed(bridge.url, message["cursor"]) == told[number:]


async def test_cursor_after_an_event_claims_nothing_that_its_own_data_did_not_have(table: Database) -> None:
    """A transaction is in progress when the data are read, and commits after an event has come and the client left."""
    table.execute("INSERT INTO t VALUES (1)")
    async with running_bridge(table.dsn) as bridge, await table.connect(autocommit=False) as slow:
        await slow.execute("INSERT INTO t VALUES (2)")
        async with connected(bridge.url) as client:
            first = await subscribe(client)
            assert first["data"] == [{"id": 1}]
            table.execute("INSERT INTO t VALUES (3)")
            event = await client.expect(event="create", data=[{"id": 3}])
        await slow.commit()
        write_fence(table)
        assert await missed(bridge.url, event["cursor"]) == [("create", 2), ("create", FENCE)]
        after_init = await missed(bridge.url, first["cursor"])
        assert sorted(after_init[:2]) == [("create", 2), ("create", 3)]


async def test_cursor_after_an_event_claims_all_that_its_own_data_had(table: Database) -> None:
    """The log is read after both transactions; the one that the data have stands there behind the one they lack."""
    with psycopg.connect(table.dsn, autocommit=True) as connection:
        record_notify(connection, "cdc", Notify.OFF)
    async with (
        running_bridge(table.dsn, poll_interval_s=0.5) as bridge,
        following(bridge.url) as witness,
        await table.connect(autocommit=False) as slow,
        connected(bridge.url) as client,
    ):
        table.execute("INSERT INTO t VALUES (0)")
        await witness.knows(0)  # so the log has just been read
        await slow.execute("INSERT INTO t VALUES (1)")
        table.execute("INSERT INTO t VALUES (2)")
        assert (await subscribe(client))["data"] == [{"id": 0}, {"id": 2}]
        await slow.commit()
        event = await client.expect(event="create", data=[{"id": 1}])
        write_fence(table)
        assert await missed(bridge.url, event["cursor"]) == [("create", FENCE)]


async def test_cursor_from_before_a_gap_ends_in_fresh_data_and_one_from_after_it_does_not(table: Database) -> None:
    async with (
        running_bridge(table.dsn, heartbeat_interval_s=0.1) as bridge,
        following(bridge.url) as follower,
        await table.connect() as writer,
    ):
        table.execute("INSERT INTO t VALUES (1)")
        await follower.knows(1)
        before = follower.cursor
        async with writer.transaction():
            await write_untold(writer, Mode.DURABLE, "INSERT INTO t VALUES (2)")
        await follower.knows(1, 2)
        table.execute("INSERT INTO t VALUES (3)")
        await follower.knows(1, 2, 3)
        assert await beginning(bridge.url, before) == "resync"
        async with following(bridge.url) as late:
            assert await beginning(bridge.url, late.cursor) == "resumed"


async def test_resuming_over_an_emptied_partition_ends_with_the_rows_of_the_table(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE high PARTITION OF t FOR VALUES FROM (100) TO (10000000);"
        "INSERT INTO t VALUES (1), (2), (101)"
    )
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge:
        async with following(bridge.url) as follower:
            database.execute("INSERT INTO t VALUES (102)")
            await follower.knows(1, 2, 101, 102)
        database.execute("TRUNCATE low")
        database.execute("INSERT INTO t VALUES (3)")
        async with following(bridge.url, "t", follower.cursor, follower.rows) as returned:
            await returned.knows(3, 101, 102)


PARTS = {
    "many rows": "INSERT INTO t SELECT n, 'x' FROM generate_series(11, 2500) n",
    "large rows": "INSERT INTO t SELECT n, repeat('x', 700000) FROM generate_series(11, 14) n",
    "rows that change their keys": "UPDATE t SET id = id + 10 WHERE id IN (2, 3)",
}


@pytest.mark.parametrize("parts", PARTS)
async def test_cursor_of_a_frame_claims_all_of_it_or_nothing_and_nothing_else(table: Database, parts: str) -> None:
    """Small events and one of several parts wait for a client together. It may leave after each frame."""
    async with (
        running_bridge(table.dsn) as bridge,
        Proxy.before_bridge(bridge.url) as proxy,
        connected(proxy.url) as client,
        connected(bridge.url) as witness,
    ):
        query = {"fields": ["id", "v"], "sort": ["id"], "limit": -1}
        for each in (client, witness):
            await subscribe(each, query=query)
        proxy.hold_replies()
        for row_id in (1, 2, 3):
            table.execute(f"INSERT INTO t VALUES ({row_id})")
        table.execute("DELETE FROM t WHERE id = 1")
        table.execute(PARTS[parts])
        table.execute("INSERT INTO t VALUES (3000)")
        write_fence(table)
        everything = [told for message in await until_fence(witness) for told in told_by(message)]
        proxy.let_replies_go()
        messages = await until_fence(client)
        assert [told for message in messages for told in told_by(message)] == everything
        assert max(len(message["data"]) for message in messages) <= 1000
        assert all(len(each["data"]) == 1 or len(json.dumps(each)) < 1.1 * 1024 * 1024 for each in messages)
        known = 0
        for message in messages[:-1]:
            before, known = known, known + len(message["data"])
            again = await missed(bridge.url, message["cursor"])
            begun = len(everything) - len(again)
            assert again == everything[begun:]
            assert begun == known or begun <= before


@pytest.mark.parametrize("meanwhile_bytes", [1, 20_000])
async def test_client_with_more_to_catch_up_on_than_may_wait_gets_it_at_its_own_pace(
    table: Database, meanwhile_bytes: int
) -> None:
    """While it takes nothing, little comes or more than is kept for it."""
    async with (
        running_bridge(table.dsn, backlog_bytes_max=64 * 1024, held_bytes_max=64 * 1024) as bridge,
        connected(bridge.url) as witness,
        Proxy.before_bridge(bridge.url) as proxy,
        connected(proxy.url) as client,
    ):
        async with following(bridge.url) as follower:
            table.execute("INSERT INTO t VALUES (0)")
            await follower.knows(0)
        for first in range(1, 1001, 50):
            table.execute(f"INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series({first}, {first + 49}) n")
        query = {"fields": ["id", "v"], "limit": -1}
        await subscribe(witness, query=query)
        proxy.hold_replies()
        await client.send(
            {"type": "subscribe", "collection": "t", "cursor": True, "query": query, "after": follower.cursor}
        )
        for row_id in range(2000, 2030):  # long enough for what is not waited with to be too much
            table.execute(f"INSERT INTO t VALUES ({row_id}, repeat('y', {meanwhile_bytes}))")
            await witness.until(event="create", data=[{"id": row_id, "v": "y" * meanwhile_bytes}])
        write_fence(table)
        proxy.let_replies_go()
        await client.expect(event="init", resumed=True)
        told = [told for message in await until_fence(client) for told in told_by(message)]
        assert told == [("create", row_id) for row_id in [*range(1, 1001), *range(2000, 2030), FENCE]]
