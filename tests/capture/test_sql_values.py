"""How values read, whatever the session, the names and the types; and what happens when the table changes shape."""

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import attach_tables, changes, listening
from tests.support.server import Database

HOSTILE_SETTINGS = """
    SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German, DMY'; SET IntervalStyle = 'postgres_verbose';
    SET bytea_output = 'escape'; SET extra_float_digits = -5; SET quote_all_identifiers = on;
    SET lc_monetary = 'C'; SET standard_conforming_strings = off; SET escape_string_warning = off;
    SET array_nulls = off; SET transform_null_equals = on; SET plpgsql.extra_errors = 'all'; SET xmlbinary = hex;
    SET client_encoding = 'LATIN1'; SET row_security = off; SET enable_seqscan = off; SET work_mem = '64kB';
    SET plan_cache_mode = force_generic_plan; SET default_transaction_isolation = serializable; SET jit_above_cost = 0;
"""


def test_values_do_not_depend_on_settings_of_the_session(database: Database, mode: Mode):
    database.execute(
        "CREATE TABLE facts (id int, at timestamptz, day date, clock timestamp, span interval, raw bytea, ratio float8,"
        " slots tstzrange, times timestamptz[], cost money)"
    )
    attach_tables(database, "facts", mode=mode)
    insert = (
        "INSERT INTO facts VALUES (1, '2026-11-24 10:34:56.789+00', '2026-11-24', '2026-11-24 12:34:56',"
        " '1 day 02:03:04', '\\xdeadbeef'::bytea, 0.1::float8 + 0.2::float8,"
        " tstzrange('2026-01-01 00:00+00', '2026-02-01 00:00+00'), ARRAY['2026-11-24 10:00+00'::timestamptz], '12.34')"
    )
    calm = changes(database, insert)
    assert calm == [
        (
            "I",
            [
                {
                    "id": 1,
                    "at": "2026-11-24T10:34:56.789+00:00",
                    "day": "2026-11-24",
                    "clock": "2026-11-24T12:34:56",
                    "span": "P1DT2H3M4S",
                    "raw": "\\xdeadbeef",
                    "ratio": 0.30000000000000004,
                    "slots": '["2026-01-01 00:00:00+00","2026-02-01 00:00:00+00")',
                    "times": ["2026-11-24T10:00:00+00:00"],
                    "cost": "$12.34" if calm[0][1][0]["cost"].startswith("$") else "12.34",
                }
            ],
        )
    ]
    # As a server-side function, so that the literals themselves are read before the settings change.
    database.execute(f"CREATE FUNCTION put() RETURNS void LANGUAGE sql BEGIN ATOMIC {insert}; END")
    assert changes(database, f"{HOSTILE_SETTINGS} SELECT put()") == calm


def test_settings_of_the_session_are_its_own_again_afterwards(database: Database, mode: Mode):
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t", mode=mode)
    after = database.execute(
        "SET TimeZone = 'Asia/Kathmandu'; SET search_path = public, pg_catalog; SET client_min_messages = debug1;"
        "INSERT INTO t VALUES (1); SELECT current_setting('TimeZone'), current_setting('search_path'),"
        " current_setting('client_min_messages')"
    )
    assert after == [("Asia/Kathmandu", "public, pg_catalog", "debug1")]


def test_shadowing_functions_and_types_are_not_called(database: Database, mode: Mode):
    """A writer's search path must not make our function, which has the owner's rights, run the writer's code."""
    database.execute(
        "CREATE TABLE t (id int, text text); CREATE SCHEMA evil; CREATE TABLE evil.called (what text);"
        "CREATE FUNCTION evil.row_to_json(record) RETURNS json LANGUAGE plpgsql"
        " AS 'BEGIN INSERT INTO evil.called VALUES (1); RETURN ''{}''; END';"
        "CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'INSERT INTO evil.called VALUES (2)';"
        "CREATE FUNCTION evil.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_format';"
        "CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql AS 'INSERT INTO evil.called VALUES"
        " (3) RETURNING 1';"
        "CREATE FUNCTION evil.concat(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''evil''';"
        "CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.concat);"
        "CREATE DOMAIN evil.text AS varchar CHECK (value = 'never'); CREATE SCHEMA cdc_decoy"
    )
    attach_tables(database, "t", mode=mode)
    told = changes(
        database,
        "SET search_path = evil, public, pg_catalog; CREATE TEMP TABLE pg_attribute (x int); CREATE TEMP"
        " TABLE new_rows (id int);"
        "INSERT INTO public.t VALUES (1, 'a')",
    )
    assert told == [("I", [{"id": 1, "text": "a"}])]
    assert database.execute("SELECT * FROM evil.called") == []


