"""The mode of a table: which it gets, how it changes, and that a durable trigger cannot outlive the log."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors

from cdc_bridge import statements
from cdc_bridge.admin import attach, migrations, status
from cdc_bridge.admin.attach import Outcome, repair
from cdc_bridge.admin.mode import Mode
from cdc_bridge.admin.plan import SHARE_ROW_EXCLUSIVE
from cdc_bridge.database.catalog import fingerprint, read_catalog
from cdc_bridge.database.sessions import prepare
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import DatabaseError
from cdc_bridge.statements import statement
from tests.schema.telling import attach_tables, changes
from tests.support.server import Database

NOP = "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
ROW_TRIGGER = "CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()"
KINDS = {
    "plain": "CREATE TABLE t (id int)",
    "by row": f"{NOP} CREATE TABLE t (id int); {ROW_TRIGGER}",
    "partitioned": "CREATE TABLE t (id int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t DEFAULT",
    "partitioned by row": f"{NOP} CREATE TABLE t (id int) PARTITION BY LIST (id); {ROW_TRIGGER};"
    "CREATE TABLE t1 PARTITION OF t DEFAULT",
}
OTHER = {Mode.LIVE: Mode.DURABLE, Mode.DURABLE: Mode.LIVE}


def modes(conn: psycopg.Connection[Any]) -> list[Mode]:
    return [table.mode for table in status.read_status(conn).tables]


def triggers(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT count(*) FROM pg_trigger WHERE starts_with(tgname, '00_cdc_bridge')").fetchone()
    assert row
    return int(row[0])


def logged(database: Database) -> int:
    ((count,),) = database.execute("SELECT count(*) FROM cdc.change_log")
    return int(count)


def test_new_tables_are_durable_and_attached_ones_keep_their_mode(
    database: Database, plain: psycopg.Connection[Any]
) -> None:
    plain.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    attach_tables(database, "a", mode=Mode.LIVE)
    attach_tables(database, "a", "b")
    assert modes(plain) == [Mode.LIVE, Mode.DURABLE]


@pytest.mark.parametrize("made", KINDS)
def test_attaching_again_changes_the_mode_under_the_lock_of_attaching(
    database: Database, plain: psycopg.Connection[Any], mode: Mode, made: str
) -> None:
    plain.execute(KINDS[made].encode())
    attach_tables(database, "t", mode=mode)
    count = triggers(plain)
    done = attach_tables(database, "t", mode=OTHER[mode])
    (task,) = done.tasks
    assert f"attach public.t: {OTHER[mode]} (was {mode}), captured for each" in task.title
    assert task.lock == SHARE_ROW_EXCLUSIVE
    assert "was" in str(done)
    assert modes(plain) == [OTHER[mode]]
    assert status.read_status(plain).tables[0].problems == ()
    assert triggers(plain) == count
    assert attach_tables(database, "t", mode=OTHER[mode]).tasks == ()
    before = logged(database)
    told = changes(
        database, "INSERT INTO t VALUES (1); SET session_replication_role = replica; INSERT INTO t VALUES (2)"
    )
    assert told == [("I", [{"id": 1}]), ("I", [{"id": 2}])]
    assert (logged(database) > before) == (OTHER[mode] is Mode.DURABLE)


def test_excluded_columns_stay_when_the_mode_changes(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int, secret text)")
    attach_tables(database, "t", exclude=("t.secret",), mode=mode)
    attach_tables(database, "t", mode=OTHER[mode])
    assert changes(database, "INSERT INTO t VALUES (1, 'x')") == [("I", [{"id": 1}])]


async def test_catalog_and_fingerprint_tell_the_mode(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t DEFAULT")
    async with await database.connect() as conn:
        await prepare(conn, "cdc")
        attach_tables(database, "t", mode=mode)
        before, mark = (await read_catalog(conn, "cdc")).by_name["t"], await fingerprint(conn, "cdc")
        attach_tables(database, "t", mode=OTHER[mode])
        after = (await read_catalog(conn, "cdc")).by_name["t"]
        assert (before.durable, after.durable) == (mode is Mode.DURABLE, mode is Mode.LIVE)
        assert before.revision != after.revision
        assert await fingerprint(conn, "cdc") != mark


async def test_table_of_which_a_part_only_notifies_is_not_durable_until_repaired(
    database: Database, plain: psycopg.Connection[Any]
) -> None:
    """A live table that becomes a partition of a durable one."""
    plain.execute("CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE x (id int)")
    attach_tables(database, "p")
    attach_tables(database, "x", mode=Mode.LIVE)
    plain.execute("ALTER TABLE p ATTACH PARTITION x DEFAULT")
    async with await database.connect() as conn:
        await prepare(conn, "cdc")
        assert not (await read_catalog(conn, "cdc")).by_name["p"].durable
        assert repair(plain) == Outcome([Relation("public", "p")])
        assert (await read_catalog(conn, "cdc")).by_name["p"].durable
    before = logged(database)
    assert changes(database, "INSERT INTO x VALUES (1)") == [("I", [{"id": 1}])]
    assert logged(database) == before + 1


def test_repair_keeps_the_mode(database: Database, plain: psycopg.Connection[Any], mode: Mode) -> None:
    plain.execute("CREATE TABLE p (id int) PARTITION BY LIST (id)")
    attach_tables(database, "p", mode=mode)
    plain.execute("CREATE TABLE p1 PARTITION OF p DEFAULT")
    assert repair(plain) == Outcome([Relation("public", "p")])
    assert modes(plain) == [mode]
    assert repair(plain) == Outcome()
    assert changes(database, "INSERT INTO p1 VALUES (1)") == [("I", [{"id": 1}])]


@pytest.mark.parametrize("schema", ["cdc", "select"])
def test_trigger_without_its_condition_is_a_problem_until_attach_runs_again(
    database: Database, plain: psycopg.Connection[Any], schema: str
) -> None:
    plain.execute("CREATE TABLE t (id int)")
    attach.apply(plain, attach.plan(plain, attach.Request(("t",)), schema))
    assert attach.plan(plain, attach.Request(("t",)), schema).tasks == ()
    plain.execute(
        'CREATE OR REPLACE TRIGGER "00_cdc_bridge_truncate" AFTER TRUNCATE ON t'
        f' FOR EACH STATEMENT EXECUTE FUNCTION "{schema}".capture_durable();'
        'ALTER TABLE t ENABLE ALWAYS TRIGGER "00_cdc_bridge_truncate"'.encode()
    )
    (table,) = status.read_status(plain, schema).tables
    assert table.problems == (
        'the trigger "00_cdc_bridge_truncate" on public.t is not as it should be: run attach again',
    )
    attach.apply(plain, attach.plan(plain, attach.Request(("t",)), schema))
    assert status.read_status(plain, schema).tables[0].problems == ()


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TABLE cdc.change_log_3",
        "DROP VIEW cdc.change_log",
        "ALTER TABLE cdc.change_log_3 DROP COLUMN old",
        "ALTER TABLE cdc.change_log_3 ALTER COLUMN old TYPE varchar",
    ],
)
@pytest.mark.parametrize("made", KINDS)
def test_log_cannot_be_dropped_under_a_durable_trigger(
    database: Database, plain: psycopg.Connection[Any], made: str, harm: str
) -> None:
    plain.execute(KINDS[made].encode())
    attach_tables(database, "t")
    with pytest.raises((errors.DependentObjectsStillExist, errors.FeatureNotSupported)):
        plain.execute(harm.encode())
    assert changes(database, "INSERT INTO t VALUES (1)") == [("I", [{"id": 1}])]


@pytest.mark.parametrize(
    "harm", ["DROP TABLE cdc.change_log_0 CASCADE", "ALTER TABLE cdc.change_log_3 DROP old CASCADE"]
)
@pytest.mark.parametrize("made", KINDS)
async def test_log_that_is_dropped_with_force_is_missed_by_nobody_but_us(
    database: Database, plain: psycopg.Connection[Any], made: str, harm: str
) -> None:
    """The application's writes go on, each is a gap, and status says what is wrong with the table and the log."""
    plain.execute(KINDS[made].encode())
    attach_tables(database, "t")
    plain.execute(harm.encode())
    (gap,) = plain.execute("SELECT coalesce(pg_sequence_last_value('cdc.gap'), 0)").fetchone() or (0,)
    plain.execute("INSERT INTO t VALUES (1)")
    plain.execute("UPDATE t SET id = 2; DELETE FROM t; TRUNCATE t")
    if "change_log_0" in harm:  # the segment that is written to
        (now,) = plain.execute("SELECT pg_sequence_last_value('cdc.gap')").fetchone() or (0,)
        assert now >= gap + 3
    shown = status.read_status(plain)
    assert any("truncate" in problem for table in shown.tables for problem in table.problems)
    assert any("cdc.change_log, a part of the change log, is missing" in problem for problem in shown.problems)
    with pytest.raises(DatabaseError, match="no table can be durable while the change log is not as it should be"):
        attach_tables(database, "t")


