"""What an application, or a writer who is not trusted, can do around changes that are kept in memory."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import attach_tables, listening
from tests.capture.test_keeping import ALTERED, keep, told_of
from tests.support.server import Database


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int, j json, text text); CREATE TABLE other (id int)")
    attach_tables(database, "t", "other", mode=Mode.DURABLE)
    return database


def subtransactions(writer: psycopg.Connection[Any]) -> int:
    """How many ids of subtransactions the transaction has, which PostgreSQL has shown since 16."""
    ((count,),) = writer.execute(
        "SELECT subxact_count + CASE WHEN subxact_overflowed THEN 1000 ELSE 0 END"
        " FROM pg_stat_get_backend_idset() AS id, pg_stat_get_backend_subxact(id)"
        " WHERE pg_stat_get_backend_pid(id) = pg_backend_pid()"
    ).fetchall()
    return int(count)


def test_serializable_transactions_do_not_meet_in_our_tables(t: Database) -> None:
    serializable = "BEGIN ISOLATION LEVEL SERIALIZABLE"
    with (
        psycopg.connect(t.dsn, autocommit=True) as a,
        psycopg.connect(t.dsn, autocommit=True) as b,
        listening(t) as ear,
    ):
        for writer in (a, b):
            writer.execute(serializable.encode())
        for writer in (a, b):
            keep(writer)
            writer.execute("INSERT INTO t VALUES (1)")
        for writer in (a, b):
            writer.execute("COMMIT")
        assert told_of(ear) == [("I", [1]), ("I", [1])]
        assert ear.gap() == 0


def test_writer_that_asks_for_debug_output_does_not_see_what_settings_are_called(t: Database) -> None:
    seen: list[str] = []
    ((channel,),) = t.execute("SELECT pg_sequence_last_value('cdc.channel')::text")
    with psycopg.connect(t.dsn) as writer:
        writer.add_notice_handler(lambda notice: seen.append(f"{notice.message_primary} {notice.message_detail}"))
        writer.execute("SET client_min_messages = log; SET debug_print_plan = on; SET debug_pretty_print = off")
        keep(writer)
        for number in range(8):
            writer.execute("INSERT INTO t (id, text) VALUES (%s, repeat('x', 30000))", [number])
        writer.commit()
    digits = " ".join(str(byte) for byte in channel.encode())
    shown = " ".join(" ".join(seen).split())
    assert "PLANNEDSTMT" in shown
    assert channel not in shown
    assert digits not in shown


@pytest.mark.parametrize("altered", ["", *ALTERED.values()])
def test_writer_that_asks_for_debug_output_does_not_see_rows_that_it_may_not_read(t: Database, altered: str) -> None:
    if altered:
        t.execute(altered)
        attach_tables(t, "t", mode=Mode.DURABLE)
    seen: list[str] = []
    t.execute("INSERT INTO t (text) VALUES ('secret'), ('secret')")
    role = f"writer_{t.name[-12:]}"
    t.execute(f"CREATE ROLE {role} LOGIN; GRANT UPDATE (id) ON t TO {role}")
    try:
        with psycopg.connect(t.dsn, user=role) as writer:
            writer.add_notice_handler(lambda notice: seen.append(f"{notice.message_detail}"))
            writer.execute("SET client_min_messages = log; SET debug_print_plan = on")
            for _ in range(70):
                writer.execute("UPDATE t SET id = 1")
            writer.commit()
    finally:
        t.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    shown = " ".join(" ".join(seen).split())
    assert "PLANNEDSTMT" in shown
    assert " ".join(str(byte) for byte in b"secret") not in shown


@pytest.mark.parametrize("is_open", [False, True], ids=["gate shut", "gate open"])
def test_session_that_ends_at_any_error_ends_at_none_of_ours(t: Database, is_open: bool) -> None:
    if is_open:
        t.execute("SELECT cdc.open_gate(60)")
    with psycopg.connect(t.dsn, autocommit=True) as writer, listening(t) as ear:
        writer.execute("SET exit_on_error = on")
        writer.execute("INSERT INTO t VALUES (1), (2)")
        writer.execute("UPDATE t SET id = id + 1")
        writer.execute("DELETE FROM t")
        assert sorted(number for _, ids in told_of(ear) for number in ids) == [1, 1, 2, 2, 2, 2, 3, 3]


def test_publication_of_all_tables_does_no_harm(t: Database) -> None:
    t.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1)")
        writer.commit()
        assert told_of(ear) == [("I", [1])]
        assert ear.gap() == 0


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800"])
def test_json_that_is_no_text_is_kept(t: Database, escape: str) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1, %s)", [f'{{"a": "{escape}"}}'])
        writer.commit()
        assert told_of(ear) == [("I", [1])]
        assert ear.gap() == 0


def test_few_subtransactions_after_constraints_made_immediate(t: Database) -> None:
    if t.server.version < 160000:
        pytest.skip("PostgreSQL does not show it")
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        writer.execute("SET CONSTRAINTS ALL IMMEDIATE")
        keep(writer)
        for number in range(1, 101):
            writer.execute("INSERT INTO t VALUES (%s)", [number])
        assert subtransactions(writer) <= 64
        writer.commit()
        assert told_of(ear) == [("I", [number]) for number in range(1, 101)]
        assert ear.gap() == 0


def test_log_stays_closed_whatever_becomes_of_the_gate(t: Database) -> None:
    """A crash can make it even, since PostgreSQL skips values of a sequence then."""
    t.execute("SELECT cdc.close_log(1), nextval('cdc.gate')")
    with psycopg.connect(t.dsn, autocommit=True) as writer:
        for number in range(5000):
            writer.execute("INSERT INTO t VALUES (%s)", [number])
            if writer.execute("SELECT last_value & 1 FROM cdc.gate").fetchone() == (1,):
                break
        else:
            raise AssertionError("the log is written to for ever")


def test_huge_row_makes_no_settings_that_hold_nothing(t: Database) -> None:
    """They stay as long as the session, and until PostgreSQL 15 each one takes time with their number."""
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        keep(writer)
        writer.execute("INSERT INTO t (id, text) VALUES (1, repeat('x', 200000)), (2, NULL)")
        writer.execute("INSERT INTO t (id, text) VALUES (3, repeat('x', 200000))")
        ((channel,),) = t.execute("SELECT pg_sequence_last_value('cdc.channel')::text")
        name = f"cdc_bridge.kept_{channel}"
        assert writer.execute("SELECT current_setting(%s, true)", [f"{name}_0"]).fetchone() == ("",)
        assert writer.execute("SELECT current_setting(%s, true)", [f"{name}_5"]).fetchone() == (None,)
        writer.commit()
        assert told_of(ear) == [("I", [1, 2]), ("I", [3])]
        assert ear.gap() == 0


@pytest.mark.parametrize(
    "setting",
    [
        "debug_parallel_query = on",
        "plpgsql.extra_errors = 'all'",
        "standard_conforming_strings = off",
        "transform_null_equals = on",
        "enable_tidscan = off",
        "work_mem = '64kB'",
        "IntervalStyle = sql_standard",
        "session_replication_role = replica",
    ],
)
def test_settings_of_the_session_change_nothing(t: Database, setting: str) -> None:
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        try:
            writer.execute(f"SET {setting}".encode())
        except psycopg.errors.UndefinedObject:
            pytest.skip("PostgreSQL has not known it always")
        keep(writer)
        writer.execute("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2), (3); UPDATE t SET id = id + 10")
        writer.execute("DELETE FROM t; INSERT INTO t SELECT 7 FROM generate_series(1, 1500)")
        writer.commit()
        writer.execute("DELETE FROM t; INSERT INTO t VALUES (1), (2); UPDATE t SET id = 5")
        writer.commit()
        assert sum(len(ids) for _, ids in told_of(ear)) == 3 + 6 + 3 + 3000 + 2 + 4
        assert ear.gap() == 0


@pytest.mark.parametrize("altered", ["", *ALTERED.values()])
@pytest.mark.parametrize("setting", ["cdc_bridge.hold = 'batch'", "cdc_bridge.hold = 'on'", "cdc_bridge.writes = 'x'"])
def test_settings_that_a_writer_falsifies_fail_no_write(t: Database, setting: str, altered: str) -> None:
    if altered:
        t.execute(altered)
        attach_tables(t, "t", mode=Mode.DURABLE)
    t.execute("ALTER TABLE cdc.change_log_0 ADD CHECK (false) NOT VALID")
    with psycopg.connect(t.dsn) as writer, listening(t) as ear:
        writer.execute(f"SET {setting}".encode())
        writer.execute("INSERT INTO t (id) SELECT n FROM generate_series(1, 1500) AS n; TRUNCATE t")
        writer.execute("INSERT INTO t (id) VALUES (1), (2); UPDATE t SET id = 2; DELETE FROM t WHERE id = 1")
        writer.commit()
        assert ear.gap() > 0
    assert t.execute("SELECT id FROM t") == [(2,), (2,)]