@pytest.mark.parametrize("table", ["select", "Größe", 'with "quotes"', "dot.ted", "r", "new_rows", "100% {braces}"])
def test_odd_table_names(database: Database, table: str, mode: Mode):
    quoted = '"' + table.replace('"', '""') + '"'
    database.execute(f"CREATE TABLE {quoted} (id int)")
    attach_tables(database, table, mode=mode)
    assert changes(database, f"INSERT INTO {quoted} VALUES (1)") == [("I", [{"id": 1}])]


ODD_COLUMNS = ["type", "data", "select", "r", "v", "new_rows", "Größe", 'with "quotes"', "100% {b}", "a\\b", "0:", "id"]


def test_odd_column_names(database: Database, mode: Mode):
    columns = ", ".join('"' + name.replace('"', '""') + '" int DEFAULT 1' for name in ODD_COLUMNS)
    database.execute(f"CREATE TABLE t ({columns}, secret int)")
    attach_tables(database, "t", mode=mode)
    everything = dict.fromkeys(ODD_COLUMNS, 1)
    assert changes(database, "INSERT INTO t DEFAULT VALUES") == [("I", [{**everything, "secret": None}])]
    attach_tables(database, "t", exclude=("t.secret",), mode=mode)
    assert changes(database, "UPDATE t SET id = 1") == [("U", [everything, everything])]


@pytest.mark.parametrize("column", ODD_COLUMNS)
def test_odd_excluded_column(database: Database, column: str, mode: Mode):
    quoted = '"' + column.replace('"', '""') + '"'
    database.execute(f"CREATE TABLE t ({quoted} int, rest int)")
    attach_tables(database, "t", exclude=(f"t.{column}",), mode=mode)
    assert changes(database, "INSERT INTO t VALUES (1, 2)") == [("I", [{"rest": 2}])]


def test_types_beyond_the_plain_ones(database: Database, mode: Mode):
    database.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS bigint CHECK (value > 0);"
        "CREATE TYPE place AS (city text, moods mood[]);"
        "CREATE TABLE t (id int, m mood, p positive, w place, ws place[], r int4range, ns numeric[][], j"
        " json, jb jsonb,"
        " nan float8, big numeric, none text)"
    )
    attach_tables(database, "t", mode=mode)
    with listening(database) as ear:
        database.execute(
            "INSERT INTO t VALUES (1, 'ok', 9223372036854775807, ('Bern', '{sad,ok}'), ARRAY[('Rom', NULL)::place],"
            " '[1,5)', '{{1.50,2},{3,4}}', '{\"a\" : 1.0}', '{\"a\":1.0}', 'NaN', 12345678901234567890.10)"
        )
        (heard,) = ear.heard()
    assert heard.body == (
        '[{"id":1,"m":"ok","p":9223372036854775807,"w":{"city":"Bern","moods":["sad","ok"]},'
        '"ws":[{"city":"Rom","moods":null}],"r":"[1,5)","ns":[[1.50,2],[3,4]],"j":{"a" : 1.0},"jb":{"a": 1.0},'
        '"nan":"NaN","big":12345678901234567890.10,"none":null}]'
    )


def test_stored_generated_column(database: Database, mode: Mode):
    database.execute("CREATE TABLE t (a int, twice int GENERATED ALWAYS AS (a * 2) STORED)")
    attach_tables(database, "t", mode=mode)
    told = changes(database, "INSERT INTO t VALUES (1); UPDATE t SET a = 2")
    assert told == [("I", [{"a": 1, "twice": 2}]), ("U", [{"a": 1, "twice": 2}, {"a": 2, "twice": 4}])]


@pytest.mark.parametrize("row_trigger", [False, True])
def test_virtual_generated_column(database: Database, row_trigger: bool, mode: Mode):
    """Rows in a trigger do not hold its value."""
    if database.server.version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    database.execute(
        'CREATE TABLE t (a int, "r" int, "B c" text, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL,'
        """ "U" text GENERATED ALWAYS AS (upper("B c") || E'\\\\') VIRTUAL)"""
    )
    if row_trigger:
        database.execute(APP_TRIGGER)
    attach_tables(database, "t", mode=mode)
    told = changes(database, "INSERT INTO t VALUES (1, 5, 'x'); UPDATE t SET a = 2")
    old, new = ({"a": a, "r": 5, "B c": "x", "twice": a * 2, "U": "X\\"} for a in (1, 2))
    assert told == [("I", [old]), ("U", [old, new])]


