"""Changes that come while data are being read, which a lock holds for as long as a test wants."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.holding import TABLE, be_patient, held_table, sessions_are_idle
from tests.support.server import Database
from tests.support.wsclient import Client, Message, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]

EVERYTHING: dict[str, Any] = {"fields": ["id", "v"], "limit": -1}


@pytest.fixture
def table(database: Database) -> Database:
    database.execute(TABLE)
    attach(database, "t")
    return database


async def subscribe(client: Client, uid: str = "u", query: dict[str, Any] = EVERYTHING, **options: Any) -> None:
    await client.send({"type": "subscribe", "collection": "t", "uid": uid, "query": query} | options)


async def until_row(client: Client, row_id: int) -> list[Message]:
    """All messages up to the event that creates this row."""
    messages: list[Message] = []
    while not (messages and messages[-1]["event"] == "create" and messages[-1]["data"][-1]["id"] == row_id):
        messages.append(await client.next())
    return messages


async def test_nothing_arrives_of_a_subscription_that_ended_while_its_data_were_read(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        async with held_table(table, "t_held") as hold:
            await subscribe(client, "ended")
            await hold.is_waited_for()
            await client.send({"type": "unsubscribe", "uid": "ended"})
            await client.expect(event="unsubscribe", uid="ended")
            assert (await bridge.counts())["subscriptions"] == 0
        await sessions_are_idle(table)
        await subscribe(client, "fence")
        await client.expect(event="init", uid="fence", data=[])
        table.execute("INSERT INTO t VALUES (1, 'a')")
        await client.expect(event="create", uid="fence", data=[{"id": 1, "v": "a"}])


async def test_same_uid_again_while_data_are_read_is_the_new_subscription_alone(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        async with held_table(table, "t_held") as hold:
            await subscribe(client, "u")
            await hold.is_waited_for()
            await subscribe(client, "u", {"fields": ["v"], "filter": {"id": {"_lt": 10}}})
            await client.expect(event="init", uid="u", data=[])
            table.execute("INSERT INTO t VALUES (1, 'old')")
            await client.expect(event="create", uid="u", data=[{"v": "old"}])
            assert (await bridge.counts())["subscriptions"] == 1
        await sessions_are_idle(table)
        table.execute("INSERT INTO t VALUES (2, 'new')")
        await client.expect(event="create", uid="u", data=[{"v": "new"}])


async def test_more_changes_than_are_held_while_data_are_read_cost_a_second_reading(table: Database) -> None:
    async with (
        running_bridge(table.dsn, held_bytes_max=20_000) as bridge,
        connected(bridge.url) as client,
        connected(bridge.url) as witness,
    ):
        await subscribe(witness)
        await witness.expect(event="init")
        async with held_table(table, "t_held") as hold:
            await subscribe(client)
            await hold.is_waited_for()
            table.execute("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 100) n")
            table.execute("UPDATE t_few SET v = 'last' WHERE id = 100")
            await witness.until(event="update")
        first = await client.expect(event="init")
        rows = {row["id"]: row["v"] for row in first["data"]}
        table.execute("INSERT INTO t VALUES (101, 'fence')")
        for message in await until_row(client, 101):
            assert message["event"] in {"create", "update"}
            rows |= {row["id"]: row["v"] for row in message["data"]}
        assert rows == dict(table.execute("SELECT id, v FROM t"))


async def test_figures_are_those_of_the_table_though_rows_change_while_they_are_read(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client, connected(bridge.url) as witness:
        await subscribe(client, query={"aggregate": {"count": "*"}})
        await client.expect(event="init", data=[{"count": "0"}])
        await subscribe(witness)
        await witness.expect(event="init")
        async with held_table(table, "t_held") as hold:
            table.execute("INSERT INTO t VALUES (1)")
            await hold.is_waited_for()
            table.execute("INSERT INTO t VALUES (2), (3)")
            await witness.collect(3, event="create")
        await client.until(event="update", data=[{"count": "3"}])


async def test_rows_shown_again_come_where_their_snapshot_is_among_the_changes(
    table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their reading is held after it has its snapshot, while the row itself changes: the newer image comes last."""
    be_patient(monkeypatch)
    table.execute(
        "CREATE TABLE author (id int PRIMARY KEY, name text); ALTER TABLE t ADD author int REFERENCES author;"
        "INSERT INTO author VALUES (1, 'Ann'); INSERT INTO t VALUES (1, 'old', 1)"
    )
    attach(table, "author")
    query = EVERYTHING | {"fields": ["id", "v", "author.name"]}
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client, connected(bridge.url) as witness:
        await subscribe(client, query=query, related=True)
        await client.expect(event="init", data=[{"id": 1, "v": "old", "author": {"name": "Ann"}}])
        await subscribe(witness, query={"fields": ["id"], "limit": -1})
        await witness.expect(event="init")
        async with held_table(table, "t_held") as hold:
            table.execute("UPDATE author SET name = 'Ann B.'")
            await hold.is_waited_for()
            table.execute("UPDATE t_few SET v = 'new'")
            await witness.until(event="update")
        rows = await client.collect(2, event="update")
        assert rows[-1] == {"id": 1, "v": "new", "author": {"name": "Ann B."}}
        assert [row["v"] for row in rows] == ["old", "new"]
