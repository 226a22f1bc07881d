"""Triggers with our owner's rights never run what the writer's search path puts in front of PostgreSQL's own.

The quick functions of durable mode pin no search path, which would cost more than all else that they do. So every name
in them is qualified, and here everything that they could name has a hostile namesake that comes first.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import attach_tables, listening
from tests.support.server import Database

COLUMNS = [
    *("id", "seq", "xid", "at", "relation", "filenode", "operation", "old", "new", "segment"),  # the log's
    *("item", "old_item", "new_item", "written", "done", "batch", "batch_bytes", "olds", "old_batch"),  # variables
    *("r", "o", "n", "f", "items", "count", "new_rows", "old_rows", "tg_relid", "new", "old"),  # aliases
]
TABLE = "app.t"
A = "'a'::pg_catalog.text"

FUNCTIONS = [
    "row_to_json",
    "pg_current_xact_id",
    "clock_timestamp",
    "pg_relation_filenode",
    "random",
    "pg_sequence_last_value",
    "current_setting",
    "pg_current_wal_insert_lsn",
    "array_append",
    "octet_length",
    "array_to_string",
    "array_position",
    "cardinality",
    "set_config",
    "nextval",
    "setval",
    "starts_with",
    "getdatabaseencoding",
    "date_part",
    "pg_notification_queue_usage",
    "to_regprocedure",
]
OPERATORS = ["=", "<", ">", "<=", ">=", "<>", "&", "+", "-", "*", "||"]
OPERANDS = ["text", "int4", "int8", "int2", "bool", "float8", '"char"', "pg_lsn", "oid", "xid8", "name", "numeric"]
TYPES = ["text", "int8", "int4", "bool", "pg_lsn", "regclass", "refcursor", "xid8", "oid", '"char"']
TABLES = ["change_log_0", "change_log", "gate", "closed", "gap", "lease", "channel", "new_rows", "old_rows"]

# `called` is a sequence: who calls is counted even if that is rolled back. Functions and operators have the types of
# the real ones; of PostgreSQL's variadic functions and its aggregates the forms that fit best where ours call them.
EVIL = f"""
CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO PUBLIC;
CREATE SEQUENCE evil.called; GRANT ALL ON evil.called TO PUBLIC;
DO $do$
DECLARE
    it record;
    name text;
    body CONSTANT text :=
        $$ LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.nextval(''evil.called''); RETURN NULL; END' $$;
