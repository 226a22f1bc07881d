"""The SQL of a database that 0.1.0 was installed on is upgraded while a bridge serves and writers write."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import psycopg
import pytest

from cdc_bridge.admin import attach as attaching
from cdc_bridge.statements import VERSION, statement
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.follower import following
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
    attach(database, "t")
    assert database.execute("SELECT cdc.version()") == [(VERSION,)]


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
