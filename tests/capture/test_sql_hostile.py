"""Triggers with our owner's rights never run what the writer's search path puts in front of PostgreSQL's own.

The quick functions of durable mode pin no search path, which would cost more than all else that they do. So every name
in them is qualified, and here everything that they could name has a hostile namesake that comes first.
"""

import psycopg
import pytest

from cdc_bridge.schema.mode import Mode
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
