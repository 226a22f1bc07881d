"""The order of events that `docs/topics/ordering.md` describes, where nothing else tests it."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.proxy import Proxy
from tests.support.server import Database
from tests.support.wsclient import Message, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    attach(database, "t")
    return database


async def test_transactions_that_ran_at_the_same_time_can_be_interleaved(table: Database) -> None:
    """When the log is read, changes come in the order in which they were written."""
    async with running_bridge(table.dsn, notify="off", poll_interval_s=1) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "t", "tx": True})
        await client.expect(event="init")
        with psycopg.connect(table.dsn) as first, psycopg.connect(table.dsn) as second:
            first.execute("INSERT INTO t VALUES (1)")
            second.execute("INSERT INTO t VALUES (2)")
            first.execute("INSERT INTO t VALUES (3)")
            # One COMMIT right behind the other, so that one look at the log finds both.
            second.commit()
            first.commit()
        messages = [await client.next() for _ in range(3)]
        assert [row["id"] for message in messages for row in message["data"]] == [1, 2, 3]
        ids = [message["tx"]["id"] for message in messages]
        assert ids[0] == ids[2] != ids[1]


async def test_message_can_have_several_versions_of_a_row_in_their_order(table: Database) -> None:
    """Events of the same kind gather while the client is busy."""
    table.execute("INSERT INTO t VALUES (1, 0)")
    async with (
        running_bridge(table.dsn) as bridge,
        Proxy.before_bridge(bridge.url) as proxy,
        connected(proxy.url) as client,
    ):
        await client.send({"type": "subscribe", "collection": "t"})
        await client.expect(event="init")
        proxy.hold_replies()
        for _ in range(5):
            table.execute("UPDATE t SET v = v + 1")
        table.execute("INSERT INTO t VALUES (2, 0)")
        proxy.let_replies_go()
        versions: list[list[int]] = []
        message: Message = await client.next()
        while message["event"] == "update":
            versions.append([row["v"] for row in message["data"]])
            message = await client.next()
        assert [version for each in versions for version in each] == [1, 2, 3, 4, 5]
        assert max(map(len, versions)) > 1
