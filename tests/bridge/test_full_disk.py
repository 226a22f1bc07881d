"""A bridge whose database has a full disk says so, and goes on by itself when there is room."""

from __future__ import annotations

import pytest

from tests.bridge.test_bad_days import says
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.follower import following
from tests.support.server import server_of
from tests.support.small_disk import server_on_small_disk


async def test_bridge_says_that_the_disk_is_full_and_goes_on_when_it_is_not() -> None:
    try:
        with server_on_small_disk(wal_elsewhere=True) as (cluster, disk):
            database = server_of(cluster).create_database()
            database.execute("CREATE TABLE t (id int PRIMARY KEY, n int) WITH (fillfactor = 20)")
            database.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 1000) g")
            attach(database, "t")
            async with running_bridge(database.dsn) as bridge, following(bridge.url, "t") as client:
                await says(bridge, "ready")
                disk.fill()
                database.execute("; ".join(f"UPDATE t SET n = 1 WHERE id = {number}" for number in range(1, 900)))
                await says(bridge, "the database's disk is full")
                await client.is_resynced()
                assert client.rows[899]["n"] == 1
                disk.free()
                await says(bridge, "ready")
                database.execute("UPDATE t SET n = 2")
                while client.rows[1000]["n"] != 2:
                    await client.step()
    except PermissionError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
