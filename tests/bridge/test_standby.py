"""A bridge that reads from a hot standby: complete, although PostgreSQL does not say there who is in progress."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.cluster import Cluster
from tests.support.follower import beginning, cursor_after, following
from tests.support.server import Database, server_of
from tests.support.standby import caught_up, promoted, standby_of
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # slow, and nothing in it depends on the server's version

QUICK: dict[str, Any] = {"heartbeat_interval_s": 0.1, "reconnect_delay_max_s": 0.3}


@pytest.fixture
def primary(own_server: Cluster) -> Database:
    database = server_of(own_server).create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0)")
    attach(database, "t")
    return database


@pytest.fixture
def standby(own_server: Cluster, primary: Database) -> Iterator[Cluster]:
    with standby_of(own_server) as standby:
        yield standby


@pytest.fixture
def there(primary: Database, standby: Cluster) -> Database:
    return Database(server_of(standby), primary.name)


@pytest.mark.parametrize("notify", ["", "off"])
async def test_changes_arrive_and_are_gone_on_from(
    own_server: Cluster, primary: Database, there: Database, notify: str
) -> None:
    """Also over a restart of the primary, and whatever the bridge was told about notifying."""
    async with running_bridge(there.dsn, notify=notify, **QUICK) as bridge:
        cursor = await cursor_after(primary, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        primary.execute("INSERT INTO t SELECT n FROM generate_series(2, 5000) n")
        async with following(bridge.url, "t", cursor, {0: {}, 1: {}}) as returned:
            await returned.knows(*range(5001))
            assert returned.inits == ["resumed"]
            own_server.restart()
            primary.execute("DELETE FROM t WHERE id > 2")
            await returned.knows(0, 1, 2, within_s=40)
            assert returned.inits == ["resumed"]
            cursor = returned.cursor
    primary.execute("INSERT INTO t VALUES (3)")
    async with (
        running_bridge(there.dsn, **QUICK) as bridge,
        following(bridge.url, "t", cursor, {0: {}, 1: {}, 2: {}}) as returned,
    ):
        await returned.knows(0, 1, 2, 3)
        assert returned.inits == ["resumed"]


async def test_transaction_in_progress_is_told_when_it_has_ended(
    own_server: Cluster, standby: Cluster, primary: Database, there: Database
) -> None:
    """It was in progress when the data was read, when a cursor was given, and while others passed it by."""
    async with running_bridge(there.dsn, **QUICK) as bridge, await primary.connect() as writer:
        async with following(bridge.url) as early, writer.transaction():
            await writer.execute("INSERT INTO t VALUES (1)")
            primary.execute("INSERT INTO t VALUES (2)")
            await early.knows(0, 2)
            async with following(bridge.url) as late:
                await late.knows(0, 2)
                primary.execute("INSERT INTO t VALUES (3)")
                await late.knows(0, 2, 3)
                cursor = late.cursor
                await writer.execute("INSERT INTO t VALUES (4)")
                await writer.execute("COMMIT")
                await late.knows(0, 1, 2, 3, 4)
                await early.knows(0, 1, 2, 3, 4)
                assert late.inits == early.inits == ["fresh"]
                await writer.execute("BEGIN")
        async with following(bridge.url, "t", cursor, {0: {}, 2: {}, 3: {}}) as returned:
            await returned.knows(0, 1, 2, 3, 4)
            assert returned.inits == ["resumed"]


async def test_clients_that_come_and_go_while_writers_write_miss_nothing(primary: Database, there: Database) -> None:
    """Each change once: a row that is created twice, or updated before it is there, would be seen."""
    ended = asyncio.Event()

    async def write(number: int) -> None:
        async with await primary.connect() as connection:
            for step in range(150):
                async with connection.transaction(force_rollback=step % 7 == 0):
                    await connection.execute("INSERT INTO t VALUES (%s)", [number * 1000 + step])
                    await connection.execute("UPDATE t SET v = 'x' WHERE id = %s", [number * 1000 + step])

    async def follow() -> None:
        async with following(bridge.url) as subscriber:
            while not ended.is_set():
                known = set(subscriber.rows)
                message = await subscriber.step()
                if message["event"] == "create":
                    assert not known & {row["id"] for row in message["data"]}
            expected = {number for (number,) in primary.execute("SELECT id FROM t")}
            await subscriber.knows(*expected)
            assert subscriber.inits == ["fresh"]

    async with running_bridge(there.dsn, **QUICK) as bridge, asyncio.TaskGroup() as tasks:
        writers = [tasks.create_task(write(number)) for number in range(1, 5)]
        for _ in range(10):
            tasks.create_task(follow())
            await asyncio.sleep(0)
        await asyncio.gather(*writers)
        ended.set()
        primary.execute("INSERT INTO t VALUES (-1)")


async def test_gap_that_was_marked_on_the_primary_ends_in_fresh_data(primary: Database, there: Database) -> None:
    async with running_bridge(there.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        primary.execute("ALTER TABLE cdc.change_log_0 ADD CONSTRAINT mine CHECK (false) NOT VALID")
        for number in (1, 2, 3):  # of a sequence alone a standby would see the first step only
            primary.execute(f"INSERT INTO t VALUES ({number})")
            await subscriber.knows(*range(number + 1))
        assert "resync" in subscriber.inits


async def test_table_in_live_mode_is_refused_and_said(
    own_server: Cluster, standby: Cluster, primary: Database, there: Database, caplog: pytest.LogCaptureFixture
) -> None:
    primary.execute("CREATE TABLE l (id int PRIMARY KEY)")
    attach(primary, "l", mode=Mode.LIVE)
    caught_up(own_server, standby)
    async with running_bridge(there.dsn, **QUICK) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "l"})
        message = await client.expect(type="subscribe", status="error")
        assert message["error"]["code"] == "FORBIDDEN"
    assert "is not served by a hot standby" in caplog.text


async def test_log_that_is_emptied_on_the_primary_ends_in_fresh_data(primary: Database, there: Database) -> None:
    async with running_bridge(primary.dsn, **QUICK), running_bridge(there.dsn, **QUICK) as bridge:
        old = await cursor_after(primary, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        async with following(bridge.url) as subscriber:
            primary.execute("TRUNCATE cdc.change_log_0")
            primary.execute("INSERT INTO t VALUES (2)")
            await subscriber.is_resynced()
            await subscriber.knows(0, 1, 2)
        async with following(bridge.url, "t", old, {0: {}, 1: {}}) as returned:
            await returned.is_resynced()


async def test_promotion_under_the_bridge_is_another_life(
    own_server: Cluster, standby: Cluster, primary: Database, there: Database
) -> None:
    async with running_bridge(there.dsn, **QUICK) as bridge:
        old = await cursor_after(primary, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        async with following(bridge.url) as subscriber:
            own_server.stop()
            promoted(standby)
            there.execute("INSERT INTO t VALUES (2)")
            await subscriber.knows(0, 1, 2, within_s=40)
            await subscriber.is_resynced()
        assert await beginning(bridge.url, old) == "resync"