def test_condition_is_true(database: Database) -> None:
    """Whatever is in the log. It costs no lock on it either."""
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    for number in range(3):
        assert changes(database, f"INSERT INTO t VALUES ({number})") == [("I", [{"id": number}])]


VERSION_1 = ("capture", "capture_row", "reserve", "send", "version", "visible_columns")


def test_upgrade_from_version_1_adds_the_log_and_keeps_live_tables_live(
    database: Database, plain: psycopg.Connection[Any]
) -> None:
    install_version_1(plain)
    plain.execute("CREATE TABLE t (id int); CREATE TABLE u (id int)")
    attach_by_hand(plain, "t")
    assert (status.read_status(plain).version, modes(plain)) == (1, [Mode.LIVE])
    assert status.read_status(plain).tables[0].problems == status.read_status(plain).problems == ()
    missing = [each.statement.as_string() for each in migrations.missing(plain, "cdc")]
    assert len(missing) == len(statements.functions()) + len(statements.migrations(after=1)) + 1  # and rights
    assert 'CREATE SEQUENCE "cdc".gate' in missing[0]
    done = attach_tables(database, "t", "u")
    assert [task.title for task in done.tasks] == [
        f'install version {statements.VERSION} in the schema "cdc"',
        "attach public.u: durable, captured for each statement",
    ]
    assert modes(plain) == [Mode.LIVE, Mode.DURABLE]
    assert changes(database, "INSERT INTO t VALUES (1); INSERT INTO u VALUES (2)") == [
        ("I", [{"id": 1}]),
        ("I", [{"id": 2}]),
    ]


