"""Status: what is attached, and every way in which it can be wrong."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from cdc_bridge import __version__, statements
from cdc_bridge.admin import status
from cdc_bridge.admin.attach import Outcome, objection, repair
from cdc_bridge.admin.mode import Mode, Notify, record_notify
from cdc_bridge.admin.tables import as_trees, query_tables
from cdc_bridge.conninfo import HEARTBEAT, LISTEN, READ, heartbeat_name
from cdc_bridge.database.sessions import prepare
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import DatabaseError, NotInstalled
from tests.schema.telling import attach_tables, changes
from tests.support.bridge import running_bridge
from tests.support.server import Database

NOP = "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"


@pytest.fixture
def conn(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        yield conn


def problems(conn: psycopg.Connection[Any]) -> list[str]:
    return [problem for table in status.read_status(conn).tables for problem in table.problems]


def test_database_without_our_schema_is_not_installed(conn: psycopg.Connection[Any]):
    with pytest.raises(NotInstalled, match="attach a table first"):
        status.read_status(conn)


def test_attached_tables_are_shown(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute(
        f"{NOP} CREATE SCHEMA shop; CREATE TABLE shop.orders (id int, secret text); CREATE TABLE messages (id int);"
        "CREATE TRIGGER app AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION nop();"
        "CREATE TABLE events (id int) PARTITION BY LIST (id); CREATE TABLE events_1 PARTITION OF events DEFAULT;"
        "CREATE TABLE unattached (id int)"
    )
    attach_tables(database, "messages", "events", "shop.orders", exclude=("shop.orders.secret",), mode=mode)
    shown = status.read_status(conn)
    assert shown.version == statements.VERSION
    assert shown.problems == ()
    assert [
        (t.collection, t.captured_for_each, t.excluded_columns, t.partitions, t.problems) for t in shown.tables
    ] == [
        ("events", "statement", (), 1, ()),
        ("messages", "row", (), 0, ()),
        ("shop.orders", "statement", ("secret",), 0, ()),
    ]
    assert (shown.tables[2].schema, shown.tables[2].name) == ("shop", "orders")


async def test_bridge_is_shown_once_whatever_sessions_it_has(database: Database, conn: psycopg.Connection[Any]):
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    assert status.read_status(conn).listeners == ()
    async with running_bridge(database.dsn):
        sessions = "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'cdc\\_bridge %'"
        names = dict(conn.execute(sessions + " AND datname = current_database()").fetchall())
        assert set(names.values()) >= {LISTEN, heartbeat_name(__version__, 0), READ}
        (listener,) = status.read_status(conn).listeners
        assert (names[listener.pid], listener.application_name) == (LISTEN, LISTEN)
        assert listener.since is not None


async def test_bridge_is_shown_also_where_nothing_notifies(database: Database, conn: psycopg.Connection[Any]):
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    record_notify(conn, "cdc", Notify.OFF)
    async with running_bridge(database.dsn):
        (listener,) = status.read_status(conn).listeners
        assert listener.application_name.startswith(HEARTBEAT)


def test_disabled_trigger_is_shown_whatever_level_is_needed(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute(
        f'ALTER TABLE t DISABLE TRIGGER "00_cdc_bridge_update";'
        f"{NOP} CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    assert problems(conn) == ['the trigger "00_cdc_bridge_update" on public.t is disabled: run attach again']


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ('DROP TRIGGER "00_cdc_bridge_update" ON t', 'the trigger "00_cdc_bridge_update" on public.t is missing'),
        ('ALTER TABLE t DISABLE TRIGGER "00_cdc_bridge_update"', "on public.t is disabled"),
        ('ALTER TABLE t ENABLE TRIGGER "00_cdc_bridge_update"', "on public.t is not ENABLE ALWAYS"),
        (
            f"{NOP} CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()",
            'public.t has the row trigger "app"',
        ),
        (
            'CREATE OR REPLACE TRIGGER "00_cdc_bridge_update" AFTER UPDATE ON t REFERENCING OLD TABLE AS old_rows'
            " NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION cdc.capture('1:id');"
            'ALTER TABLE t ENABLE ALWAYS TRIGGER "00_cdc_bridge_update"',
            "is not as it should be",
        ),
    ],
)
def test_harmed_trigger_is_a_problem_until_attach_runs_again(
    database: Database, conn: psycopg.Connection[Any], harm: str, problem: str
):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute(harm.encode())
    found = problems(conn)
    assert any(problem in sentence for sentence in found)
    assert all(sentence.endswith("run attach again") for sentence in found)
    attach_tables(database, "t")
    assert problems(conn) == []


def test_row_triggers_that_are_no_longer_needed_are_a_problem(database: Database, conn: psycopg.Connection[Any]):
    conn.execute(
        f"{NOP} CREATE TABLE t (id int); CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    attach_tables(database, "t")
    conn.execute("DROP TRIGGER app ON t")
    assert problems(conn) == ["public.t is captured row by row and needs it no longer: run attach again"]


def test_disabled_copy_of_a_row_trigger_is_a_problem(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute(
        f"{NOP} CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT;"
        "CREATE TRIGGER app AFTER INSERT ON p FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    attach_tables(database, "p", mode=mode)
    assert problems(conn) == []
    conn.execute("ALTER TABLE p1 DISABLE TRIGGER ALL")
    assert [sentence.split("is ")[-1] for sentence in problems(conn)] == ["disabled: run attach again"] * 4
    attach_tables(database, "p", mode=mode)
    assert problems(conn) == []


def test_inheritance_that_began_after_attach_is_a_problem(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("CREATE TABLE child () INHERITS (t)")
    (problem,) = problems(conn)
    assert "(INHERITS)" in problem
    conn.execute("DROP TABLE child")
    assert problems(conn) == []


def test_former_partition_with_triggers_is_a_problem(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT")
    attach_tables(database, "p")
    conn.execute("ALTER TABLE p DETACH PARTITION p1")
    shown = status.read_status(conn)
    assert [table.collection for table in shown.tables] == ["p"]
    assert shown.problems == ("public.p1 was a partition and still carries triggers: attach it, or detach it",)


async def incomplete(bridge: psycopg.AsyncConnection[Any]) -> dict[Relation, DatabaseError | None]:
    """The tables that a bridge finds to need repair, each with what forbids it."""
    trees = as_trees(await query_tables("cdc").all_async(bridge))
    return {tree.root.relation: objection(tree) for tree in trees if tree.is_attached and tree.outdated()}


async def test_new_partition_is_found_and_repaired(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute("CREATE TABLE p (id int, secret int) PARTITION BY LIST (id); CREATE TABLE other (id int)")
    attach_tables(database, "p", "other", exclude=("p.secret",), mode=mode)
    async with await database.connect() as bridge:
        await prepare(bridge, "cdc")
        assert await incomplete(bridge) == {}
        conn.execute("CREATE TABLE p1 PARTITION OF p DEFAULT")
        assert problems(conn) == ["the partition public.p1 has no triggers yet: run attach again"]
        assert await incomplete(bridge) == {Relation("public", "p"): None}
        assert repair(conn) == Outcome([Relation("public", "p")])
        assert repair(conn) == Outcome()
        assert await incomplete(bridge) == {}
    assert problems(conn) == []
    assert changes(database, "INSERT INTO p1 VALUES (1, 2)") == [("I", [{"id": 1}])]


async def test_first_virtual_column_is_found_and_repaired(database: Database, conn: psycopg.Connection[Any]):
    if database.server.version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("ALTER TABLE t ADD twice int GENERATED ALWAYS AS (id * 2) VIRTUAL")
    async with await database.connect() as bridge:
        await prepare(bridge, "cdc")
        assert await incomplete(bridge) == {Relation("public", "t"): None}
        repair(conn)
        assert await incomplete(bridge) == {}
    assert changes(database, "INSERT INTO t VALUES (1)") == [("I", [{"id": 1, "twice": 2}])]


async def test_disabled_triggers_are_not_repaired(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT")
    attach_tables(database, "p")
    conn.execute("ALTER TABLE p1 DISABLE TRIGGER USER; CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)")
    repair(conn)
    enabled = conn.execute(
        "SELECT DISTINCT tgrelid::regclass::text, tgenabled::text FROM pg_trigger WHERE tgname LIKE '00%' ORDER BY 1"
    ).fetchall()
    assert enabled == [("p", "A"), ("p1", "D"), ("p2", "A")]
