"""What a client knows in the end is what the table holds, however odd the way there."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from cdc_bridge.admin.mode import Mode
from tests.bridge.missed import untold, write_untold
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.replica import Replica
from tests.support.server import Database
from tests.support.wsclient import connected

STORIES = {
    "keys shifted in several payloads": (
        """CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text);
        INSERT INTO t SELECT n, 'x' FROM generate_series(1, 2500) AS n""",
        "UPDATE t SET id = id + 1",
        ("id",),
    ),
    "a row moved and updated by a foreign key to its own table": (
        """CREATE TABLE t (id int UNIQUE, pid int REFERENCES t (id) ON UPDATE CASCADE, k int, PRIMARY KEY (pid, k));
        INSERT INTO t VALUES (1, 1, 1), (2, 1, 2)""",
        "UPDATE t SET id = id * 10",
        ("pid", "k"),
    ),
    "emptied, filled and rewritten at once": (
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 'a'); ALTER TABLE t ALTER v TYPE text USING upper(v); COMMIT",
        ("id",),
    ),
    "a trigger before each row that updates the others": (
        """CREATE TABLE t (id int PRIMARY KEY, is_default bool);
        CREATE FUNCTION only_one() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN UPDATE t SET is_default = false WHERE is_default AND id <> NEW.id; RETURN NEW; END $$;
        CREATE TRIGGER only_one BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION only_one()""",
        "INSERT INTO t VALUES (1, true), (2, true)",
        ("id",),
    ),
    "a trigger after each row that updates it": (
        """CREATE TABLE t (id int PRIMARY KEY, slug text);
        CREATE FUNCTION slug() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN UPDATE t SET slug = 'row-' || NEW.id WHERE id = NEW.id AND slug IS NULL; RETURN NULL; END $$;
        CREATE TRIGGER slug AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION slug()""",
        "INSERT INTO t VALUES (1), (2)",
        ("id",),
    ),
    "deleted and inserted by one statement": (
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')",
        "WITH gone AS (DELETE FROM t RETURNING id) INSERT INTO t SELECT id, 'new' FROM gone LIMIT 1",
        ("id",),
    ),
    "keys swapped": (
        "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "UPDATE t SET id = 3 - id",
        ("id",),
    ),
    "an array of arrays by way of a domain": (
        "CREATE DOMAIN numbers AS int[]; CREATE TABLE t (id int PRIMARY KEY, v numbers[])",
        "INSERT INTO t VALUES (1, ARRAY[ARRAY[1, 2]::numbers, NULL::numbers])",
        ("id",),
    ),
}


@pytest.mark.parametrize("story", STORIES)
async def test_client_ends_with_the_rows_of_the_table(database: Database, story: str, mode: Mode) -> None:
    tables, writes, key = STORIES[story]
    database.execute(tables)
    attach(database, "t", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        replica = Replica(client, "t", *key)
        await replica.subscribe()
        database.execute(writes)
        await replica.becomes(database)


async def test_value_nested_deeper_than_any_parser_likes_ends_nothing(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v jsonb)")
    attach(database, "t", mode=mode)
    deep = "[" * 3000 + "]" * 3000
    async with running_bridge(database.dsn) as bridge:
        for query, message in [({"fields": ["id"]}, "create"), ({"fields": ["id"]}, None)]:
            async with connected(bridge.url) as client:
                await client.send({"type": "subscribe", "collection": "t", "query": query})
                first = await client.expect(event="init")
                if message is None:
                    assert first["data"] == [{"id": 1}]
                    continue
                database.execute("INSERT INTO t VALUES (1, %s)", [deep])
                await client.expect(event=message, data=[{"id": 1}])
        async with connected(bridge.url) as client:
            await client.send(
                {"type": "items", "action": "read", "collection": "t", "id": 1, "query": {"fields": "id"}}
            )
            await client.expect(type="items", data={"id": 1})


async def test_gap_that_is_open_while_the_bridge_reconnects_is_told(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t", mode=mode)
    async with (
        running_bridge(database.dsn, heartbeat_interval_s=0.1) as bridge,
        connected(bridge.url) as client,
        await database.connect() as writer,
    ):
        replica = Replica(client, "t")
        await replica.subscribe()
        async with writer.transaction():
            await write_untold(writer, mode, "INSERT INTO t VALUES (1)")
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc_bridge listen'"
                " AND datname = current_database()"
            )
            await client.until(event="init", reason="resync")
        await replica.becomes(database)


async def test_gap_is_told_although_somebody_elsewhere_has_a_transaction_open(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int)")
    attach(database, "t", mode=mode)
    async with (
        running_bridge(database.dsn, heartbeat_interval_s=0.1) as bridge,
        connected(bridge.url) as client,
        await database.connect() as idle,
        idle.transaction(),
    ):
        await idle.execute("INSERT INTO other VALUES (1)")
        replica = Replica(client, "t")
        await replica.subscribe()
        # In one script: a gap that is noticed before its transaction has ended is told again when all have ended.
        database.execute(f"BEGIN; {untold(mode, 'INSERT INTO t VALUES (1)')}; COMMIT")
        await replica.becomes(database)


async def test_locked_table_stops_neither_readings_nor_the_stream_of_the_others(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE locked (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "locked", "t", mode=mode)
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(running_bridge(database.dsn))
        holder = await stack.enter_async_context(await database.connect())
        early = await stack.enter_async_context(connected(bridge.url))
        replica = Replica(early, "t")
        await replica.subscribe()
        async with holder.transaction():
            await holder.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
            for number in range(12):
                waiting = await stack.enter_async_context(connected(bridge.url))
                await waiting.send({"type": "items", "action": "read", "collection": "locked"})
                await waiting.send({"type": "subscribe", "collection": "locked", "query": {"limit": number + 1}})
            database.execute("ALTER TABLE t ADD v int")
            database.execute("INSERT INTO t VALUES (1, 1)")
            await replica.becomes(database)
            late = await stack.enter_async_context(connected(bridge.url))
            async with asyncio.timeout(20):
                await Replica(late, "t").subscribe()
