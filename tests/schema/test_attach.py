"""Attach: what it installs, what it refuses, and that it can be run again."""

import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdc_bridge import statements
from cdc_bridge.admin import attach, migrations
from cdc_bridge.admin import plan as planning
from cdc_bridge.admin.mode import Mode
from cdc_bridge.model.errors import AttachError, DatabaseError, LockNotAcquired, NotOwner, UsageError
from tests.schema.telling import attach_tables, changes
from tests.support.server import Database, Server


@pytest.fixture
def conn(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        yield conn


def plan(conn: psycopg.Connection[Any], *tables: str, **request: Any) -> attach.Plan:
    return attach.plan(conn, attach.Request(tables=tables, **request))


def test_plan_changes_nothing_and_takes_no_lock(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    with psycopg.connect(database.dsn) as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert plan(conn, "t").tasks
    assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'cdc'").fetchone() == (0,)


def test_plan_prints_what_psql_can_run(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    """What is printed and what is done are the same statements."""
    conn.execute('CREATE TABLE t (id int, "o\'dd" text)')
    text = str(plan(conn, "t", mode=mode, excluded=("t.o'dd",)))
    assert "SHARE ROW EXCLUSIVE" in text
    database.execute(text)
    assert plan(conn, "t").tasks == ()
    assert changes(database, "INSERT INTO t VALUES (1, 'x')") == [("I", [{"id": 1}])]


def test_script_installs_what_attach_installs(database: Database, conn: psycopg.Connection[Any]):
    database.execute(statements.script("cdc"))
    conn.execute("CREATE TABLE t (id int)")
    assert [task.is_needed is not None for task in plan(conn, "t").tasks] == [False]


def test_attaching_again_does_nothing_and_takes_no_lock(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t", mode=mode)
    with psycopg.connect(database.dsn) as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        attach.apply(conn, plan(conn, "t"), lock_limit_s=0)
    assert str(plan(conn, "t")) == "-- Nothing to do."


def test_names_resolve_as_a_user_expects(conn: psycopg.Connection[Any]):
    conn.execute(
        'CREATE SCHEMA shop; CREATE SCHEMA "My Shop"; CREATE TABLE shop.orders (id int);'
        'CREATE TABLE "My Shop"."Orders" (id int);'
        'CREATE TABLE items (id int); CREATE TABLE "Items" (id int); CREATE TABLE "shop.orders" (id int);'
        'CREATE TABLE "a.b" (id int)'
    )
    expected = {
        "items": "public.items",
        "ITEMS": "public.items",
        "Items": "public.Items",
        '"Items"': "public.Items",
        "public.items": "public.items",
        "shop.orders": "public.shop.orders",
        '"shop".orders': "shop.orders",
        "SHOP.Orders": "shop.orders",
        "My Shop.Orders": "My Shop.Orders",
        '"My Shop"."Orders"': "My Shop.Orders",
        "a.b": "public.a.b",
    }
    found = {text: plan(conn, text).tasks[-1].title.removeprefix("attach ").partition(":")[0] for text in expected}
    assert found == expected


REFUSED = {
    "CREATE TABLE other (id int)": "there is no table x",
    "CREATE VIEW x AS SELECT 1 AS id": "is a view",
    "CREATE MATERIALIZED VIEW x AS SELECT 1 AS id": "is a materialized view",
    "CREATE SEQUENCE x": "is a sequence",
    "CREATE TEMP TABLE x (id int)": "is a temporary table",
    "CREATE TABLE x ()": "has no columns",
    "CREATE TABLE root (id int) PARTITION BY LIST (id); CREATE TABLE x PARTITION OF root"
    " DEFAULT": "is a partition of public.root",
    "CREATE TABLE parent (id int); CREATE TABLE x () INHERITS (parent)": "inheritance",
    "CREATE TABLE x (id int); CREATE TABLE child () INHERITS (x)": "inheritance",
    "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE x (id"
    " int) SERVER s": "is a foreign table",
    "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE TABLE x (id int)"
    " PARTITION BY LIST (id);"
    "CREATE FOREIGN TABLE far PARTITION OF x DEFAULT SERVER s": "public.far is a foreign partition of public.x",
}


@pytest.mark.parametrize("made", REFUSED)
def test_relation_that_cannot_be_attached_is_refused(conn: psycopg.Connection[Any], made: str):
    conn.execute(made.encode())
    with pytest.raises(AttachError, match=REFUSED[made]):
        plan(conn, "x")


def test_system_catalog_is_refused(conn: psycopg.Connection[Any]):
    with pytest.raises(AttachError, match="system catalog"):
        plan(conn, "pg_catalog.pg_class")


def test_table_of_our_own_schema_is_refused(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("CREATE TABLE cdc.mine (id int)")
    with pytest.raises(AttachError, match="belongs to cdc_bridge itself"):
        plan(conn, "cdc.mine")


def test_table_of_another_owner_is_refused(database: Database, conn: psycopg.Connection[Any]):
    role = f"cdc_test_other_{database.name[-12:]}"
    conn.execute(f"CREATE ROLE {role} LOGIN; CREATE TABLE t (id int); GRANT ALL ON t TO {role}".encode())
    try:
        with (
            psycopg.connect(database.dsn, user=role, autocommit=True) as other,
            pytest.raises(NotOwner, match=r'public\.t belongs to the role "postgres": connect as that role'),
        ):
            plan(other, "t")
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_owner_without_superuser_attaches_and_captures(database: Database, conn: psycopg.Connection[Any]):
    role = f"cdc_test_owner_{database.name[-12:]}"
    conn.execute(
        f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database.name} TO {role}; CREATE SCHEMA own"
        f" AUTHORIZATION {role}".encode()
    )
    try:
        with psycopg.connect(database.dsn, user=role, autocommit=True) as owner:
            owner.execute("CREATE TABLE own.t (id int)")
            attach.apply(owner, plan(owner, "own.t"))
        assert changes(database, "INSERT INTO own.t VALUES (1)") == [("I", [{"id": 1}])]
    finally:
        conn.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())


def test_missing_excluded_column_is_refused(conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int); CREATE TABLE u (id int)")
    with pytest.raises(AttachError, match=r"public\.t has no column secret"):
        plan(conn, "t", excluded=("t.secret",))
    with pytest.raises(UsageError, match="u is not among the tables"):
        plan(conn, "t", excluded=("u.id",))
    with pytest.raises(UsageError, match=r"write it as TABLE\.COLUMN"):
        plan(conn, "t", excluded=("secret",))


@pytest.mark.parametrize("text", ["shop.orders.secret", '"shop"."orders"."secret"', "SHOP.orders.SECRET"])
def test_excluded_column_of_table_in_another_schema(database: Database, text: str, mode: Mode):
    database.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int, secret text)")
    attach_tables(database, "shop.orders", exclude=(text,), mode=mode)
    assert changes(database, "INSERT INTO shop.orders VALUES (1, 'x')") == [("I", [{"id": 1}])]


def test_other_excluded_columns_come_to_the_former(database: Database, mode: Mode):
    """What is private stays private until detach."""
    database.execute("CREATE TABLE t (id int, a text, b text)")
    attach_tables(database, "t", exclude=("t.a",), mode=mode)
    again = attach_tables(database, "t", exclude=("t.b",), mode=mode)
    assert again.notes == ("public.t: a stays excluded; detach first to send what was excluded",)
    assert changes(database, "INSERT INTO t VALUES (1, 'a', 'b')") == [("I", [{"id": 1}])]


def test_excluded_key_column_is_warned_of(conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int, a text, b text, PRIMARY KEY (id) INCLUDE (a))")
    assert plan(conn, "t", excluded=("t.a", "t.b")).notes == ()
    (warning,) = plan(conn, "t", excluded=("t.id",)).notes
    assert warning.startswith("public.t: id belongs to the primary key: without it a client cannot tell which row")


def test_attach_without_the_option_keeps_excluded_columns(database: Database, conn: psycopg.Connection[Any]):
    database.execute("CREATE TABLE t (id int, a text)")
    attach_tables(database, "t", exclude=("t.a",))
    again = plan(conn, "t")
    assert again.tasks == ()
    assert again.notes == ("public.t: a stays excluded; detach first to send what was excluded",)


def test_all_takes_tables_of_public_and_notes_what_it_leaves_out(database: Database, conn: psycopg.Connection[Any]):
    conn.execute(
        "CREATE TABLE a (id int); CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION"
        " OF p DEFAULT;"
        "CREATE VIEW v AS SELECT 1; CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);"
        "CREATE SCHEMA shop; CREATE TABLE shop.b (id int)"
    )
    found = attach.plan(conn, attach.Request(all_of_schemas=("public",)))
    assert [task.title.partition(":")[0] for task in found.tasks[1:]] == ["attach public.a", "attach public.p"]
    assert len(found.notes) == 2
    both = attach.plan(conn, attach.Request(all_of_schemas=("public", "shop")))
    assert [task.title.partition(":")[0] for task in both.tasks[1:]][-1] == "attach shop.b"


def test_nothing_to_attach_in_a_schema_is_an_error(conn: psycopg.Connection[Any]):
    conn.execute("CREATE SCHEMA empty")
    with pytest.raises(AttachError, match="there is no table to attach in empty"):
        attach.plan(conn, attach.Request(all_of_schemas=("empty",)))


def test_schema_that_is_not_there_is_an_error(conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    with pytest.raises(AttachError, match="there is no schema nowhere, nosuch in this database"):
        attach.plan(conn, attach.Request(all_of_schemas=("public", "nowhere", "nosuch")))


@pytest.mark.parametrize("schema", ["Cdc", "pg_cdc", "a-b", "a;b", "", "ä", "1a", 'x"y'])
def test_schema_name_that_is_not_plain_is_refused(schema: str):
    with pytest.raises(UsageError):
        statements.script(schema)


def test_schema_of_another_name(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach.apply(conn, attach.plan(conn, attach.Request(tables=("t",)), "select"))
    conn.execute("INSERT INTO t VALUES (1)")
    assert conn.execute('SELECT count(*) FROM "select".change_log').fetchone() == (1,)
    assert conn.execute('SELECT is_called FROM "select".gap').fetchone() == (False,)


def test_older_functions_are_replaced(
    database: Database, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, mode: Mode
):
    """As after an update of the program: the schema with its channel stays, migrations do not run again."""
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t", mode=mode)
    channel = conn.execute("SELECT last_value FROM cdc.channel").fetchone()
    conn.execute(
        "CREATE OR REPLACE FUNCTION cdc.send(operation text, relation oid, body text) RETURNS int LANGUAGE sql"
        " AS 'SELECT 0'"
    )
    monkeypatch.setattr(migrations, "VERSION", statements.VERSION + 1)
    attach.apply(conn, plan(conn, "t"))
    assert conn.execute("SELECT last_value FROM cdc.channel").fetchone() == channel
    assert changes(database, "INSERT INTO t VALUES (1)") == [("I", [{"id": 1}])]


def test_newer_sql_than_ours_is_refused(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("CREATE OR REPLACE FUNCTION cdc.version() RETURNS int LANGUAGE sql AS 'SELECT 99'")
    with pytest.raises(DatabaseError, match=r"version 99 .* use a newer cdc-bridge"):
        plan(conn, "t")


def test_schema_of_somebody_else_is_refused(conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int); CREATE SCHEMA cdc; CREATE TABLE cdc.theirs (id int)")
    with pytest.raises(DatabaseError, match='the schema "cdc" is there and is not ours'):
        plan(conn, "t")


def test_schema_of_somebody_else_with_a_version_is_refused(conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int); CREATE FUNCTION version() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(DatabaseError, match='the schema "public" is there and is not ours'):
        attach.plan(conn, attach.Request(tables=("t",)), "public")


def test_rest_of_our_schema_is_refused(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("DROP FUNCTION cdc.version()")
    with pytest.raises(DatabaseError, match='of the schema "cdc" only a part is left'):
        plan(conn, "t")


def test_schema_is_ours_also_without_its_comment(database: Database, conn: psycopg.Connection[Any]):
    """As after pg_restore --no-comments."""
    conn.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    conn.execute("COMMENT ON SCHEMA cdc IS NULL")
    assert plan(conn, "t").tasks == ()


def test_version_of_the_files_is_the_version_that_is_told(database: Database, conn: psycopg.Connection[Any]):
    database.execute(statements.script("cdc"))
    assert conn.execute("SELECT cdc.version()").fetchone() == (statements.VERSION,)
    assert statements.migrations(after=statements.VERSION) == []


def test_concurrent_attaches_all_succeed(database: Database, mode: Mode):
    database.execute("".join(f"CREATE TABLE t{n} (id int);" for n in range(8)))
    failures: list[BaseException] = []

    def attach_one(number: int) -> None:
        try:
            attach_tables(database, f"t{number % 4}", f"t{number}", mode=mode)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=attach_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    told = changes(database, "; ".join(f"INSERT INTO t{n} VALUES (1)" for n in range(8)))
    assert told == [("I", [{"id": 1}])] * 8


def test_lock_that_is_never_free_names_its_holder(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int, secret text)")
    with psycopg.connect(database.dsn, application_name="reports") as holder:
        holder.execute("INSERT INTO t VALUES (1, 'hush')")
        began = time.monotonic()
        with pytest.raises(LockNotAcquired) as caught:
            attach.apply(conn, plan(conn, "t"), lock_limit_s=0.5)
        assert time.monotonic() - began < 3
        pid = holder.info.backend_pid
    message = str(caught.value)
    assert f'process {pid} "reports", in a transaction for ' in message
    assert message.startswith("attach public.t: no lock within 0.5 s. It is held by ")
    assert "hush" not in message
    assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass").fetchone() == (0,)


def test_wait_for_a_lock_is_told_once(
    database: Database, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(planning, "TELL_AFTER_S", 0.3)
    conn.execute("CREATE TABLE t (id int)")
    told: list[str] = []
    with psycopg.connect(database.dsn, application_name="reports") as holder:
        holder.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(LockNotAcquired):
            attach.apply(conn, plan(conn, "t"), lock_limit_s=1.5, notice=told.append)
        pid = holder.info.backend_pid
    (sentence,) = told
    assert sentence.startswith(f'attach public.t: waiting for a lock held by process {pid} "reports"')


def test_name_with_a_line_break_stays_in_its_comment(database: Database, conn: psycopg.Connection[Any]):
    conn.execute('CREATE TABLE "t\nCREATE TABLE evil (id int); --" (id int)')
    found = attach.plan(conn, attach.Request(all_of_schemas=("public",)))
    database.execute(str(found))
    assert conn.execute("SELECT to_regclass('evil')").fetchone() == (None,)
    assert attach.plan(conn, attach.Request(all_of_schemas=("public",))).tasks == ()


def test_reader_does_not_keep_attach_waiting(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int)")
    with psycopg.connect(database.dsn) as reader:
        reader.execute("SELECT * FROM t")
        attach.apply(conn, plan(conn, "t"), lock_limit_s=0)
    assert plan(conn, "t").tasks == ()


def test_attach_switches_to_row_triggers_and_back(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute(
        "CREATE TABLE t (id int, secret int); CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NULL; END'"
    )
    attach_tables(database, "t", exclude=("t.secret",), mode=mode)
    conn.execute("CREATE TRIGGER app AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nop()")
    attach_tables(database, "t", mode=mode)
    ((oid,),) = conn.execute("SELECT 't'::regclass::oid")
    assert _trigger_names(conn, "t") == {
        "00_cdc_bridge_row_truncate",
        *(f"00_cdc_bridge_row_{event}_{oid}" for event in ("insert", "update", "delete")),
    }
    assert changes(database, "INSERT INTO t VALUES (1), (2)") == [("I", [{"id": 1}]), ("I", [{"id": 2}])]
    conn.execute("DROP TRIGGER app ON t")
    attach_tables(database, "t", mode=mode)
    assert _trigger_names(conn, "t") == {f"00_cdc_bridge_{e}" for e in ("insert", "update", "delete", "truncate")}
    assert changes(database, "INSERT INTO t VALUES (1), (2)") == [("I", [{"id": 1}, {"id": 2}])]


def test_attach_switches_a_partitioned_table_to_row_triggers_and_back(
    database: Database, conn: psycopg.Connection[Any], mode: Mode
):
    conn.execute(
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT;"
        "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    attach_tables(database, "p", mode=mode)
    conn.execute("CREATE TRIGGER app AFTER UPDATE ON p1 FOR EACH ROW EXECUTE FUNCTION nop()")
    attach_tables(database, "p", mode=mode)
    assert changes(database, "INSERT INTO p VALUES (1), (2); TRUNCATE p1") == [
        ("I", [{"id": 1}]),
        ("I", [{"id": 2}]),
        ("T", []),
    ]
    assert plan(conn, "p").tasks == ()
    conn.execute("DROP TRIGGER app ON p1")
    attach_tables(database, "p", mode=mode)
    assert changes(database, "INSERT INTO p1 VALUES (1), (2)") == [("I", [{"id": 1}, {"id": 2}])]
    assert plan(conn, "p").tasks == ()


@pytest.mark.parametrize(
    "trigger",
    ["BEFORE UPDATE ON t FOR EACH ROW", "AFTER UPDATE ON t FOR EACH STATEMENT", "BEFORE INSERT ON t FOR EACH ROW"],
)
def test_other_triggers_of_the_application_need_no_row_triggers(database: Database, trigger: str):
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, r int REFERENCES t); CREATE FUNCTION nop() RETURNS trigger"
        " LANGUAGE plpgsql"
        f" AS 'BEGIN RETURN new; END'; CREATE TRIGGER app {trigger} EXECUTE FUNCTION nop()"
    )
    assert "for each statement" in attach_tables(database, "t").tasks[-1].title


def test_table_attached_by_itself_may_become_a_partition(database: Database, conn: psycopg.Connection[Any], mode: Mode):
    conn.execute("CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 (id int)")
    attach_tables(database, "p", "p1", mode=mode)
    conn.execute("ALTER TABLE p ATTACH PARTITION p1 DEFAULT")
    attach_tables(database, "p", mode=mode)
    assert changes(database, "INSERT INTO p1 VALUES (1)") == [("I", [{"id": 1}])]
    assert changes(database, "INSERT INTO p VALUES (1)") == [("I", [{"id": 1}])]


def test_database_whose_texts_have_no_encoding_is_refused(server: Server):
    name = f"cdc_test_ascii_{secrets.token_hex(4)}"
    database = Database(server, name)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'").format(
                sql.Identifier(name)
            )
        )
    try:
        database.execute("CREATE TABLE t (id int)")
        with psycopg.connect(database.dsn, autocommit=True) as conn, pytest.raises(DatabaseError, match="SQL_ASCII"):
            plan(conn, "t")
    finally:
        server.drop_database(database)


def test_apply_leaves_the_session_as_it_was(database: Database, conn: psycopg.Connection[Any]):
    conn.execute("CREATE TABLE t (id int); SET search_path = public, pg_catalog; SET lock_timeout = '7s'")
    attach.apply(conn, plan(conn, "t"))
    assert conn.execute("SELECT current_setting('search_path'), current_setting('lock_timeout')").fetchone() == (
        "public, pg_catalog",
        "7s",
    )


def _trigger_names(conn: psycopg.Connection[Any], table: str) -> set[str]:
    rows = conn.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname LIKE '00%%' AND tgenabled = 'A'", [table]
    )
    return {name for (name,) in rows}
