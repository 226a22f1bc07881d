"""Triggers follow what changes in attached tables, as often as is needed and no more often."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.admin import attach, status
from cdc_bridge.admin.attach import Outcome, repair
from cdc_bridge.admin.mode import Mode
from cdc_bridge.database.catalog_reader import Pool, PooledCatalogReader
from cdc_bridge.database.sessions import prepare
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import LockNotAcquired, NotOwner
from tests.schema.telling import attach_tables, changes
from tests.support.server import Database

P, T = Relation("public", "p"), Relation("public", "t")
NOP = "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
PARTITIONED = "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2);"


@pytest.fixture
def conn(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    async with _pool(database.dsn) as pool:
        yield pool


def _pool(dsn: str) -> Pool:
    return AsyncConnectionPool(
        dsn, min_size=1, open=False, kwargs={"autocommit": True}, configure=lambda each: prepare(each, "cdc")
    )


def enabled(conn: psycopg.Connection[Any]) -> set[str]:
    found = conn.execute("SELECT DISTINCT tgenabled::text FROM pg_trigger WHERE tgname LIKE '00\\_cdc%'").fetchall()
    return {each for (each,) in found}


@pytest.mark.parametrize("row_trigger", [False, True])
def test_triggers_that_were_disabled_for_a_while_fire_always_again(
    database: Database, conn: psycopg.Connection[Any], row_trigger: bool, mode: Mode
) -> None:
    """As pg_restore --disable-triggers does it, to partitions too."""
    conn.execute(NOP + PARTITIONED)
    if row_trigger:
        conn.execute("CREATE TRIGGER app AFTER UPDATE ON p FOR EACH ROW EXECUTE FUNCTION nop()")
    attach_tables(database, "p", mode=mode)
    for table in ("p", "p1"):
        conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL; ALTER TABLE {table} ENABLE TRIGGER ALL".encode())
        assert "O" in enabled(conn)
        assert repair(conn) == Outcome([P])
        assert enabled(conn) == {"A"}
    assert repair(conn) == Outcome()
    told = changes(database, "SET session_replication_role = replica; INSERT INTO p VALUES (1)")
    assert told == [("I", [{"id": 1}])]


def test_table_is_captured_row_by_row_from_when_it_is_needed_until_it_is_not(
    database: Database, conn: psycopg.Connection[Any], mode: Mode
) -> None:
    conn.execute(NOP + "CREATE TABLE t (id int, secret int)")
    attach_tables(database, "t", exclude=("t.secret",), mode=mode)
    conn.execute("CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()")
    assert repair(conn) == Outcome([T])
    assert changes(database, "INSERT INTO t VALUES (1), (2)") == [("I", [{"id": 1}]), ("I", [{"id": 2}])]
    conn.execute("DROP TRIGGER app ON t")
    assert repair(conn) == Outcome([T])
    assert changes(database, "INSERT INTO t VALUES (1), (2)") == [("I", [{"id": 1}, {"id": 2}])]


def test_disabled_trigger_stays_disabled_whatever_level_is_needed(
    database: Database, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(NOP + "CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("ALTER TABLE t DISABLE TRIGGER ALL")
    conn.execute("CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()")
    assert repair(conn) == Outcome()
    assert enabled(conn) == {"D"}


def test_table_filled_by_logical_replication_is_captured_row_by_row(
    database: Database, conn: psycopg.Connection[Any]
) -> None:
    """Applying fires row triggers only. A subscription without a publisher is enough to tell."""
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("CREATE SUBSCRIPTION s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)")
    conn.execute(
        "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
        " SELECT s.oid, 't'::regclass, 'i' FROM pg_subscription s WHERE s.subname = 's'"
    )
    try:
        assert "logical replication" in status.read_status(conn).tables[0].problems[0]
        assert repair(conn) == Outcome([T])
        (shown,) = status.read_status(conn).tables
        assert (shown.captured_for_each, shown.problems) == ("row", ())
        assert "logical replication" in attach.plan(conn, attach.Request(("t",))).notes[0]
    finally:
        conn.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
        conn.execute("DROP SUBSCRIPTION s")


@pytest.mark.parametrize("row_trigger", [False, True])
def test_table_attached_by_itself_may_become_a_partition_and_is_told_once(
    database: Database, conn: psycopg.Connection[Any], row_trigger: bool, mode: Mode
) -> None:
    conn.execute(NOP + PARTITIONED + "CREATE TABLE x (id int)")
    if row_trigger:
        conn.execute(
            "CREATE TRIGGER app AFTER INSERT ON p FOR EACH ROW EXECUTE FUNCTION nop();"
            "CREATE TRIGGER app_x AFTER INSERT ON x FOR EACH ROW EXECUTE FUNCTION nop()"
        )
    attach_tables(database, "p", "x", mode=mode)
    conn.execute("ALTER TABLE p ATTACH PARTITION x FOR VALUES IN (3)")
    assert repair(conn) == Outcome([P])
    assert changes(database, "INSERT INTO p VALUES (3); INSERT INTO x VALUES (3)") == [("I", [{"id": 3}])] * 2


def test_marks_of_row_triggers_are_kept(database: Database, conn: psycopg.Connection[Any], mode: Mode) -> None:
    """After dump and restore the table has another oid, and nothing is to be done."""
    conn.execute(
        NOP + "CREATE TABLE t (id int); CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    attach_tables(database, "t", mode=mode)
    ((definitions,),) = conn.execute(
        "SELECT string_agg(pg_get_triggerdef(oid) || format(';ALTER TABLE t ENABLE ALWAYS TRIGGER %I', tgname), ';')"
        " FROM pg_trigger WHERE tgrelid = 't'::regclass"
    ).fetchall()
    conn.execute(("DROP TABLE t; CREATE TABLE t (id int); " + definitions).encode())
    assert attach.plan(conn, attach.Request(("t",))).tasks == ()
    assert repair(conn) == Outcome()


async def test_lock_that_is_not_to_be_had_is_asked_for_again(
    database: Database, conn: psycopg.Connection[Any], pool: Pool
) -> None:
    conn.execute(PARTITIONED + "CREATE TABLE t (id int) PARTITION BY LIST (id)")
    attach_tables(database, "p", "t")
    conn.execute("CREATE TABLE p2 PARTITION OF p DEFAULT; CREATE TABLE t1 PARTITION OF t DEFAULT")
    async with pool:
        reader = PooledCatalogReader(pool, database.dsn, "cdc", {})
        await reader.fingerprint()
        with psycopg.connect(database.dsn) as writer:
            writer.execute("INSERT INTO p2 VALUES (7)")
            assert await reader.repair() == [T]
            assert isinstance(repair(conn, lock_limit_s=0).failed[P], LockNotAcquired)
            assert await reader.repair() == []
        assert await reader.repair() == [P]
        assert await reader.repair() == []


async def test_table_of_somebody_else_is_not_repaired_and_not_said_to_be(
    database: Database, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    role = f"stranger_{database.name}"
    conn.execute(PARTITIONED)
    attach_tables(database, "p")
    conn.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA cdc TO {role}".encode())
    conn.execute("CREATE TABLE p2 PARTITION OF p DEFAULT")
    dsn = make_conninfo(database.dsn, user=role)
    try:
        async with _pool(dsn) as pool:
            reader = PooledCatalogReader(pool, dsn, "cdc", {})
            await reader.fingerprint()
            assert [await reader.repair() for _ in range(3)] == [[], [], []]
            assert [record.getMessage() for record in caplog.records].count("changes are missed") == 1
            with psycopg.connect(dsn, autocommit=True) as stranger:
                assert isinstance(repair(stranger).failed[P], NotOwner)
            conn.execute(f"ALTER TABLE p OWNER TO {role}; ALTER TABLE p1 OWNER TO {role}".encode())
            conn.execute(f"ALTER TABLE p2 OWNER TO {role}".encode())
            conn.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cdc TO {role}".encode())
            await reader.fingerprint()
            assert await reader.repair() == [P]
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
