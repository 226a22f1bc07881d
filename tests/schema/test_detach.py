"""Detach: nothing is left, whatever has happened in between."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from cdc_bridge.admin import attach, detach, status
from cdc_bridge.admin.mode import Mode
from cdc_bridge.model.errors import AttachError, DatabaseError, LockNotAcquired, UsageError
from tests.schema.telling import attach_tables, changes
from tests.support.server import Database, bin_dir

APPLICATION = """
    CREATE SCHEMA shop; CREATE TABLE shop."Orders" (id int PRIMARY KEY, secret text);
    CREATE TABLE messages (id int PRIMARY KEY, text text);
    CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TABLE tasks (id int); CREATE TRIGGER app AFTER INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION nop();
    CREATE TABLE events (id int, region text) PARTITION BY LIST (region);
    CREATE TABLE events_eu PARTITION OF events FOR VALUES IN ('de', 'fr') PARTITION BY LIST (region);
    CREATE TABLE events_de PARTITION OF events_eu FOR VALUES IN ('de');
    CREATE TABLE logs (id int) PARTITION BY LIST (id); CREATE TABLE logs_1 PARTITION OF logs DEFAULT;
    CREATE TRIGGER app AFTER INSERT ON logs FOR EACH ROW EXECUTE FUNCTION nop();
"""
TABLES = ("messages", "tasks", "events", "logs", 'shop."Orders"')


@pytest.fixture
def conn(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        yield conn


def detach_all(conn: psycopg.Connection[Any], *, purge: bool = False) -> detach.Plan:
    plan = detach.plan(conn, detach.Request(all_tables=True, purge=purge))
    detach.apply(conn, plan, lock_limit_s=5)
    return plan


def dump(database: Database) -> str:
    """The schema as `pg_dump -s` writes it; newer ones add a random word to two lines."""
    command = [str(bin_dir() / "pg_dump"), "-s", database.dsn]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def test_dump_after_purge_is_what_it_was_before_attach(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute(APPLICATION)
    before = dump(database)
    attach_tables(database, *TABLES, exclude=("shop.Orders.secret",), mode=mode)
    conn.execute("INSERT INTO messages VALUES (1, 'a')")
    assert dump(database) != before
    detach_all(conn, purge=True)
    assert dump(database) == before


def test_detached_table_is_silent_and_others_go_on(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute(APPLICATION)
    attach_tables(database, *TABLES, mode=mode)
    detach.apply(conn, detach.plan(conn, detach.Request(tables=("messages", "events"))))
    told = changes(
        database,
        "INSERT INTO messages VALUES (1, 'a'); INSERT INTO events_de VALUES (1, 'de'); INSERT INTO tasks VALUES (1)",
    )
    assert told == [("I", [{"id": 1}])]


def test_detaching_again_does_nothing(database: Database, conn: psycopg.Connection[Any]):
    conn.execute(APPLICATION)
    attach_tables(database, *TABLES)
    detach_all(conn, purge=True)
    assert detach_all(conn, purge=True).tasks == ()
    assert detach.plan(conn, detach.Request(tables=("messages",))).tasks == ()


def test_detach_takes_no_lock_on_tables_that_are_not_attached(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    attach_tables(database, "a")
    with psycopg.connect(database.dsn) as other:
        other.execute("LOCK TABLE b")
        assert detach_all(conn).tasks != ()
    assert changes(database, "INSERT INTO a VALUES (1)") == []


def test_changes_of_the_tables_in_between_leave_nothing_behind(
    database: Database, conn: psycopg.Connection[Any], mode: Mode
):
    """Renamed, moved, partitions added and taken away, columns dropped."""
    conn.execute(APPLICATION)
    attach_tables(database, *TABLES, exclude=("shop.Orders.secret",), mode=mode)
    conn.execute(
        'ALTER TABLE messages RENAME TO "Größere"; ALTER TABLE shop."Orders" SET SCHEMA public;'
        'ALTER TABLE "Orders" DROP secret;'
        "CREATE TABLE events_fr PARTITION OF events_eu FOR VALUES IN ('fr'); ALTER TABLE events DETACH"
        " PARTITION events_eu;"
        "ALTER TABLE logs DETACH PARTITION logs_1; CREATE TABLE logs_2 PARTITION OF logs DEFAULT; DROP"
        " TRIGGER app ON tasks"
    )
    detach_all(conn)
    assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '00%'").fetchone() == (0,)
    detach_all(conn, purge=True)
    assert "cdc" not in dump(database)


def test_former_partition_can_be_detached_by_name(database: Database, conn: psycopg.Connection[Any]):
    conn.execute(APPLICATION)
    attach_tables(database, "events")
    conn.execute("ALTER TABLE events_eu DETACH PARTITION events_de")
    plan = detach.plan(conn, detach.Request(tables=("events_de",)))
    detach.apply(conn, plan)
    assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'events_de'::regclass").fetchone() == (0,)


@pytest.mark.parametrize(
    "lost",
    [
        "DROP FUNCTION cdc.version()",
        "DROP SEQUENCE cdc.seq, cdc.gap CASCADE",
        "DROP FUNCTION cdc.capture() CASCADE",
        "DROP SCHEMA cdc CASCADE",
    ],
)
def test_purge_of_what_is_half_there(database: Database, conn: psycopg.Connection[Any], lost: str):
    conn.execute(APPLICATION)
    before = dump(database)
    attach_tables(database, *TABLES)
    conn.execute(lost.encode())
    detach_all(conn, purge=True)
    assert dump(database) == before


def test_purge_keeps_a_schema_with_tables_of_somebody_else(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("CREATE TABLE cdc.theirs (id int)")
    with pytest.raises(DatabaseError, match="holds theirs, which is not ours"):
        detach.plan(conn, detach.Request(all_tables=True, purge=True))


FOREIGN = """
    CREATE TABLE t (id int); CREATE TABLE u (id int);
    CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE FUNCTION capture() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION app();
    CREATE TRIGGER audit AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION capture();
    CREATE TRIGGER "00_cdc_bridge_app" AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION app();