APP_TRIGGER = (
    "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "CREATE TRIGGER app AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nop()"
)


@pytest.mark.parametrize("row_trigger", [False, True])
@pytest.mark.parametrize("exclude", [(), ("t.secret",)])
def test_columns_change_in_the_session_of_the_writer(
    database: Database, row_trigger: bool, exclude: tuple[str, ...], mode: Mode
):
    """Its plans for our function's queries are cached."""
    database.execute("CREATE TABLE t (id int, a text, secret text)")
    if row_trigger:
        database.execute(APP_TRIGGER)
    attach_tables(database, "t", exclude=exclude, mode=mode)
    with listening(database) as ear, psycopg.connect(database.dsn, autocommit=True) as writer:
        steps = [
            ("INSERT INTO t VALUES (1, 'x', 's')", {"id": 1, "a": "x"}),
            ("ALTER TABLE t ADD b int DEFAULT 7", None),
            ("INSERT INTO t VALUES (2, 'y', 's')", {"id": 2, "a": "y", "b": 7}),
            ("ALTER TABLE t DROP a", None),
            ("INSERT INTO t VALUES (3, 's', 8)", {"id": 3, "b": 8}),
            ("ALTER TABLE t RENAME b TO c", None),
            ("INSERT INTO t VALUES (4, 's', 9)", {"id": 4, "c": 9}),
            ("ALTER TABLE t ALTER c TYPE text USING c || '!'", None),
            ("INSERT INTO t VALUES (5, 's', 'ten')", {"id": 5, "c": "ten"}),
            ("ALTER TABLE t RENAME secret TO public", None),
            ("INSERT INTO t VALUES (6, 's', 'eleven')", {"id": 6, "c": "eleven"}),
        ]
        for statement, row in steps:
            writer.execute(statement)
            heard = [{k: v for k, v in r.items() if exclude or v != "s"} for _, rows in ear.told() for r in rows]
            assert heard == ([] if row is None else [row])
        writer.execute("UPDATE t SET c = c WHERE id = 1")
        writer.execute("DELETE FROM t WHERE id = 1")
        assert [op for op, _ in ear.told()] == ["U", "D"]
        assert ear.gap() == 0


def test_columns_change_inside_a_transaction(database: Database, mode: Mode):
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t", mode=mode)
    told = changes(
        database,
        "BEGIN; INSERT INTO t VALUES (1); ALTER TABLE t ADD a int DEFAULT 5; UPDATE t SET id = 2;"
        "ALTER TABLE t ALTER a TYPE text; UPDATE t SET id = 3; COMMIT",
    )
    assert told == [
        ("I", [{"id": 1}]),
        ("U", [{"id": 1, "a": 5}, {"id": 2, "a": 5}]),
        ("U", [{"id": 2, "a": "5"}, {"id": 3, "a": "5"}]),
    ]


def test_excluded_columns_never_leave_the_table(database: Database, mode: Mode):
    database.execute("CREATE TABLE t (id int, secret text, hidden text)")
    attach_tables(database, "t", exclude=("t.secret", "t.hidden"), mode=mode)
    with listening(database) as ear:
        database.execute(
            "INSERT INTO t VALUES (1, 'hush', 'hush'); UPDATE t SET id = 2, secret = 'hush'; DELETE FROM t"
        )
        assert "hush" not in "".join(heard.body for heard in ear.heard())


def test_table_of_which_every_column_is_excluded_tells_empty_rows(database: Database, mode: Mode):
    database.execute("CREATE TABLE t (secret text)")
    attach_tables(database, "t", exclude=("t.secret",), mode=mode)
    assert changes(database, "INSERT INTO t VALUES ('hush')") == [("I", [{}])]


def test_excluded_column_that_is_dropped_and_made_anew_stays_excluded(database: Database, mode: Mode):
    database.execute("CREATE TABLE t (id int, secret text)")
    attach_tables(database, "t", exclude=("t.secret",), mode=mode)
    told = changes(
        database, "ALTER TABLE t DROP secret; ALTER TABLE t ADD secret text DEFAULT 'x'; INSERT INTO t VALUES (1)"
    )
    assert told == [("I", [{"id": 1}])]