BEGIN
    FOR it IN
        SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS arguments, p.prorettype::regtype AS result
        FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
            AND p.proname = ANY ('{{{",".join(FUNCTIONS)}}}')
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s ', it.proname, it.arguments, it.result) || body;
    END LOOP;
    FOR it IN
        SELECT o.oid, o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
        FROM pg_operator o, (SELECT ARRAY{OPERANDS}::regtype[]::oid[] AS types) AS operand
        WHERE o.oprname = ANY (ARRAY{OPERATORS}) AND o.oprleft = ANY (operand.types)
            AND o.oprright = ANY (operand.types)
    LOOP
        EXECUTE format('CREATE FUNCTION evil.op%s(%s, %s) RETURNS %s ', it.oid, it.l, it.r, it.result) || body;
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.op%s)',
            it.oprname, it.l, it.r, it.oid);
    END LOOP;
    FOR it IN VALUES ('concat(text, text, text)', 'text'),
        ('concat(text, text)', 'text'), ('format(text, text)', 'text'),
        ('format(text, pg_lsn)', 'text'), ('count_step(bigint, text)', 'bigint'), ('agg_step(text, text, text)', 'text')
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%s RETURNS %s ', it.column1, it.column2) || body;
    END LOOP;
    CREATE AGGREGATE evil.count (text) (SFUNC = evil.count_step, STYPE = bigint);
    CREATE AGGREGATE evil.string_agg (text, text) (SFUNC = evil.agg_step, STYPE = text);
    FOREACH name IN ARRAY ARRAY{TYPES} LOOP
        EXECUTE format('CREATE DOMAIN evil.%s AS bytea CHECK (pg_catalog.nextval(''evil.called'') < 0)', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY{TABLES} LOOP
        EXECUTE format('CREATE TABLE evil.%I (seq int)', name);
    END LOOP;
END
$do$
"""
TEMPORARY = """
CREATE TEMP TABLE new_rows (id int); CREATE TEMP TABLE old_rows (id int); CREATE TEMP TABLE change_log_0 (seq int);
CREATE TEMP TABLE pg_class (oid int); CREATE TEMP SEQUENCE gate; CREATE TEMP SEQUENCE closed;
CREATE FUNCTION pg_temp.mark_gap() RETURNS boolean LANGUAGE sql AS $$SELECT pg_catalog.nextval('evil.called') IS NULL$$;
CREATE FUNCTION pg_temp.record_batch(text, oid, text[], text[]) RETURNS boolean LANGUAGE sql
    AS $$SELECT pg_catalog.nextval('evil.called') IS NULL$$;
"""


@pytest.fixture
def hostile(database: Database) -> Database:
    columns = ", ".join(f'"{name}" int DEFAULT 1' for name in dict.fromkeys(COLUMNS))
    database.execute(f"CREATE SCHEMA app; CREATE TABLE {TABLE} ({columns}); {EVIL}")
    attach_tables(database, TABLE, mode=Mode.DURABLE)
    used = database.execute(f"SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgrelid = '{TABLE}'::regclass")
    assert {f"cdc.capture_durable_{event}" for event in ("insert", "update", "delete")} < {name for (name,) in used}
    return database


def test_namesakes_are_called_where_names_are_not_qualified(hostile: Database):
    """The trap works: or the tests below would prove nothing."""
    for call in ("row_to_json(ROW(1))", "1::bigint & 1::bigint", f"concat({A}, {A}, {A})", "random()"):
        calls = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM evil.called"
        ((before,),) = hostile.execute(calls)
        hostile.execute(f"SET search_path = evil, pg_catalog; SELECT {call}")
        assert hostile.execute(calls) == [(before + 1,)]


@pytest.mark.parametrize("is_open", [False, True], ids=["gate shut", "gate open"])
@pytest.mark.parametrize("rows", [1, 32, 33, 34, 2500])
def test_quick_functions_call_nothing_of_the_writers(hostile: Database, rows: int, is_open: bool):
    if is_open:
        hostile.execute("SELECT cdc.open_gate(60)")
    everything = dict.fromkeys(COLUMNS, 1)
    with listening(hostile) as ear, psycopg.connect(hostile.dsn, autocommit=True) as writer:
        writer.execute(TEMPORARY)
        writer.execute("SET search_path = evil, pg_temp, pg_catalog")
        for _ in range(3 if rows < 100 else 1):  # what is done by chance is done too
            writer.execute(f"INSERT INTO {TABLE} (id) SELECT g FROM pg_catalog.generate_series(1, %s) g", [rows])
            writer.execute(f"UPDATE {TABLE} SET seq = 2")
            writer.execute(f"DELETE FROM {TABLE}")
            heard = [(change.operation, row) for change in ear.heard() for row in change.rows]
            assert [row for letter, row in heard if letter == "I"] == [{**everything, "id": n + 1} for n in range(rows)]
            pairs = [({**everything, "id": n + 1}, {**everything, "id": n + 1, "seq": 2}) for n in range(rows)]
            assert [row for letter, row in heard if letter == "U"] == [row for pair in pairs for row in pair]
            assert [row for letter, row in heard if letter == "D"] == [new for _, new in pairs]
        assert ear.gap() == 0
    assert hostile.execute("SELECT is_called FROM evil.called") == [(False,)]


# --- an unprivileged user who owns an attached table ---

MALLORY = """
CREATE TABLE who (name text, place text);
CREATE FUNCTION note(place text) RETURNS boolean LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO m.who VALUES (current_user, place); RETURN true; END $$;
CREATE FUNCTION saw(place text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN m.note(place); END $$;
GRANT USAGE ON SCHEMA m TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA m TO PUBLIC;
CREATE DOMAIN checked AS int CHECK (m.saw('domain'));
CREATE TYPE mood AS ENUM ('calm');
CREATE TYPE pair AS (a int, mood m.mood, checked m.checked);
CREATE TYPE span AS RANGE (subtype = int4);
CREATE FUNCTION text_of(m.mood) RETURNS text LANGUAGE sql AS $$ SELECT m.saw('cast of an enum')::text $$;
CREATE FUNCTION text_of(m.pair) RETURNS text LANGUAGE sql AS $$ SELECT m.saw('cast of a row')::text $$;
CREATE FUNCTION text_of(m.span) RETURNS text LANGUAGE sql AS $$ SELECT m.saw('cast of a range')::text $$;
CREATE FUNCTION json_of(m.pair) RETURNS json LANGUAGE sql AS $$ SELECT to_json(m.saw('json of a row')) $$;
CREATE FUNCTION jsonb_of(m.mood) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(m.saw('jsonb of an enum')) $$;
CREATE CAST (m.mood AS text) WITH FUNCTION m.text_of(m.mood) AS IMPLICIT;
CREATE CAST (m.pair AS text) WITH FUNCTION m.text_of(m.pair) AS IMPLICIT;
CREATE CAST (m.span AS text) WITH FUNCTION m.text_of(m.span) AS IMPLICIT;
CREATE CAST (m.pair AS json) WITH FUNCTION m.json_of(m.pair) AS IMPLICIT;
CREATE FUNCTION json_of(m.mood[]) RETURNS json LANGUAGE sql AS $$ SELECT to_json(m.saw('json of an array')) $$;
CREATE CAST (m.mood[] AS json) WITH FUNCTION m.json_of(m.mood[]) AS IMPLICIT;
CREATE CAST (m.mood AS jsonb) WITH FUNCTION m.jsonb_of(m.mood) AS IMPLICIT;
CREATE TABLE t (
    id int PRIMARY KEY CHECK (m.saw('check')),
    text text DEFAULT m.saw('default')::text,
    checked m.checked,
    mood m.mood,
    moods m.mood[],
    pair m.pair,
    span m.span,
    stored int GENERATED ALWAYS AS (CASE WHEN m.saw('generated') THEN 1 END) STORED
);
CREATE INDEX ON t ((m.saw('index'))) WHERE m.saw('predicate');
CREATE FUNCTION row_text(m.t) RETURNS text LANGUAGE sql AS $$ SELECT m.saw('text of the table')::text $$;
CREATE FUNCTION row_json(m.t) RETURNS json LANGUAGE sql AS $$ SELECT to_json(m.saw('json of the table')) $$;
CREATE CAST (m.t AS text) WITH FUNCTION m.row_text(m.t) AS IMPLICIT;
CREATE CAST (m.t AS json) WITH FUNCTION m.row_json(m.t) AS IMPLICIT;
CREATE FUNCTION m.row_to_json(m.t) RETURNS json LANGUAGE sql AS $$ SELECT to_json(m.saw('row_to_json')) $$;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
ALTER TABLE t FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON t USING (m.saw('policy')) WITH CHECK (m.saw('policy'));
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM m.saw('trigger');
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END $$;
CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION fired();
CREATE TRIGGER z AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION fired();
GRANT ALL ON t TO PUBLIC;
"""
ROW_TRIGGER = "CREATE TRIGGER zz AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION fired();"


@pytest.fixture
def mallory(database: Database) -> Iterator[str]:
    """A role with a schema of its own, where it has done what it can; superuser attaches its table."""
    name = f"mallory_{database.name[-12:]}"
    database.execute(f"CREATE ROLE {name} LOGIN; CREATE SCHEMA m AUTHORIZATION {name}")
    database.execute(f"SET search_path = m; {MALLORY}", user=name)
    yield name
    database.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


WRITES = (
    "INSERT INTO m.t VALUES (1, 'a', 1, 'calm', '{calm}', ROW(1, 'calm', 2), '[1,2)')",
    "UPDATE m.t SET id = 2",
    "DELETE FROM m.t",
    "TRUNCATE m.t",
)


@pytest.mark.parametrize("excluded", [(), ("m.t.text",)], ids=["whole", "excluding"])
@pytest.mark.parametrize("level", ["", ROW_TRIGGER], ids=["statement", "row"])
def test_nothing_that_the_owner_of_a_table_made_runs_with_our_rights(
    database: Database, mallory: str, mode: Mode, level: str, excluded: tuple[str, ...]
) -> None:
    """Domains, casts, output, defaults, generated columns, policies, indexes, triggers: all run as the writer."""
    database.execute(f"SET search_path = m; SELECT; {level}", user=mallory)
    attach_tables(database, "m.t", mode=mode, exclude=excluded)
    with listening(database) as ear:
        for write in WRITES:
            database.execute(f"SET search_path = m, pg_catalog; {write}", user=mallory)
        assert [change.operation for change in ear.heard()] == ["I", "U", "D", "T"]
        assert ear.gap() == 0
    seen = database.execute("SELECT name, count(DISTINCT place) FROM m.who GROUP BY name")
    assert [name for name, _ in seen] == [mallory]
    assert seen[0][1] > 5, "the traps work"


def test_expression_of_a_virtual_column_has_no_functions_of_its_owner(database: Database, mallory: str) -> None:
    """Our triggers spell it out, with our owner's rights. PostgreSQL sees to it; before 18 there are none."""
    with pytest.raises((errors.FeatureNotSupported, errors.SyntaxError)):
        database.execute(
            "CREATE TABLE m.v (id int, seen boolean GENERATED ALWAYS AS (m.saw('virtual')) VIRTUAL)", user=mallory
        )


def test_owner_of_a_table_cannot_use_our_functions_for_what_it_says(database: Database, mallory: str) -> None:
    """Neither on this table nor on another one, with whatever arguments, nor change the triggers that are there."""
    attach_tables(database, "m.t", mode=Mode.DURABLE)
    database.execute("GRANT USAGE ON SCHEMA cdc TO PUBLIC")  # even so
    with psycopg.connect(database.dsn, user=mallory, autocommit=True) as conn:
        conn.execute("CREATE TABLE m.u (id int)")
        for function in ("capture", "capture_row", "capture_durable", "capture_durable_row", "capture_durable_insert"):
            for arguments in ("", "'0:'", "'1:id'', (SELECT 1)'"):
                for how in ("CREATE TRIGGER x", 'CREATE OR REPLACE TRIGGER "00_cdc_bridge_insert"'):
                    with pytest.raises(errors.InsufficientPrivilege):
                        conn.execute(f"{how} AFTER INSERT ON m.u EXECUTE FUNCTION cdc.{function}({arguments})".encode())
        for call in ("capture()", "record('I', 'm.t'::regclass, NULL, '{}')", "mark_gap()", "run_errand()"):
            with pytest.raises(errors.InsufficientPrivilege):
                conn.execute(f"SELECT cdc.{call}".encode())
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute("ALTER FUNCTION cdc.capture_durable_insert() SET search_path = m")


# --- hostile names ---

NAMES = [
    "quote\"s and 's",
    "$$ $1 $capture$ $create$",
    "back\\slash \\' E'\\n",
    "per%cent %s %I %1$s %(x)s",
    "bra{ces} {cdc} {{}}",
    "-- comment /* */ ; DROP SCHEMA cdc CASCADE; --",
    "ünïcödé 漢字 \U0001f600",
    "x" * 63,
    "new\nline\ttab",
    "new_rows",
    "0:",
    "1:id",
]


@pytest.mark.parametrize("level", ["STATEMENT", "ROW"])
def test_names_are_names_whatever_they_look_like(database: Database, mode: Mode, level: str) -> None:
    """Of schemas, tables, columns, types, excluded columns and partitions."""
    told: list[Any] = []
    database.execute("CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        for name in NAMES:
            named = {"n": sql.Identifier(name), "s": sql.Identifier("s" + name[:62])}
            conn.execute(sql.SQL("CREATE SCHEMA {s}; CREATE TYPE {s}.{n} AS ENUM ('a')").format(**named))
            conn.execute(
                sql.SQL(
                    "CREATE TABLE {s}.{s} (id int, {n} {s}.{n}, {s} text) PARTITION BY LIST (id);"
                    "CREATE TABLE {s}.{p} PARTITION OF {s}.{s} DEFAULT"
                ).format(**named, p=sql.Identifier("p" + name[:62]))
            )
            if level == "ROW":
                conn.execute(
                    sql.SQL(
                        "CREATE TRIGGER {n} AFTER INSERT OR UPDATE ON {s}.{s} FOR EACH ROW EXECUTE FUNCTION nop()"
                    ).format(**named)
                )
            table = sql.SQL("{s}.{s}").format(**named).as_string()
            attach_tables(database, table, exclude=(f"{table}.{named['s'].as_string()}",), mode=mode)
        with listening(database) as ear:
            for name in NAMES:
                named = {"n": sql.Identifier(name), "s": sql.Identifier("s" + name[:62])}
                conn.execute(sql.SQL("INSERT INTO {s}.{s} VALUES (1, 'a', 'private')").format(**named))
                conn.execute(sql.SQL("UPDATE {s}.{s} SET id = 2").format(**named))
                told += [("I", [{"id": 1, name: "a"}]), ("U", [{"id": 1, name: "a"}, {"id": 2, name: "a"}])]
            assert ear.told() == told
            assert ear.gap() == 0


# --- hostile settings ---

SETTINGS = [
    "SET standard_conforming_strings = off",
    "SET backslash_quote = off",
    "SET array_nulls = off",
    "SET transform_null_equals = on",
    "SET check_function_bodies = off",
    "SET quote_all_identifiers = on",
    "SET escape_string_warning = off",
    "SET row_security = off",
    "SET plpgsql.extra_errors = 'all'",
    "SET plpgsql.check_asserts = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET cdc_bridge.pending_bytes = 'x''; DROP SCHEMA cdc CASCADE; --'",
    "SET cdc_bridge.hold = 'batch'",
    "SET cdc_bridge.hold = 'on'",
    "SET cdc_bridge.writes = 'nonsense'",
    "SET search_path = ''",
    "SET client_min_messages = debug5",
    "SET DateStyle = 'SQL, DMY'",
    "SET IntervalStyle = 'sql_standard'",
]


@pytest.mark.parametrize("is_open", [False, True], ids=["gate shut", "gate open"])
def test_settings_of_the_writer_change_nothing(database: Database, mode: Mode, is_open: bool) -> None:
    database.execute("CREATE TABLE t (id int, text text, at timestamptz)")
    attach_tables(database, "t", mode=mode)
    if is_open:
        database.execute("SELECT cdc.open_gate(60)")
    rows = [{"id": 1, "text": "a\\'b", "at": "2024-02-03T00:00:00+00:00"}]
    with listening(database) as ear, psycopg.connect(database.dsn, autocommit=True) as writer:
        for each in SETTINGS:
            writer.execute(each.encode())
        for _ in range(40):  # what is done by chance is done
            writer.execute(
                "INSERT INTO public.t VALUES (1, %s, '2024-02-03 00:00:00+00'::timestamptz)", [rows[0]["text"]]
            )
            assert [change.rows for change in ear.heard()] == [rows]
        writer.execute("DELETE FROM public.t")
        assert sum(len(change.rows) for change in ear.heard()) == 40
        assert ear.gap() == 0