"""


@pytest.mark.parametrize("request_", [detach.Request(all_tables=True), detach.Request(tables=("t",))])
def test_schema_of_the_application_is_refused(conn: psycopg.Connection[Any], request_: detach.Request):
    conn.execute(FOREIGN)
    with pytest.raises(DatabaseError, match='the schema "public" is there and is not ours'):
        detach.plan(conn, request_, "public")
    with pytest.raises(DatabaseError, match='the schema "public" is there and is not ours'):
        status.read_status(conn, "public")


def test_triggers_of_the_application_are_not_ours_whatever_the_schema(conn: psycopg.Connection[Any]):
    """Even where the schema passes as ours."""
    conn.execute(FOREIGN + "COMMENT ON SCHEMA public IS 'cdc_bridge: no'")
    assert detach.plan(conn, detach.Request(all_tables=True), "public").tasks == ()
    assert detach.plan(conn, detach.Request(tables=("t", "u")), "public").tasks == ()
    assert status.read_status(conn, "public").tables == ()


def test_purge_needs_all(conn: psycopg.Connection[Any]):
    with pytest.raises(UsageError, match="add --all"):
        detach.plan(conn, detach.Request(tables=("t",), purge=True))


def test_unknown_table_is_an_error(conn: psycopg.Connection[Any]):
    with pytest.raises(AttachError, match="there is no table nothing"):
        detach.plan(conn, detach.Request(tables=("nothing",)))


def test_lock_that_is_never_free_names_its_holder(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    with psycopg.connect(database.dsn, application_name="reports") as reader:
        reader.execute("SELECT * FROM t")
        with pytest.raises(
            LockNotAcquired, match=r'detach public.t: no lock within 0.3 s. It is held by process .* "reports"'
        ):
            detach.apply(conn, detach.plan(conn, detach.Request(all_tables=True)), lock_limit_s=0.3)
    assert attach.plan(conn, attach.Request(tables=("t",))).tasks == ()


def test_prepared_transaction_in_the_way_is_named(database: Database, conn: psycopg.Connection[Any]):
    """It has no process that could be asked or ended."""
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    gid = f"Ann's {database.name}"
    with psycopg.connect(database.dsn, autocommit=True) as writer:
        writer.execute(psycopg.sql.SQL("BEGIN; SELECT FROM t; PREPARE TRANSACTION {}").format(psycopg.sql.Literal(gid)))
    try:
        with pytest.raises(
            LockNotAcquired, match=r"held by the prepared transaction 'Ann''s .*: COMMIT PREPARED 'Ann''s"
        ):
            detach.apply(conn, detach.plan(conn, detach.Request(all_tables=True)), lock_limit_s=0.3)
    finally:
        conn.execute(psycopg.sql.SQL("ROLLBACK PREPARED {}").format(psycopg.sql.Literal(gid)))
    detach_all(conn)
