"""A write never fails because of us; when it cannot be told, the gap is marked."""

import threading
import time

import psycopg
import pytest

from cdc_bridge.demo.postgres import Cluster
from cdc_bridge.schema import attach
from tests.capture.ear import attach_tables, changes, listening
from tests.support.server import SETTINGS, Database, bin_dir


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    attach_tables(database, "t")
    return database


def test_writer_without_any_right_on_our_schema(t: Database):
    t.execute(
        "DO $$ BEGIN CREATE ROLE cdc_test_writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "GRANT INSERT, SELECT, DELETE ON t TO cdc_test_writer"
    )
    told = changes(t, "INSERT INTO t VALUES (1, 'a'); DELETE FROM t", user="cdc_test_writer")
    assert [operation for operation, _ in told] == ["I", "D"]


def test_value_that_cannot_be_rendered_marks_a_gap(t: Database):
    t.execute(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION ''no''; END'; CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);"
        "ALTER TABLE t ADD mood mood"
    )
    with listening(t) as ear:
        t.execute("BEGIN; INSERT INTO t VALUES (1, 'a', 'sad'); UPDATE t SET text = 'b'; COMMIT")
        assert ear.told() == []
        assert ear.gap() == 2
    assert t.execute("SELECT text FROM t") == [("b",)]


@pytest.mark.parametrize("lost", ["SEQUENCE cdc.gap", "SEQUENCE cdc.channel", "SEQUENCE cdc.seq", "FUNCTION cdc.send"])
def test_write_goes_on_when_a_part_of_ours_was_dropped(t: Database, lost: str):
    t.execute(f"DROP {lost}")
    t.execute(
        "TRUNCATE t; INSERT INTO t VALUES (1, 'a'), (2, 'a'); UPDATE t SET text = 'b'; DELETE FROM t WHERE id = 2"
    )
    assert t.execute("SELECT id, text FROM t") == [(1, "b")]


def test_write_goes_on_when_our_schema_was_dropped(t: Database):
    t.execute("DROP SCHEMA cdc CASCADE")
    t.execute(
        "TRUNCATE t; INSERT INTO t VALUES (1, 'a'), (2, 'a'); UPDATE t SET text = 'b'; DELETE FROM t WHERE id = 2"
    )
    assert t.execute("SELECT id, text FROM t") == [(1, "b")]


def test_error_of_the_statement_itself_stays_its_own(t: Database):
    t.execute("INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        t.execute("INSERT INTO t VALUES (1, 'a')")


def test_cancelled_statement_ends(t: Database):
    with pytest.raises(psycopg.errors.QueryCanceled):
        t.execute(
            "SET statement_timeout = '100ms'; INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1,"
            " 3000000) n"
        )


def test_transaction_beyond_its_share_of_the_queue_marks_a_gap(t: Database):
    with listening(t) as ear:
        t.execute(
            "BEGIN; SET LOCAL cdc_bridge.pending_bytes = '268435000'; INSERT INTO t VALUES (1, repeat('x', 500));"
            "INSERT INTO t VALUES (2, 'x'); COMMIT; INSERT INTO t VALUES (3, 'x')"
        )
        assert [row["id"] for _, rows in ear.told() for row in rows] == [2, 3]
        assert ear.gap() == 1


def test_bytes_of_a_transaction_add_up_and_end_with_it(t: Database):
    pending = "SELECT current_setting('cdc_bridge.pending_bytes', true)"
    with psycopg.connect(t.dsn) as conn:
        conn.execute("INSERT INTO t VALUES (1, repeat('x', 1000))")
        ((first,),) = conn.execute(pending).fetchall()
        conn.execute("INSERT INTO t VALUES (2, repeat('x', 1000))")
        ((second,),) = conn.execute(pending).fetchall()
        conn.rollback()
        ((after,),) = conn.execute(pending).fetchall()
    assert 1000 < int(first) < int(second)
    assert int(second) == 2 * int(first)
    assert after == ""


def test_falsified_count_harms_nobody(t: Database):
    t.execute("BEGIN; SET LOCAL cdc_bridge.pending_bytes = 'nonsense'; INSERT INTO t VALUES (1, 'x'); COMMIT")
    assert changes(t, "SET cdc_bridge.pending_bytes = '-99'; INSERT INTO t VALUES (2, 'x')") == [
        ("I", [{"id": 2, "text": "x"}])
    ]


def test_full_queue_does_not_stop_writers():
    """A listener that sits in a transaction keeps PostgreSQL from emptying its queue of notifications."""
    try:
        with Cluster(bin_dir(), settings={**SETTINGS, "max_notify_queue_pages": "64"}) as cluster:
            _write_while_a_listener_sleeps(cluster.dsn())
    except Exception as error:
        if "unrecognized configuration parameter" in str(error):
            pytest.skip("the queue has had a setting since PostgreSQL 17")
        raise


def _write_while_a_listener_sleeps(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as writer, psycopg.connect(dsn, autocommit=True) as sleeper:
        writer.execute("CREATE TABLE t (id int, text text)")
        attach.apply(writer, attach.plan(writer, attach.Request(tables=("t",))))
        sleeper.execute("LISTEN something")
        sleeper.execute("BEGIN")
        sleeper.execute("SELECT 1")
        for number in range(2000):
            writer.execute("INSERT INTO t VALUES (%s, repeat('x', 500))", [number])
        ((used, gap, rows),) = writer.execute(
            "SELECT pg_notification_queue_usage(), (SELECT last_value FROM cdc.gap), (SELECT count(*) FROM t)"
        ).fetchall()
        assert used < 0.6
        assert gap > 100
        assert rows == 2000
        sleeper.execute("COMMIT")


def test_writers_go_on_while_attach_waits_for_a_long_transaction(database: Database):
    """Whoever waits for a table's lock makes everybody wait who comes after: so attach may not wait for long."""
    database.execute("CREATE TABLE t (id int)")
    slowest_s = 0.0
    with psycopg.connect(database.dsn) as long, psycopg.connect(database.dsn, autocommit=True) as writer:
        long.execute("INSERT INTO t VALUES (0)")
        attaching = threading.Thread(target=attach_tables, args=(database, "t"))
        attaching.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            began = time.monotonic()
            writer.execute("INSERT INTO t VALUES (1)")
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert attaching.is_alive()
        long.commit()
        attaching.join(20)
    assert slowest_s < 0.6
    assert changes(database, "DELETE FROM t WHERE id = 0") == [("D", [{"id": 0}])]
