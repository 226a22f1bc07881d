"""The promise over real sockets: complete, in order, and honest about what was missed."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdc_bridge.admin.mode import Mode
from cdc_bridge.model.errors import CannotListen
from tests.bridge.missed import is_told_what_was_missed
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.proxy import Proxy
from tests.support.server import Database
from tests.support.wsclient import Client, connected

SUBSCRIBE = {"type": "subscribe", "collection": "t", "uid": "u", "query": {"limit": -1}}


class Replica:
    """What a client knows of a table from its messages alone. Every step must make sense."""

    def __init__(self) -> None:
        self.rows: dict[Any, Any] = {}
        self.events = 0

    def apply(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "init":
                self.rows = {row["id"]: row for row in message["data"]}
            case "create":
                for row in message["data"]:
                    assert row["id"] not in self.rows, f"created twice: {row}"
                    self.rows[row["id"]] = row
            case "update":
                for row in message["data"]:
                    assert row["id"] in self.rows, f"updated before it was created: {row}"
                    self.rows[row["id"]] = row
            case "delete":
                for key in message["data"]:
                    del self.rows[key]
        self.events += len(message["data"])

    async def follow(self, client: Client, until: int) -> None:
        """Apply messages until the row with the id `until` is there."""
        while until not in self.rows:
            self.apply(await client.next(30))


@pytest.fixture
def table(database: Database, mode: Mode) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    attach(database, "t", mode=mode)
    return database


async def test_rows_written_by_anybody_arrive(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        await client.expect(event="init", data=[], uid="u")
        table.execute("INSERT INTO t VALUES (1, 'a')")
        await client.expect(type="subscription", event="create", data=[{"id": 1, "v": "a"}], uid="u")
        table.execute("UPDATE t SET v = 'b'")
        await client.expect(event="update", data=[{"id": 1, "v": "b"}])
        table.execute("DELETE FROM t")
        await client.expect(event="delete", data=[1])


async def test_data_and_stream_meet_while_four_writers_hammer_the_table(table: Database) -> None:
    """Clients that subscribe at any moment end with the table's rows, and no event came twice or too early."""
    all_are_there = asyncio.Event()

    async def write(number: int) -> None:
        chance = random.Random(number)
        async with await psycopg.AsyncConnection.connect(table.dsn, autocommit=True) as connection:
            mine: list[int] = []
            steps_left = 100  # with all clients there
            for step in itertools.count():
                steps_left -= all_are_there.is_set()
                if not steps_left:
                    return
                row_id = number * 100_000 + step
                async with connection.transaction(force_rollback=chance.random() < 0.1) as transaction:
                    if mine and chance.random() < 0.3:
                        await connection.execute("DELETE FROM t WHERE id = %s", [mine.pop()])
                    if mine and chance.random() < 0.5:
                        await connection.execute("UPDATE t SET v = %s WHERE id = %s", [str(step), chance.choice(mine)])
                    await connection.execute("INSERT INTO t VALUES (%s, 'new')", [row_id])
                if not transaction.force_rollback:
                    mine.append(row_id)
                else:
                    mine = [row[0] for row in await _rows(connection, number)]

    async with running_bridge(table.dsn) as bridge, asyncio.TaskGroup() as tasks:
        writers = [tasks.create_task(write(number)) for number in range(1, 5)]
        clients = []
        for _ in range(12):
            client = await Client.connect(bridge.url)
            await client.send(SUBSCRIBE)
            clients.append((client, Replica()))
            first = await client.next(30)
            clients[-1][1].apply(first)
        all_are_there.set()
        await asyncio.gather(*writers)
        table.execute("INSERT INTO t VALUES (-1, 'end')")
        expected = {row[0]: {"id": row[0], "v": row[1]} for row in table.execute("SELECT id, v FROM t")}
        assert len(expected) > 100
        for client, replica in clients:
            await replica.follow(client, until=-1)
            assert replica.rows == expected
            await client.close()
        assert any(replica.events > 100 for _, replica in clients)


async def _rows(connection: psycopg.AsyncConnection[Any], number: int) -> list[tuple[Any, ...]]:
    low, high = number * 100_000, (number + 1) * 100_000
    return await (await connection.execute("SELECT id FROM t WHERE id BETWEEN %s AND %s", [low, high])).fetchall()


