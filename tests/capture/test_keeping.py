"""A long transaction keeps its changes in memory and writes them to the log together, before it commits."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import Ear, attach_tables, listening
from tests.support.server import Database

CREATE = "CREATE TABLE t (id int, n numeric, f float8, j json, b jsonb, text text, at timestamptz, tags text[])"
VALUES = [
    (
        "1.50",
        "0.1",
        '{"a" :  1, "b":[null, "ü\\u00e4"]}',
        '{"b": 2}',
        'quo"te\\ back\nline\ttab',
        "2026-01-01 00:00+02",
        "{a,NULL}",
    ),
    ("1e300", "-0", "null", "null", "null", None, "{}"),
    (None, "NaN", None, None, None, "infinity", None),
    ("12345678901234567890.123456789", "1e-300", '"null"', "[1, 2.0]", ",[{}]'\"", "epoch", '{"]","}"}'),
    ("7", "7", "7", "7", "€𝄞" * 3000, None, None),
]
"""What JSON in JSON could get wrong."""


@pytest.fixture
def t(database: Database) -> Database:
    database.execute(f"{CREATE}; CREATE TABLE other (id int)")
    attach_tables(database, "t", "other", mode=Mode.DURABLE)
    return database


def keep(writer: psycopg.Connection[Any]) -> None:
    """Write until what the transaction writes next is kept."""
    while writer.execute("SELECT current_setting('cdc_bridge.hold', true)").fetchone() != ("on",):
        writer.execute("INSERT INTO other VALUES (0)")


def told_of(ear: Ear, column: str = "id") -> list[tuple[str, list[Any]]]:
    """What is told of other rows than those by which `keep` came about."""
    told = [(letter, [row[column] for row in rows]) for letter, rows in ear.told()]
    return [(letter, values) for letter, values in told if values != [0]]


def logged(database: Database) -> int:
    ((count,),) = database.execute("SELECT count(*) FROM cdc.change_log")
    return int(count)


def write_all(writer: psycopg.Connection[Any]) -> None:
    for number, values in enumerate(VALUES):
        writer.execute("INSERT INTO t VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", [number + 1, *values])
    writer.execute("UPDATE t SET id = id + 10")
    writer.execute("UPDATE t SET id = 99 WHERE id = 12")
    writer.execute("DELETE FROM t WHERE id > 13")


def test_what_is_kept_is_logged_like_all_else(t: Database) -> None:
    """Byte for byte: rows are text, and JSON in a row stays as it was written."""
    found = []
    for is_kept in (False, True):
        with psycopg.connect(t.dsn) as writer:
            if is_kept:
                keep(writer)
            write_all(writer)
            ((xid,),) = writer.execute("SELECT pg_current_xact_id()::text").fetchall()
        rows = t.execute(
            "SELECT filenode = pg_relation_filenode('t'), operation::text, concat(old), concat(new)"
            " FROM cdc.change_log WHERE xid::text = %s AND relation = 't'::regclass ORDER BY seq, at",
            [xid],
        )
        merged = [
            (is_filenode, operation, json.dumps(_rows(old)), json.dumps(_rows(new)))
            for is_filenode, operation, old, new in rows
        ]
        found.append(merged)
        t.execute("DELETE FROM t")
    assert found[0] == found[1]
    assert len(found[0]) == len(VALUES) + 3


def _rows(text: str) -> list[str]:
    """The row or the rows of a column of the log, each as its text."""
    if not text:
        return []
    rows = json.loads(text if text.startswith("[") else f"[{text}]", parse_float=str, parse_int=str)
    return [json.dumps(row) for row in rows]


def test_nothing_is_logged_before_the_end(t: Database) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        ((before,),) = writer.execute("SELECT count(*) FROM cdc.change_log").fetchall()
        for number in range(1, 51):
            writer.execute("INSERT INTO t VALUES (%s)", [number])
        assert writer.execute("SELECT count(*) FROM cdc.change_log").fetchall() == [(before,)]
        writer.commit()
        assert told_of(ear) == [("I", [number]) for number in range(1, 51)]
        assert ear.gap() == 0


def test_what_is_rolled_back_is_not_told(t: Database) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2); SAVEPOINT b")
        writer.execute("INSERT INTO t VALUES (3); ROLLBACK TO a; INSERT INTO t VALUES (4); RELEASE a")
        writer.execute("SAVEPOINT c; INSERT INTO t VALUES (5); RELEASE c")
        writer.commit()
        assert told_of(ear) == [("I", [1]), ("I", [4]), ("I", [5])]
        keep(writer)
        writer.execute("INSERT INTO t VALUES (6)")
        writer.rollback()
        assert told_of(ear) == []
        assert ear.gap() == 0


def test_first_kept_change_rolled_back_takes_nothing_else_along(t: Database) -> None:
    """It has started what happens when the transaction ends."""
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("SAVEPOINT a; INSERT INTO t VALUES (1); ROLLBACK TO a; INSERT INTO t VALUES (2)")
        writer.commit()
        assert told_of(ear) == [("I", [2])]
        assert ear.gap() == 0


@pytest.mark.parametrize("size_bytes", [10, 20_000, 300_000])
def test_much_is_written_in_between(t: Database, size_bytes: int) -> None:
    count = 3_000_000 // size_bytes if size_bytes > 10 else 2000
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        ((before,),) = writer.execute("SELECT count(*) FROM cdc.change_log").fetchall()
        for number in range(1, count + 1):
            writer.execute("INSERT INTO t (id, text) VALUES (%s, repeat('x', %s))", [number, size_bytes])
        ((after,),) = writer.execute("SELECT count(*) FROM cdc.change_log").fetchall()
        assert after > before
        writer.commit()
        assert told_of(ear) == [("I", [number]) for number in range(1, count + 1)]
        assert ear.gap() == 0


def test_application_that_resets_its_settings_marks_a_gap(t: Database) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1); RESET ALL")
        keep(writer)
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()
        assert told_of(ear) == [("I", [2])]
        assert ear.gap() == 1


def test_reset_after_the_last_write_marks_a_gap(t: Database) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1); RESET ALL")
        writer.commit()
        assert ear.gap() == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_constraints_made_immediate_do_no_harm(t: Database, when: str) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        if when == "before":
            writer.execute("SET CONSTRAINTS ALL IMMEDIATE")
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")
        writer.execute("SET CONSTRAINTS ALL IMMEDIATE")
        writer.execute("INSERT INTO t VALUES (3)")
        writer.commit()
        assert told_of(ear) == [("I", [1]), ("I", [2]), ("I", [3])]
        assert ear.gap() == 0


def test_what_the_application_has_deferred_is_told_too(t: Database) -> None:
    """Its deferred triggers write after ours has been called the first time."""
    t.execute(
        "CREATE TABLE late (id int); CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO t VALUES (NEW.id + 100); RETURN NULL; END'; CREATE CONSTRAINT TRIGGER late AFTER INSERT"
        " ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()"
    )
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1); INSERT INTO late VALUES (1), (2); INSERT INTO t VALUES (2)")
        writer.execute("INSERT INTO late VALUES (3)")
        writer.commit()
        assert told_of(ear) == [("I", [1]), ("I", [2]), ("I", [101]), ("I", [102]), ("I", [103])]
        assert ear.gap() == 0


def test_prepared_transaction_is_told_when_it_is_committed(t: Database) -> None:
    with psycopg.connect(t.dsn, autocommit=True) as writer, listening(t) as ear:
        writer.execute("BEGIN")
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1)")
        writer.execute("PREPARE TRANSACTION 'kept'")
        assert told_of(ear) == []
        writer.execute("COMMIT PREPARED 'kept'")
        assert told_of(ear) == [("I", [1])]
        assert ear.gap() == 0


def test_segment_may_change_meanwhile(t: Database) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1)")
        assert t.execute("SELECT cdc.advance_segment(0)") == [(True,)]
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()
        assert told_of(ear) == [("I", [1]), ("I", [2])]
        assert t.execute("SELECT count(*) FROM cdc.change_log_1") == [(2,)]


def test_log_that_is_closed_meanwhile_makes_a_gap(t: Database) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1)")
        t.execute("SELECT cdc.close_log(1)")
        writer.commit()
        assert told_of(ear) == []
        assert ear.gap() == 1


@pytest.mark.parametrize(
    "lost",
    [
        "FUNCTION cdc.keep",
        "FUNCTION cdc.write_kept",
        "FUNCTION cdc.run_errand",
        "TABLE cdc.errand",
        "SEQUENCE cdc.channel",
    ],
)
@pytest.mark.parametrize("when", ["before", "between"])
def test_transaction_commits_when_a_part_of_ours_was_dropped(t: Database, lost: str, when: str) -> None:
    if when == "between" and "errand" in lost:
        pytest.skip("PostgreSQL refuses it, or has nothing left to call")
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        if when == "between":
            writer.execute("INSERT INTO t VALUES (1)")
            writer.execute(f"DROP {lost} CASCADE".encode())
        else:
            writer.rollback()
            t.execute(f"DROP {lost} CASCADE")
            keep(writer)
            writer.execute("INSERT INTO t VALUES (1)")
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()
        assert t.execute("SELECT id FROM t ORDER BY id") == [(1,), (2,)]
        assert ear.gap() > 0


def test_settings_that_hold_changes_are_shown_to_nobody(t: Database) -> None:
    """Whoever knew their names could set them, and so write to the log."""
    with psycopg.connect(t.dsn) as writer:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1)")
        ((channel,),) = t.execute("SELECT pg_sequence_last_value('cdc.channel')::text")
        for query in ("SHOW ALL", "SELECT * FROM pg_settings", "SELECT * FROM pg_prepared_statements"):
            assert channel not in str(writer.execute(query.encode()).fetchall())
        assert writer.execute("SELECT current_setting(%s)", [f"cdc_bridge.kept_{channel}"]).fetchone() != ("",)


ALTERED = {
    "by another function": "ALTER TABLE t ADD i interval",
    "row by row": "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "CREATE TRIGGER nop AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()",
}


@pytest.mark.parametrize("altered", ALTERED)
def test_other_triggers_keep_as_well(t: Database, altered: str) -> None:
    t.execute(ALTERED[altered])
    attach_tables(t, "t", mode=Mode.DURABLE)
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        for number in range(1, 51):
            writer.execute("INSERT INTO t VALUES (%s)", [number])
        writer.execute("UPDATE t SET id = 99 WHERE id = 1; TRUNCATE t")
        writer.commit()
        told = told_of(ear)
        assert told == [*[("I", [number]) for number in range(1, 51)], ("U", [1, 99]), ("T", [])]
        assert ear.gap() == 0


def test_changes_of_one_statement_stay_apart(t: Database) -> None:
    """Nothing is written to the WAL between them, and its position is what tells changes apart elsewhere."""
    t.execute(
        f"CREATE TABLE parent (id int PRIMARY KEY); {ALTERED['row by row']};"
        "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);"
        "CREATE TABLE grandchild (id int, child int REFERENCES child ON DELETE CASCADE)"
    )
    attach_tables(t, "t", "parent", "child", "grandchild", mode=Mode.DURABLE)
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        ear.heard()
        writer.execute("INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (3, 1), (4, 2)")
        writer.execute("INSERT INTO grandchild VALUES (5, 3), (6, 4); INSERT INTO t VALUES (7), (8), (9)")
        writer.execute("UPDATE t SET id = id + 10; DELETE FROM parent WHERE id = 1; DELETE FROM t")
        writer.commit()
        heard = [each for each in ear.heard() if [row["id"] for row in each.rows] != [0]]
    expected = [
        *[("I", [1, 2]), ("I", [3, 4]), ("I", [5, 6]), ("I", [7]), ("I", [8]), ("I", [9])],
        *[("U", [7, 17]), ("U", [8, 18]), ("U", [9, 19]), ("D", [1]), ("D", [3]), ("D", [5])],
        *[("D", [17]), ("D", [18]), ("D", [19])],
    ]
    assert [(each.operation, [row["id"] for row in each.rows]) for each in heard] == expected
    assert len({each.seq for each in heard}) == len(heard)


@pytest.mark.parametrize("is_open", [False, True], ids=["gate shut", "gate open"])
def test_large_statement_among_kept_changes_is_told_in_its_place(t: Database, is_open: bool) -> None:
    if is_open:
        t.execute("SELECT cdc.open_gate(60)")
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1); INSERT INTO t SELECT n FROM generate_series(100, 3099) n")
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()
        ids = [number for _, numbers in told_of(ear) for number in numbers]
        assert ids == [1, *range(100, 3100), 2]
        assert ear.gap() == 0
