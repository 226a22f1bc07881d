"""Cursors from another life of the database: after a crash, a failover, a restore, in a copy. Never wrong data."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.cluster import Cluster
from tests.support.follower import beginning, cursor_after, following
from tests.support.server import Database, bin_dir, server_of
from tests.support.standby import caught_up, promoted, standby_of

pytestmark = pytest.mark.once  # slow, and nothing in it depends on the server's version

QUICK: dict[str, Any] = {"heartbeat_interval_s": 0.1, "reconnect_delay_max_s": 0.3}


@pytest.fixture
def table(own_server: Cluster) -> Database:
    return with_table(server_of(own_server).create_database())


def with_table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0)")
    attach(database, "t")
    return database


async def test_restart_is_gone_on_from_and_a_crash_is_not(own_server: Cluster, table: Database) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge:
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
    own_server.restart("fast")
    table.execute("INSERT INTO t VALUES (2)")
    async with running_bridge(table.dsn, **QUICK) as bridge:
        async with following(bridge.url, "t", cursor, {0: {}, 1: {}}) as returned:
            await returned.knows(0, 1, 2)
            assert returned.inits == ["resumed"]
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (3)", 0, 1, 2, 3)
    own_server.restart("immediate")
    table.execute("DELETE FROM t WHERE id = 0")
    async with running_bridge(table.dsn, **QUICK) as bridge:
        async with following(bridge.url, "t", cursor) as returned:
            assert returned.inits == ["resync"]
            assert set(returned.rows) == {1, 2, 3}
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (4)", 1, 2, 3, 4)
        assert await beginning(bridge.url, cursor) == "resumed"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_server_that_ends_under_a_running_bridge(own_server: Cluster, table: Database, mode: Any) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        own_server.restart(mode)
        table.execute("INSERT INTO t VALUES (2)")
        await subscriber.knows(0, 1, 2, within_s=40)
        assert ("resync" in subscriber.inits) == (mode == "immediate")
        assert await beginning(bridge.url, cursor) == ("resync" if mode == "immediate" else "resumed")


def dump(database: Database, path: Path) -> None:
    run("pg_dump", "--format=custom", f"--file={path}", database.dsn)


def restore(path: Path, database: Database) -> None:
    run("pg_restore", "--exit-on-error", f"--dbname={database.dsn}", str(path))


def run(program: str, *arguments: str) -> None:
    done = subprocess.run([bin_dir() / program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", ["another database", "the same one, made anew"])
async def test_restored_dump_is_another_life(table: Database, tmp_path: Path, place: str) -> None:
    """What the dump has of the log means nothing there, nor do cursors from before; triggers work."""
    server = table.server
    async with running_bridge(table.dsn, **QUICK) as bridge:
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        dump(table, tmp_path / "dump")
        later = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (2)", 0, 1, 2)
    if place == "another database":
        restored = server.create_database()
    else:
        server.drop_database(table)
        restored = server.create_database(name=table.name)
    restore(tmp_path / "dump", restored)
    restored.execute("INSERT INTO t VALUES (10)")
    assert restored.execute("SELECT cdc.note_segments()") == [], "nobody has laid hands on that log"
    async with running_bridge(restored.dsn, **QUICK) as bridge:
        for old in (cursor, later):
            async with following(bridge.url, "t", old) as returned:
                assert returned.inits == ["resync"]
                assert set(returned.rows) == {0, 1, 10}
        new = await cursor_after(restored, bridge.url, "INSERT INTO t VALUES (11)", 0, 1, 10, 11)
        assert await beginning(bridge.url, new) == "resumed"
        logged = restored.execute("SELECT new FROM cdc.change_log ORDER BY seq")
        assert [row for (row,) in logged] == ['{"id":11,"v":null}']
        assert restored.execute("SELECT count(*) FROM cdc.changed_segments()") == [(0,)]


async def test_dump_that_is_restored_while_the_bridge_runs_ends_in_fresh_data(table: Database, tmp_path: Path) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        dump(table, tmp_path / "dump")
        old = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (2)", 0, 1, 2)
        table.server.drop_database(table)
        table.server.create_database(name=table.name)
        restore(tmp_path / "dump", table)
        table.execute("INSERT INTO t VALUES (3)")
        message = await subscriber.client.next(60)
        while message.get("status") != "error" and message.get("event") != "init":
            message = await subscriber.client.next(60)
        async with following(bridge.url, "t", old) as returned:
            assert returned.inits == ["resync"]
            await returned.knows(0, 1, 3)


async def test_copy_of_a_database_is_another_one(table: Database) -> None:
    async with running_bridge(table.dsn, **QUICK) as bridge:
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
    copy = table.server.create_database(template=table)
    copy.execute("INSERT INTO t VALUES (2)")
    async with running_bridge(copy.dsn, **QUICK) as bridge:
        async with following(bridge.url, "t", cursor) as returned:
            assert returned.inits == ["resync"]
            assert set(returned.rows) == {0, 1, 2}
        new = await cursor_after(copy, bridge.url, "INSERT INTO t VALUES (3)", 0, 1, 2, 3)
        assert await beginning(bridge.url, new) == "resumed"
    async with running_bridge(table.dsn, **QUICK) as bridge:  # the original is what it was
        assert await beginning(bridge.url, cursor) == "resumed"
        assert await beginning(bridge.url, new) == "resync"


async def test_writers_do_not_wait_for_the_first_bridge_of_a_copy(table: Database) -> None:
    """It has to empty the log, and somebody is writing to it."""
    async with running_bridge(table.dsn, **QUICK):
        pass
    copy = table.server.create_database(template=table)
    async with await copy.connect() as writer, await copy.connect() as other, writer.transaction():
        await writer.execute("INSERT INTO t VALUES (1)")
        async with running_bridge(copy.dsn, wait=False, **QUICK):
            await other.execute("SET statement_timeout = '2s'")
            for number in range(2, 30):
                await other.execute("INSERT INTO t VALUES (%s)", [number])


@pytest.fixture
def standby(own_server: Cluster) -> Iterator[Cluster]:
    with standby_of(own_server) as standby:
        yield standby


async def test_promoted_standby_is_another_life(own_server: Cluster, table: Database, standby: Cluster) -> None:
    there = Database(server_of(standby), table.name)
    async with running_bridge(table.dsn, **QUICK) as bridge:
        cursor = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (1)", 0, 1)
        caught_up(own_server, standby)
        lost = await cursor_after(table, bridge.url, "INSERT INTO t VALUES (2)", 0, 1, 2)
    own_server.stop()
    promoted(standby)
    there.execute("INSERT INTO t VALUES (3)")
    async with running_bridge(there.dsn, **QUICK) as bridge:
        for old in (cursor, lost):
            async with following(bridge.url, "t", old) as returned:
                assert returned.inits == ["resync"]
                assert 3 in returned.rows
        ids = [number for (number,) in there.execute("SELECT id FROM t")]
        new = await cursor_after(there, bridge.url, "INSERT INTO t VALUES (4)", *ids, 4)
        assert await beginning(bridge.url, new) == "resumed"