async def test_transaction_that_was_open_during_the_reading_arrives_later(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client, await table.connect() as writer:
        async with writer.transaction():
            await writer.execute("INSERT INTO t VALUES (1, 'open')")
            await client.send(SUBSCRIBE)
            await client.expect(event="init", data=[])
            table.execute("INSERT INTO t VALUES (2, 'other')")
            await client.expect(event="create", data=[{"id": 2, "v": "other"}])
        await client.expect(event="create", data=[{"id": 1, "v": "open"}])


async def test_rolled_back_changes_are_not_heard_of(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client, await table.connect() as writer:
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        async with writer.transaction():
            await writer.execute("INSERT INTO t VALUES (1, 'kept')")
            async with writer.transaction(force_rollback=True):
                await writer.execute("INSERT INTO t VALUES (2, 'rolled back')")
        await client.expect(event="create", data=[{"id": 1, "v": "kept"}])
        table.execute("INSERT INTO t VALUES (3, 'next')")
        await client.expect(event="create", data=[{"id": 3, "v": "next"}])


async def test_what_is_written_when_the_listener_has_just_been_terminated_is_told(table: Database, mode: Mode) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        killed = table.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc_bridge listen'"
            " AND datname = current_database()"
        )
        assert killed == [(True,)]
        table.execute("INSERT INTO t VALUES (1, 'unheard')")
        await is_told_what_was_missed(client, mode, [{"id": 1, "v": "unheard"}])
        table.execute("INSERT INTO t VALUES (2, 'heard')")
        await client.expect(event="create", data=[{"id": 2, "v": "heard"}])


async def test_half_open_connection_is_noticed_and_what_it_missed_is_told(table: Database, mode: Mode) -> None:
    async with Proxy.before(table.dsn) as proxy:
        options: dict[str, Any] = {"heartbeat_interval_s": 0.2, "heartbeat_timeout_s": 1, "reconnect_delay_max_s": 0.5}
        async with running_bridge(proxy.dsn(table.dsn), **options) as bridge, connected(bridge.url) as client:
            await client.send(SUBSCRIBE)
            await client.expect(event="init")
            proxy.freeze()
            table.execute("INSERT INTO t VALUES (1, 'unheard')")
            await bridge.loses_the_database()
            proxy.cut()  # what was on its way must not arrive after all
            proxy.thaw()
            await is_told_what_was_missed(client, mode, [{"id": 1, "v": "unheard"}])


async def test_half_open_connections_are_given_up_within_ten_seconds(table: Database, mode: Mode) -> None:
    """All that were open stop at once, those of the pools too, and a client asks for something just then."""
    async with (
        Proxy.before(table.dsn) as proxy,
        running_bridge(proxy.dsn(table.dsn)) as bridge,
        connected(bridge.url) as client,
    ):
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        proxy.freeze_open_ones()
        async with asyncio.timeout(10):
            await client.send(SUBSCRIBE | {"uid": "another"})
            table.execute("INSERT INTO t VALUES (1, 'unheard')")
            told = [await client.next(timeout=10), await client.next(timeout=10)]
        assert {message["uid"] for message in told} == {SUBSCRIBE["uid"], "another"}
        assert all(message["data"] == [{"id": 1, "v": "unheard"}] for message in told)


async def test_subscription_made_while_the_database_is_away_is_served_when_it_is_back(table: Database) -> None:
    async with Proxy.before(table.dsn) as proxy:
        options: dict[str, Any] = {"reconnect_delay_max_s": 0.5}
        async with running_bridge(proxy.dsn(table.dsn), **options) as bridge, connected(bridge.url) as client:
            proxy.refuse()
            proxy.cut()
            await bridge.loses_the_database()
            await client.send(SUBSCRIBE)
            await client.send({"type": "ping", "uid": "alive"})
            await client.expect(type="pong", uid="alive")
            table.execute("INSERT INTO t VALUES (1, 'meanwhile')")
            await proxy.accept()
            message = await client.expect(event="init", data=[{"id": 1, "v": "meanwhile"}], timeout=30)
            assert "reason" not in message


async def test_pooler_that_swallows_notifications_is_named(table: Database) -> None:
    async with Proxy.before(table.dsn, swallow=b"A") as proxy:
        options: dict[str, Any] = {"heartbeat_interval_s": 0.2, "heartbeat_timeout_s": 1}
        with pytest.raises(CannotListen, match="pooler"):
            async with running_bridge(proxy.dsn(table.dsn), wait=False, **options) as bridge, asyncio.timeout(10):
                await bridge.ended()


async def test_marked_gap_ends_in_a_resync_after_the_writer_has_committed(table: Database) -> None:
    """The trigger's confession is heard at once; when its transaction has ended its rows are in the fresh data."""
    async with (
        running_bridge(table.dsn, heartbeat_interval_s=0.1) as bridge,
        connected(bridge.url) as client,
        await table.connect() as writer,
    ):
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        async with writer.transaction():
            await writer.execute("SET LOCAL session_replication_role = replica")
            await writer.execute("ALTER TABLE t DISABLE TRIGGER ALL")
            await writer.execute("INSERT INTO t VALUES (1, 'untold')")
            await writer.execute("ALTER TABLE t ENABLE TRIGGER ALL")
            await writer.execute("SELECT nextval('cdc.gap')")
            await _heartbeats(table, 5)  # enough for the bridge to have seen the gap
            await client.expect(event="init", reason="resync", data=[])
        await client.expect(event="init", reason="resync", data=[{"id": 1, "v": "untold"}])


async def _heartbeats(database: Database, count: int) -> None:
    """Until so many have been sent. After each of them the bridge looks for gaps."""
    async with await database.connect() as listener:
        [(channel,)] = database.execute("SELECT 'cdc_' || last_value FROM cdc.channel")
        await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        async with asyncio.timeout(10):
            async for _ in listener.notifies(stop_after=count):
                pass


@pytest.mark.parametrize("megabytes", [5, 20])
async def test_large_values_arrive_whole(database: Database, mode: Mode, megabytes: int) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v bytea, w text)")
    attach(database, "t", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        database.execute(
            "INSERT INTO t SELECT 1, decode(repeat('deadbeef', %(n)s * 262144), 'hex'), repeat('äß€😀', %(n)s * 20000)",
            {"n": megabytes},
        )
        (row,) = await client.collect(1, event="create", timeout=60)
        assert row["v"] == "\\x" + "deadbeef" * (megabytes * 262144)
        assert row["w"] == "äß€😀" * (megabytes * 20000)


async def test_many_rows_of_one_statement_arrive_in_messages_of_at_most_a_thousand(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        table.execute("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 25000) AS n")
        rows = await client.collect(25_000, event="create", timeout=60)
        assert [row["id"] for row in rows] == list(range(1, 25_001))
        assert 900 < max(len(message["data"]) for message in client.seen) <= 1000
        table.execute("UPDATE t SET v = 'y'")
        assert len(await client.collect(25_000, event="update", timeout=60)) == 25_000
        table.execute("DELETE FROM t")
        assert len(await client.collect(25_000, event="delete", timeout=60)) == 25_000


async def test_client_that_does_not_read_is_closed_and_nobody_else_notices(table: Database) -> None:
    """The bound is more than what is read of the log at once."""
    async with running_bridge(table.dsn, backlog_bytes_max=6_000_000) as bridge, connected(bridge.url) as reader:
        slow = await asyncio.open_connection(*bridge.http.removeprefix("http://").split(":"))
        slow[1].write(
            b"GET /websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await slow[0].readuntil(b"\r\n\r\n")
        text = b'{"type":"subscribe","collection":"t"}'
        slow[1].write(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        await slow[0].readuntil(b'"init"')  # else all that is written could be in its data
        await reader.send(SUBSCRIBE)
        await reader.expect(event="init")
        for number in range(50):
            table.execute(
                "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(%s::int, %s) AS n",
                [number * 500, number * 500 + 499],
            )
        assert len(await reader.collect(25_000, event="create", timeout=60)) == 25_000
        async with asyncio.timeout(20):
            said = await slow[0].read()  # ends only because the bridge closes
        assert said
        slow[1].close()


async def test_slow_client_is_told_1013(table: Database) -> None:
    async with running_bridge(table.dsn, backlog_bytes_max=5000) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
        async with await table.connect() as writer, writer.transaction():
            for number in range(200):
                await writer.execute("INSERT INTO t VALUES (%s, repeat('x', 3000))", [number])
        assert await client.closed() == 1013


async def test_two_bridges_are_each_complete(table: Database) -> None:
    async with (
        running_bridge(table.dsn) as one,
        running_bridge(table.dsn) as two,
        connected(one.url) as first,
        connected(two.url) as second,
    ):
        for client in (first, second):
            await client.send(SUBSCRIBE)
            await client.expect(event="init")
        table.execute("INSERT INTO t VALUES (1, 'a')")
        for client in (first, second):
            await client.expect(event="create", data=[{"id": 1, "v": "a"}])


async def test_shutdown_says_good_bye(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge:
        client = await Client.connect(bridge.url)
        await client.send(SUBSCRIBE)
        await client.expect(event="init")
    assert await client.closed() == 1012