def install_version_1(conn: psycopg.Connection[Any]) -> None:
    for name in ("migrations/001_initial", *(f"functions/{each}" for each in VERSION_1)):
        conn.execute(statement(name, "cdc"))
    conn.execute("CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'")


def attach_by_hand(conn: psycopg.Connection[Any], table: str) -> None:
    """With the triggers of version 1."""
    rows = {
        "insert": "REFERENCING NEW TABLE AS new_rows",
        "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        "delete": "REFERENCING OLD TABLE AS old_rows",
        "truncate": "",
    }
    for event, transition_tables in rows.items():
        name = f'"00_cdc_bridge_{event}"'
        conn.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON {table} {transition_tables} FOR EACH STATEMENT"
            f" EXECUTE FUNCTION cdc.capture(); ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}".encode()
        )


PLAIN = {
    "int": True,
    "bigint": True,
    "numeric(10, 2)": True,
    "varchar(9)[]": True,
    "jsonb": True,
    "uuid": True,
    "date[]": True,
    "timestamp": True,
    "mood": True,
    "whole": True,
    "timestamptz": True,
    "double precision": False,
    "real[]": False,
    "bytea": False,
    "interval": False,
    "money": False,
    "regclass": False,
    "daterange": False,
    "told": True,
    "span": False,
    "part": False,
    "part[]": False,
}


@pytest.mark.parametrize("made", PLAIN)
@pytest.mark.parametrize("row", [False, True])
def test_function_that_pins_settings_is_called_where_settings_show(
    database: Database, plain: psycopg.Connection[Any], made: str, row: bool
) -> None:
    plain.execute(
        f"{NOP} CREATE TYPE mood AS ENUM ('ok'); CREATE DOMAIN whole AS int[]; CREATE DOMAIN told AS timestamptz;"
        "CREATE DOMAIN span AS interval; CREATE TYPE part AS (n int, at span);"
        f"CREATE TABLE t (id int, c {made})".encode()
    )
    if row:
        plain.execute(ROW_TRIGGER.encode())
    attach_tables(database, "t")
    found = functions_of(plain)
    quick = {f"capture_durable_{event}" for event in ("insert", "update", "delete")}
    by_statement = quick if PLAIN[made] else set()
    assert found == {"capture_durable", *({"capture_durable_row"} if row else by_statement)}


def test_table_whose_values_begin_to_depend_on_settings_is_repaired(
    database: Database, plain: psycopg.Connection[Any]
) -> None:
    plain.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    assert "capture_durable_insert" in functions_of(plain)
    plain.execute("ALTER TABLE t ADD at interval")
    assert "is not as it should be" in status.read_status(plain).tables[0].problems[0]
    assert repair(plain) == Outcome([Relation("public", "t")])
    assert functions_of(plain) == {"capture_durable"}
    told = changes(database, "SET IntervalStyle = 'sql_standard'; INSERT INTO t VALUES (1, '1 day')")
    assert told == [("I", [{"id": 1, "at": "P1D"}])]
    plain.execute("ALTER TABLE t DROP at")
    assert repair(plain) == Outcome()
    assert status.read_status(plain).tables[0].problems == ()
    assert attach_tables(database, "t").tasks == ()


def functions_of(conn: psycopg.Connection[Any]) -> set[str]:
    rows = conn.execute(
        "SELECT p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE starts_with(t.tgname, '00_cdc')"
    )
    return {name for (name,) in rows}
