"""What issue 11 mends: order across a change of mode, names that change hands, and questions that hold others up."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.holding import FIRST, TABLE, WAITS, held_lock, held_table
from tests.support.reader import SUB, readers_of
from tests.support.server import Database, bin_dir
from tests.support.wsclient import Client, Message, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(90)]

# --- order ---

TABLES = ("a", "b", "c")


class Versions:
    """What a client knows of rows whose versions only grow. What is told must make sense after what was told before."""

    def __init__(self) -> None:
        self.newest: dict[tuple[str, int], int] = {}
        self.rows: dict[str, dict[int, int]] = {table: {} for table in TABLES}

    def apply(self, message: Message) -> None:
        table, event = message["uid"], message["event"]
        rows = self.rows[table]
        if event == "init":
            rows.clear()
        for item in message.get("data", ()):
            if event == "delete":
                rows.pop(item, None)
                continue
            row_id, version = item["id"], item["v"]
            assert version >= self.newest.get((table, row_id), 0), f"older than what was told before: {message}"
            assert event != "update" or row_id in rows, f"updated after it was deleted: {message}"
            self.newest[table, row_id] = rows[row_id] = version


async def write(database: Database, number: int, ending: asyncio.Event) -> None:
    """Rows of its own, each version larger than all before it."""
    chance, version = random.Random(number), 0
    alive: set[tuple[str, int]] = set()
    async with await database.connect() as connection:
        while not ending.is_set():
            version += 1
            table, row_id = key = chance.choice(TABLES), number * 10 + chance.randrange(5)
            if key not in alive:
                await connection.execute(f"INSERT INTO {table} VALUES ({row_id}, {version})".encode())
                alive.add(key)
            elif chance.random() < 0.3:
                await connection.execute(f"DELETE FROM {table} WHERE id = {row_id}".encode())
                alive.remove(key)
            else:
                await connection.execute(f"UPDATE {table} SET v = {version} WHERE id = {row_id}".encode())


async def test_rows_never_grow_older_while_tables_change_their_mode(database: Database) -> None:
    """Four writers, each with rows of its own, while every table goes to the other mode and back five times."""
    for table in TABLES:
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v int)")
    attach(database, *TABLES)
    ending = asyncio.Event()

    async def change_modes() -> None:
        for mode in (Mode.LIVE, Mode.DURABLE) * 5:
            await asyncio.to_thread(attach, database, *TABLES, mode=mode)
        ending.set()

    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        versions = Versions()
        for table in TABLES:
            await client.send({"type": "subscribe", "collection": table, "uid": table, "cursor": True})
        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(write(database, number, ending))
            tasks.create_task(change_modes())
            while not ending.is_set():
                versions.apply(await client.next(20))
        for table in TABLES:
            database.execute(f"INSERT INTO {table} VALUES (1000, 1)")
        while not all(1000 in rows for rows in versions.rows.values()):
            versions.apply(await client.next(20))
        for table in TABLES:
            assert versions.rows[table] == dict(database.execute(f"SELECT id, v FROM {table}"))


# --- names ---


def renamed_around(database: Database, directory: Path) -> None:
    database.execute("BEGIN; ALTER TABLE a RENAME TO t_; ALTER TABLE b RENAME TO a; ALTER TABLE t_ RENAME TO b; COMMIT")


def swapped_for_a_prepared_one(database: Database, directory: Path) -> None:
    database.execute("CREATE TABLE new_a (id int PRIMARY KEY); INSERT INTO new_a VALUES (2)")
    attach(database, "new_a")
    database.execute("BEGIN; ALTER TABLE a RENAME TO old_a; ALTER TABLE new_a RENAME TO a; COMMIT")


def restored(*options: str) -> Callable[[Database, Path], None]:
    def restore(database: Database, directory: Path) -> None:
        database.execute("DELETE FROM a; INSERT INTO a VALUES (2)")
        dump = str(directory / "dump")
        subprocess.run([bin_dir() / "pg_dump", "-Fc", "-t", "a", "-f", dump, database.dsn], check=True)
        database.execute("DELETE FROM a")
        subprocess.run([bin_dir() / "pg_restore", "--clean", *options, "-d", database.dsn, dump], check=True)

    return restore


CHANGES_OF_HANDS = {
    "renamed around": renamed_around,
    "swapped for a prepared one": swapped_for_a_prepared_one,
    "restored": restored(),
    "restored at once": restored("-1"),
}


@pytest.mark.parametrize("how", CHANGES_OF_HANDS)
async def test_name_that_another_table_has_taken_over_is_followed_with_fresh_data(
    database: Database, tmp_path: Path, how: str
) -> None:
    """The table of that name then has the row 2 alone."""
    database.execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);"
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)"
    )
    attach(database, "a", "b")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "a", "uid": "a"})
        await client.expect(event="init", data=[{"id": 1}])
        await asyncio.to_thread(CHANGES_OF_HANDS[how], database, tmp_path)
        message: Message = {}
        while (message.get("event"), message.get("data")) != ("init", [{"id": 2}]):
            message = await client.expect(type="subscription")
        assert message["reason"] == "resync"
        database.execute("INSERT INTO a VALUES (3)")
        await client.until(event="create", data=[{"id": 3}])


async def test_name_that_is_gone_ends_in_an_error(database: Database) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY)")
    attach(database, "a")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "a", "uid": "a"})
        await client.expect(event="init")
        database.execute("DROP TABLE a")
        refused = await client.until(type="subscribe", status="error", timeout=30)
        assert refused["error"]["code"] == "FORBIDDEN"


async def test_rows_of_a_detached_partition_are_not_told(database: Database) -> None:
    database.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)"
    )
    attach(database, "p")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "p", "event": "create"})
        await client.expect(event="init")
        database.execute("ALTER TABLE p DETACH PARTITION p2")
        database.execute("INSERT INTO p2 VALUES (101)")
        database.execute("INSERT INTO p VALUES (1)")
        await client.until(event="init", reason="resync")  # rows have left the collection, and no change told of it
        database.execute("INSERT INTO p2 VALUES (102); INSERT INTO p VALUES (2)")
        created = [row["id"] for message in client.seen if message.get("event") == "create" for row in message["data"]]
        while 2 not in created:
            created += [row["id"] for row in (await client.until(event="create"))["data"]]
        assert set(created) <= {1, 2}


# --- questions ---

PATIENT: dict[str, Any] = {"evaluation_timeout_s": 60}
"""Nobody is helped by giving up."""


@asynccontextmanager
async def following_both(database: Database, bridge: RunningBridge, query: dict[str, Any]) -> AsyncIterator[Client]:
    """A client that follows `t` by some query, and another one that follows `u`, which is handed out."""
    async with connected(bridge.url) as slow, connected(bridge.url) as other:
        for client, table, asked in ((slow, "t", query), (other, "u", {"fields": ["id"]})):
            await client.send({"type": "subscribe", "collection": table, "query": asked})
            await client.expect(event="init")
        yield other


async def test_policy_that_takes_long_holds_nobody_up_who_follows_another_table(database: Database) -> None:
    database.execute(
        WAITS + "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY"
    )
    attach(database, "t", "u")
    with readers_of(database) as readers:
        database.execute(
            f"GRANT SELECT ON t, u TO {readers.role}; GRANT EXECUTE ON FUNCTION waits TO {readers.role};"
            f"CREATE POLICY slow ON t USING (id < 0 OR waits({FIRST}))"
        )
        async with (
            readers.bridge(**PATIENT) as bridge,
            readers.connected(bridge, "ann") as slow,
            readers.connected(bridge, "bob") as other,
        ):
            for client, table in ((slow, "t"), (other, "u")):
                await client.send({"type": "subscribe", "collection": table})
                await client.expect(event="init")
            async with held_lock(database) as hold:
                database.execute("INSERT INTO t VALUES (1)")
                await hold.is_waited_for()
                database.execute("INSERT INTO u VALUES (1)")
                await other.expect(event="create", data=[{"id": 1}])
                await hold.is_waited_for()
            await slow.expect(data=[{"id": 1}])


async def test_table_that_was_altered_holds_nobody_up_while_rights_on_it_are_asked_for(database: Database) -> None:
    database.execute(
        "CREATE TABLE members (sub text); INSERT INTO members VALUES ('ann');"
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY"
    )
    attach(database, "t", "u")
    with readers_of(database) as readers:
        database.execute(
            f"GRANT SELECT ON t, u, members TO {readers.role};"
            f"CREATE POLICY own ON t USING (EXISTS (SELECT FROM members m WHERE m.sub = {SUB}))"
        )
        async with (
            readers.bridge(**PATIENT) as bridge,
            readers.connected(bridge, "ann") as slow,
            readers.connected(bridge, "bob") as other,
        ):
            for client, table in ((slow, "t"), (other, "u")):
                await client.send({"type": "subscribe", "collection": table})
                await client.expect(event="init")
            async with held_table(database, "members") as hold:
                database.execute("ALTER TABLE t ADD v int")
                database.execute("INSERT INTO t VALUES (1, 2)")
                await hold.is_waited_for()
                database.execute("INSERT INTO u VALUES (1)")
                await other.expect(event="create", data=[{"id": 1}])
                await hold.is_waited_for()
            await slow.until(data=[{"id": 1, "v": 2}])


async def test_locked_table_behind_a_relation_holds_nobody_up_who_does_not_show_it(database: Database) -> None:
    database.execute(
        "CREATE TABLE author (id int PRIMARY KEY, name text); INSERT INTO author VALUES (1, 'Ann');"
        "CREATE TABLE t (id int PRIMARY KEY, author int REFERENCES author); CREATE TABLE u (id int PRIMARY KEY)"
    )
    attach(database, "author", "t", "u")
    async with (
        running_bridge(database.dsn, **PATIENT) as bridge,
        following_both(database, bridge, {"fields": ["id", "author.name"]}) as other,
        held_table(database, "author") as hold,
    ):
        database.execute("SET session_replication_role = replica; INSERT INTO t VALUES (1, 1)")
        await hold.is_waited_for()
        database.execute("INSERT INTO u VALUES (1)")
        await other.expect(event="create", data=[{"id": 1}])
        await hold.is_waited_for()


async def test_figures_that_take_long_hold_up_neither_other_figures_nor_who_subscribes(database: Database) -> None:
    database.execute(TABLE + "CREATE TABLE u (id int PRIMARY KEY)")
    attach(database, "t", "u")
    async with (
        running_bridge(database.dsn, **PATIENT) as bridge,
        following_both(database, bridge, {"aggregate": {"count": "*"}}) as other,
    ):
        await other.send({"type": "subscribe", "collection": "u", "uid": "n", "query": {"aggregate": {"count": "*"}}})
        await other.expect(event="init", uid="n", data=[{"count": "0"}])
        async with held_table(database, "t_held") as hold:
            database.execute("INSERT INTO t VALUES (1)")
            await hold.is_waited_for()
            async with connected(bridge.url) as late:
                await late.send({"type": "subscribe", "collection": "u"})
                await late.expect(event="init", data=[])
            database.execute("INSERT INTO u VALUES (1)")
            await other.until(event="update", uid="n", data=[{"count": "1"}])
            await hold.is_waited_for()
