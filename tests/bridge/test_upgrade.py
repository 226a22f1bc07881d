"""Program and SQL are upgraded one after the other, in either order, while bridges serve and writers write."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import psycopg
import pytest

from cdc_bridge.admin import attach as attaching
from cdc_bridge.admin.migrations import plan_upgrade
from cdc_bridge.admin.plan import NO_LOCK, apply
from cdc_bridge.admin.retention import prune
from cdc_bridge.admin.status import read_status
from cdc_bridge.model.errors import DatabaseError, NotInstalled
from cdc_bridge.statements import VERSION, names, purpose, statement
from tests.support.bridge import BridgeProcess, is_ready, running_bridge
from tests.support.follower import following
from tests.support.previous import previous_program
from tests.support.server import Database

VERSION_3 = (Path(__file__).parent / "version_3.sql").read_text()
EVENTS = {
    "insert": "REFERENCING NEW TABLE AS new_rows",
    "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "REFERENCING OLD TABLE AS old_rows",
}
ROWS = 600


@pytest.fixture
def old(database: Database) -> Database:
    """A database with the SQL of 0.1.0, and a table that it has attached."""
    database.execute(VERSION_3)
    condition = statement("triggers/condition", "cdc").as_string()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    for event, transition_tables in EVENTS.items():
        database.execute(
            f'CREATE TRIGGER "00_cdc_bridge_{event}" AFTER {event} ON t {transition_tables} FOR EACH STATEMENT'
            f" EXECUTE FUNCTION cdc.capture_durable_{event}();"
            f' ALTER TABLE t ENABLE ALWAYS TRIGGER "00_cdc_bridge_{event}"'
        )
    database.execute(
        f'CREATE TRIGGER "00_cdc_bridge_truncate" AFTER TRUNCATE ON t FOR EACH STATEMENT {condition}'
        ' EXECUTE FUNCTION cdc.capture_durable(); ALTER TABLE t ENABLE ALWAYS TRIGGER "00_cdc_bridge_truncate"'
    )
    assert database.execute("SELECT cdc.version()") == [(3,)]
    return database


def upgrade(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        apply(connection, plan_upgrade(connection))
    assert database.execute("SELECT cdc.version()") == [(VERSION,)]


# --- the command ---


def test_plan_names_the_locks_that_are_taken_and_nothing_else_is_locked(old: Database) -> None:
    with psycopg.connect(old.dsn, autocommit=True) as connection:
        (task,) = plan_upgrade(connection).tasks
    locked = [each.lock for each in task.steps if each.lock != NO_LOCK]
    assert locked == [
        "ACCESS EXCLUSIVE on our own tables errand, into which few writers write, and forgotten, which bridges read"
    ]
    with psycopg.connect(old.dsn) as connection:
        for each in (*task.before, *task.steps):
            connection.execute(each.statement)
        taken = connection.execute(
            "SELECT DISTINCT relation::regclass::text, mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN"
            " (SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384)"
            " AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')"
        ).fetchall()
        connection.rollback()
    assert ("cdc.errand", "AccessExclusiveLock") in taken
    assert {relation for relation, _ in taken} == {"cdc.errand", "cdc.forgotten"}
    assert old.execute("SELECT cdc.version()") == [(3,)]


def test_printed_plan_is_the_upgrade(old: Database) -> None:
    with psycopg.connect(old.dsn, autocommit=True) as connection:
        text = str(plan_upgrade(connection))
        assert "ACCESS EXCLUSIVE on our own tables errand" in text
        assert "migrations/004_kept: Whether what is started writes the changes that keep() has kept" in text
        old.execute(text)
        assert not plan_upgrade(connection).tasks
    assert old.execute("SELECT cdc.version()") == [(VERSION,)]


def test_each_file_of_our_sql_says_what_it_is_for() -> None:
    for name in [*names("migrations"), *names("functions")]:
        assert 10 < len(purpose(name)) < 300, name


def test_database_without_our_sql_or_with_a_newer_one_is_not_upgraded(database: Database, old: Database) -> None:
    with psycopg.connect(database.server.dsn(), autocommit=True) as elsewhere, pytest.raises(NotInstalled):
        plan_upgrade(elsewhere)
    old.execute("CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 99'")
    with psycopg.connect(old.dsn, autocommit=True) as connection, pytest.raises(DatabaseError, match="newer"):
        plan_upgrade(connection)


# --- the SQL first ---


async def test_program_of_the_version_before_goes_on_with_the_new_sql(old: Database, tmp_path: Path) -> None:
    """Through the upgrade, after a restart, and beside the new program. Clients go from one to the other and back."""
    program = previous_program(tmp_path)
    async with BridgeProcess(old.dsn, program=program) as bridge:
        await bridge.ready()
        async with following(bridge.url) as client:
            old.execute("INSERT INTO t VALUES (1, 'old program, old SQL')")
            await client.knows(1)
            await asyncio.to_thread(upgrade, old)
            old.execute("INSERT INTO t VALUES (2, 'old program, new SQL'), (3, 'of the same statement')")
            old.execute("UPDATE t SET text = 'changed' WHERE id = 1")
            old.execute("DELETE FROM t WHERE id = 3")
            await client.knows(1, 2)
            async with asyncio.timeout(20):
                while client.rows[1]["text"] != "changed" or 3 in client.rows:
                    await client.step()
            assert client.inits == ["fresh"]
            cursor, rows = client.cursor, client.rows
        bridge.terminate()
        assert await bridge.wait() == 0
        assert "Traceback" not in bridge.stderr
    old.execute("INSERT INTO t SELECT i, 'while nobody was there' FROM generate_series(10, 300) i")
    known = {1, 2, *range(10, 301)}
    async with BridgeProcess(old.dsn, program=program) as before, running_bridge(old.dsn) as after:
        await before.ready()
        for number, url in enumerate((before.url, after.url, before.url), 1000):
            old.execute("INSERT INTO t VALUES (%s, 'on the way')", [number])
            known.add(number)
            async with following(url, "t", cursor, rows) as client:
                await client.knows(*known)
                assert client.inits == ["resumed"]
                cursor, rows = client.cursor, client.rows
        assert "Traceback" not in before.stderr
    assert old.execute("SELECT coalesce(pg_sequence_last_value('cdc.gap'), 0)") == [(0,)]


# --- the program first ---


async def test_new_program_serves_and_keeps_the_log_with_the_sql_of_the_version_before(
    old: Database, tmp_path: Path
) -> None:
    async with BridgeProcess(old.dsn, program=previous_program(tmp_path)) as before:
        await before.ready()
        async with following(before.url) as client:
            old.execute("INSERT INTO t VALUES (1, 'old program')")
            await client.knows(1)
            cursor, rows = client.cursor, client.rows
    old.execute("INSERT INTO t VALUES (2, 'between them')")
    async with running_bridge(old.dsn) as bridge, following(bridge.url, "t", cursor, rows) as client:
        assert await is_ready(bridge.http)
        await client.knows(1, 2)
        old.execute("INSERT INTO t SELECT i, 'new program' FROM generate_series(3, 300) i")
        await client.knows(*range(1, 301))
        assert client.inits == ["resumed"]
        with psycopg.connect(old.dsn, autocommit=True) as connection:
            found = read_status(connection)
            assert (found.version, found.problems, found.tables[0].problems) == (3, (), ())
            assert prune(connection, "cdc", 0, 0).forgotten
        old.execute("INSERT INTO t VALUES (301, 'after pruning')")
        await client.knows(*range(1, 302))
    assert old.execute("SELECT cdc.version()") == [(3,)]


# --- while it is upgraded ---


def test_triggers_of_0_1_0_stay_as_they_are(old: Database) -> None:
    """Making them anew would take a lock that waits for writers."""
    identity = "SELECT oid, xmin FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 't'::regclass ORDER BY oid"
    before = old.execute(identity)
    upgrade(old)
    assert old.execute(identity) == before
    with psycopg.connect(old.dsn, autocommit=True) as connection:
        assert not attaching.plan(connection, attaching.Request(("t",))).tasks


async def test_nothing_is_lost_or_doubled_while_sessions_go_on_with_the_old_functions(old: Database) -> None:
    """One transaction is open across the upgrade, others come and go; a client of the bridge gets each row once."""
    written = threading.Event()
    upgraded = threading.Event()

    def write() -> None:
        with psycopg.connect(old.dsn, autocommit=True) as writer:
            for number in range(ROWS):
                writer.execute("INSERT INTO t VALUES (%s)", [number])
                if number == ROWS // 3:
                    written.set()
                    upgraded.wait(30)

    async with running_bridge(old.dsn) as bridge, following(bridge.url, "t") as client:
        with psycopg.connect(old.dsn) as open_one:
            open_one.execute("INSERT INTO t VALUES (-1)")
            writer = threading.Thread(target=write)
            writer.start()
            await asyncio.to_thread(written.wait, 30)
            await client.knows(*range(ROWS // 3 + 1))
            cursor, rows = client.cursor, dict(client.rows)
            await asyncio.to_thread(upgrade, old)
            upgraded.set()
            for number in range(2, 200):
                open_one.execute("INSERT INTO t VALUES (%s)", [-number])
            open_one.commit()
        await asyncio.to_thread(writer.join, 60)
        await client.knows(*range(ROWS), *range(-199, 0), within_s=30)
        assert client.inits == ["fresh"]
        async with following(bridge.url, "t", cursor, rows) as returned:
            await returned.knows(*range(ROWS), *range(-199, 0))
            assert returned.inits == ["resumed"]
    assert old.execute("SELECT coalesce(pg_sequence_last_value('cdc.gap'), 0)") == [(0,)]


async def test_gate_that_a_bridge_holds_open_stays_open(old: Database) -> None:
    async with running_bridge(old.dsn, heartbeat_interval_s=0.1) as bridge, following(bridge.url, "t") as client:
        async with asyncio.timeout(30):
            while old.execute("SELECT pg_sequence_last_value('cdc.gate') & 1") != [(1,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        (value,) = old.execute("SELECT pg_sequence_last_value('cdc.gate')")
        upgrade(old)
        old.execute("INSERT INTO t VALUES (1)")
        await client.knows(1)
        assert old.execute("SELECT pg_sequence_last_value('cdc.gate')") == [value]
