"""The catalog as values, and a fingerprint that changes with it."""

import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.admin.tables import read_trees
from cdc_bridge.database.catalog import fingerprint, read_catalog
from cdc_bridge.database.sessions import prepare
from cdc_bridge.model.catalog import Catalog, Collation, Collection, PgType, Reference, TypeKind, with_children
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import NotInstalled
from tests.schema.telling import attach_tables
from tests.support.server import Database


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await database.connect() as conn:
        await prepare(conn, "cdc")
        yield conn


async def one(conn: psycopg.AsyncConnection[Any], name: str = "t") -> Collection:
    return (await read_catalog(conn, "cdc")).by_name[name]


async def test_database_without_our_schema_is_not_installed(conn: psycopg.AsyncConnection[Any]):
    with pytest.raises(NotInstalled):
        await read_catalog(conn, "cdc")
    with pytest.raises(NotInstalled):
        await fingerprint(conn, "cdc")


async def test_nothing_attached_is_an_empty_catalog(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    database.execute("DROP TABLE t")
    assert await read_catalog(conn, "cdc") == Catalog()


async def test_table_is_a_collection(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute(
        "CREATE TABLE t (b text, dropped int, a int, id bigint, PRIMARY KEY (id, a) INCLUDE (b)); ALTER"
        " TABLE t DROP dropped"
    )
    attach_tables(database, "t")
    t = await one(conn)
    ((oid, filenode),) = database.execute("SELECT oid::bigint, relfilenode::bigint FROM pg_class WHERE relname = 't'")
    assert (t.relation, t.relation_id, t.filenodes) == (Relation("public", "t"), oid, {oid: filenode})
    assert [(column.name, column.number, column.type.name) for column in t.columns] == [
        ("b", 1, "text"),
        ("a", 3, "integer"),
        ("id", 4, "bigint"),
    ]
    assert t.key == ("id", "a")


async def test_tables_of_other_schemas_carry_its_name(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute('CREATE SCHEMA "My Shop"; CREATE TABLE "My Shop"."Größe" (id int); CREATE TABLE "select" (id int)')
    attach_tables(database, '"My Shop"."Größe"', "select")
    assert set((await read_catalog(conn, "cdc")).by_name) == {"My Shop.Größe", "select"}


@pytest.mark.parametrize("row_trigger", [False, True])
async def test_partitioned_table_is_one_collection(
    database: Database, conn: psycopg.AsyncConnection[Any], row_trigger: bool, mode: Mode
):
    database.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT"
        " PARTITION BY LIST (id);"
        "CREATE TABLE p2 PARTITION OF p1 DEFAULT"
    )
    if row_trigger:
        database.execute(
            "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER app AFTER UPDATE ON p FOR EACH ROW EXECUTE FUNCTION nop()"
        )
    attach_tables(database, "p", mode=mode)
    database.execute("CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3)")
    catalog = await read_catalog(conn, "cdc")
    assert set(catalog.by_name) == {"p"}
    filenodes: dict[int, int] = dict(
        database.execute(
            "SELECT oid::bigint, relfilenode::bigint FROM pg_class WHERE relname ~ '^p[0-9]?$' AND relkind IN"
            " ('r', 'p')"
        )
    )
    assert catalog.by_name["p"].filenodes == filenodes
    assert catalog.by_name["p"].key == ("id",)


async def test_partitions_have_their_columns_in_another_order(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute(
        "CREATE TABLE p (id int, secret text, a int, dropped int) PARTITION BY LIST (id);"
        "CREATE TABLE p1 PARTITION OF p DEFAULT PARTITION BY LIST (id); ALTER TABLE p DROP dropped;"
        "CREATE TABLE turned (a int, secret text, id int); ALTER TABLE p1 ATTACH PARTITION turned FOR VALUES IN (1);"
        "CREATE TABLE same (id int, a int, secret text); ALTER TABLE p1 ATTACH PARTITION same DEFAULT"
    )
    attach_tables(database, "p", exclude=("p.secret",))
    p = await one(conn, "p")
    oids: dict[str, int] = dict(
        database.execute("SELECT relname, oid::bigint FROM pg_class WHERE relkind IN ('r', 'p')")
    )
    assert p.orders == {oids["turned"]: ("a", "id")}
    assert {p.order(oids[name]) for name in ("p", "p1", "same")} == {("id", "a")}


async def test_detached_partition_is_no_collection(database: Database, conn: psycopg.AsyncConnection[Any]):
    """It would appear to clients under a new name that nobody gave it."""
    database.execute("CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT")
    attach_tables(database, "p")
    database.execute("ALTER TABLE p DETACH PARTITION p1")
    assert set((await read_catalog(conn, "cdc")).by_name) == {"p"}


async def test_excluded_column_is_not_there(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute('CREATE TABLE t (id int PRIMARY KEY, "se\'cret" text, größe text)')
    attach_tables(database, "t", exclude=("t.se'cret", "t.größe"))
    t = await one(conn)
    assert [column.name for column in t.columns] == ["id"]
    assert t.excluded == {"se'cret", "größe"}
    assert t.key == ("id",)


async def test_key_is_empty_when_a_column_of_it_is_excluded(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute("CREATE TABLE t (a int, b int, PRIMARY KEY (a, b))")
    attach_tables(database, "t", exclude=("t.b",))
    assert (await one(conn)).key == ()


async def test_excluded_column_stays_excluded_under_both_names(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute("CREATE TABLE t (id int, secret text)")
    attach_tables(database, "t", exclude=("t.secret",))
    database.execute("ALTER TABLE t RENAME secret TO open; ALTER TABLE t ADD secret text")
    t = await one(conn)
    assert [column.name for column in t.columns] == ["id"]
    assert t.excluded == {"open", "secret"}


PLAIN = [
    "bool",
    "int",
    "real",
    "text",
    "uuid",
    "date",
    "time",
    "timestamp",
    "interval",
    "json",
    "jsonb",
    "bytea",
    "inet",
]


async def test_kinds_of_types(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute(
        "CREATE TYPE mood AS ENUM ('ok'); CREATE DOMAIN big AS bigint; CREATE DOMAIN bigger AS big; CREATE"
        " DOMAIN bigs AS bigger[];"
        "CREATE TYPE place AS (city text, at timestamptz, ns bigger[]); CREATE TYPE span AS RANGE (SUBTYPE = int8);"
        f"CREATE TABLE t ({', '.join(f'c{n} {name}' for n, name in enumerate(PLAIN))}, m mood, s span, mr"
        f" int8multirange,"
        " i8 bigint, n numeric(10, 2), tz timestamptz(3), b bigger, bs bigs, a int[], tzs timestamptz[][], w"
        " place, ws place[],"
        " v int2vector)"
    )
    attach_tables(database, "t")
    types = {column.name: column.type for column in (await one(conn)).columns}
    assert {types[name].kind for name in types if name.startswith("c") or name in {"m", "s", "mr"}} == {TypeKind.PLAIN}
    int8 = PgType("bigint", TypeKind.QUOTED)
    timestamptz = PgType("timestamp with time zone", TypeKind.TIMESTAMPTZ)
    assert (types["i8"], types["b"], types["tz"], types["n"].kind) == (int8, int8, timestamptz, TypeKind.QUOTED)
    assert types["bs"].element == int8
    assert types["tzs"] == PgType("timestamp with time zone[]", TypeKind.ARRAY, element=timestamptz)
    assert types["a"].element == PgType("integer")
    assert types["v"].element == PgType("smallint")
    place = PgType(
        "public.place",
        TypeKind.COMPOSITE,
        fields=(
            ("city", PgType("text")),
            ("at", timestamptz),
            ("ns", PgType("public.bigger[]", TypeKind.ARRAY, element=int8)),
        ),
    )
    assert types["w"] == place
    assert types["ws"].element == place


async def test_names_are_looked_up_under_a_hostile_search_path(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute(
        "CREATE TABLE t (id bigint, at timestamptz); CREATE SCHEMA evil; CREATE VIEW evil.pg_trigger AS SELECT 1 AS x"
    )
    attach_tables(database, "t")
    expected = await one(conn)
    await conn.execute("SET search_path = evil, public, pg_catalog")
    await prepare(conn, "cdc")
    assert await one(conn) == expected


DDL = [
    "CREATE TABLE t (id int PRIMARY KEY, mood mood, place place, d d)",
    "ALTER TABLE t ADD a int",
    "ALTER TABLE t RENAME a TO b",
    "ALTER TABLE t ALTER b TYPE text",
    "ALTER TABLE t DROP b",
    "ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t; ALTER TABLE t RENAME TO w",
    "ALTER TABLE w RENAME TO t",
    "CREATE SCHEMA s; ALTER TABLE t SET SCHEMA s",
    "ALTER TABLE s.t SET SCHEMA public",
    "ALTER TABLE t DROP CONSTRAINT t_pkey",
    "ALTER TABLE t ADD PRIMARY KEY (id)",
    "TRUNCATE t",
    "ALTER TYPE place ADD ATTRIBUTE country text",
    "ALTER TYPE place RENAME ATTRIBUTE country TO land",
    "ALTER TYPE inner_place ADD ATTRIBUTE y int",
    "ALTER TYPE place RENAME TO spot",
    "ALTER TYPE mood RENAME TO temper",
    "ALTER TYPE temper RENAME VALUE 'ok' TO 'fine'",
    "ALTER TYPE temper ADD VALUE 'bad' BEFORE 'fine'",
    "CREATE DOMAIN e AS bigint; ALTER TABLE t ALTER d TYPE e USING NULL",
    "ALTER DOMAIN e RENAME TO f; ALTER TABLE t ADD moods temper[]",
    "ALTER TYPE temper RENAME VALUE 'bad' TO 'sad'",
    "ALTER TABLE t RENAME moods TO tempers",
    "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (d, id)",
    "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, d)",
    "ALTER TABLE p DETACH PARTITION p1",
    "ALTER TABLE p ATTACH PARTITION p1 DEFAULT",
    "ALTER TABLE p ADD x int",
    "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)",
    "DROP TABLE p2",
    "VACUUM FULL t",
    "DROP TABLE t",
]


async def test_fingerprint_changes_exactly_with_the_catalog(
    database: Database, conn: psycopg.AsyncConnection[Any], mode: Mode
):
    database.execute(
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE place AS (city text); CREATE TYPE inner_place AS (x"
        " int); CREATE DOMAIN d AS inner_place;"
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT"
    )
    attach_tables(database, "p", mode=mode)
    catalog, mark = await read_catalog(conn, "cdc"), await fingerprint(conn, "cdc")
    for statement in DDL:
        database.execute(statement)
        if statement.startswith("CREATE TABLE t"):
            attach_tables(database, "t", mode=mode)
        now, now_mark = await read_catalog(conn, "cdc"), await fingerprint(conn, "cdc")
        assert now != catalog, statement
        assert now_mark != mark, statement
        catalog, mark = now, now_mark


UNTOLD = [
    ("t", "ALTER TABLE t DISABLE TRIGGER ALL; ALTER TABLE t ENABLE TRIGGER ALL"),
    ("t", "ALTER TABLE t DISABLE TRIGGER USER"),
    ("t", 'ALTER TABLE t ENABLE TRIGGER "00_cdc_bridge_update"'),
    (
        "t",
        'DROP TRIGGER "00_cdc_bridge_insert" ON t; CREATE TRIGGER "00_cdc_bridge_insert" AFTER INSERT ON t'
        " REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION cdc.capture();"
        'ALTER TABLE t ENABLE ALWAYS TRIGGER "00_cdc_bridge_insert"',
    ),
    ("p", "ALTER TABLE p1 DISABLE TRIGGER ALL; ALTER TABLE p1 ENABLE TRIGGER ALL"),
    ("p", 'DROP TRIGGER "00_cdc_bridge_partition_insert" ON p1'),
    ("p", "ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p ATTACH PARTITION p1 DEFAULT"),
    ("r", "ALTER TABLE r DETACH PARTITION r1; ALTER TABLE r ATTACH PARTITION r1 DEFAULT"),
]


@pytest.mark.parametrize(("name", "statement"), UNTOLD)
async def test_collection_has_another_revision_once_changes_may_have_gone_untold(
    database: Database, conn: psycopg.AsyncConnection[Any], name: str, statement: str
):
    database.execute(
        "CREATE TABLE t (id int);"
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT;"
        "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TABLE r (id int) PARTITION BY LIST (id); CREATE TABLE r1 PARTITION OF r DEFAULT;"
        "CREATE TRIGGER app AFTER UPDATE ON r FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    attach_tables(database, "t", "p", "r")
    catalog, mark = await read_catalog(conn, "cdc"), await fingerprint(conn, "cdc")
    database.execute(statement)
    now = await read_catalog(conn, "cdc")
    assert {each for each in now.by_name if now.by_name[each].revision != catalog.by_name[each].revision} == {name}
    assert await fingerprint(conn, "cdc") != mark


async def test_virtual_column_with_another_expression_is_another_revision(
    database: Database, conn: psycopg.AsyncConnection[Any]
):
    if database.server.version < 180000:
        pytest.skip("virtual generated columns come with PostgreSQL 18")
    database.execute("CREATE TABLE t (id int, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL)")
    attach_tables(database, "t")
    before, mark = await one(conn), await fingerprint(conn, "cdc")
    database.execute("ALTER TABLE t ALTER twice SET EXPRESSION AS (id * 3)")
    assert (await one(conn)).revision != before.revision
    assert await fingerprint(conn, "cdc") != mark


async def test_queries_on_catalogs_wait_for_no_table(
    database: Database, conn: psycopg.AsyncConnection[Any], mode: Mode
):
    """One ALTER TABLE that takes its time must not make every collection stand still."""
    database.execute(
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE place AS (city text, mood mood);"
        "CREATE TABLE t (id int PRIMARY KEY, place place, twice int GENERATED ALWAYS AS (id * 2) STORED);"
        "CREATE TABLE p (id int, mood mood, u oid) PARTITION BY LIST (id);"
        "CREATE TABLE p1 PARTITION OF p DEFAULT PARTITION BY LIST (id); CREATE TABLE p2 PARTITION OF p1 DEFAULT;"
        "CREATE TABLE n (id int PRIMARY KEY REFERENCES t)"
    )
    attach_tables(database, "t", "p", "n", exclude=("p.u",), mode=mode)
    tables = "t, p, p1, p2, n"
    expected = await read_catalog(conn, "cdc"), await fingerprint(conn, "cdc")
    with psycopg.connect(database.dsn) as other, psycopg.connect(database.dsn, autocommit=True) as plain:
        other.execute(f"ALTER TABLE p2 ADD CHECK (id > 0); LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE".encode())
        await conn.execute("SET lock_timeout = '1ms'")
        plain.execute("SET lock_timeout = '1ms'")
        assert (await read_catalog(conn, "cdc"), await fingerprint(conn, "cdc")) == expected
        trees = read_trees(plain, "cdc")
        assert {table.relation.name for tree in trees for table in tree.tables} == set(tables.split(", "))


async def test_row_with_a_renamed_label_reads_otherwise(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute(
        "CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE DOMAIN moody AS mood; CREATE TABLE t (moods moody[])"
    )
    attach_tables(database, "t")
    before = await one(conn)
    database.execute("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'")
    assert not (await one(conn)).reads_as(before)


async def test_fingerprint_stays_while_rows_change(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    mark = await fingerprint(conn, "cdc")
    database.execute("INSERT INTO t SELECT generate_series(1, 1000); ANALYZE t; CREATE TABLE other (id int)")
    database.execute("VACUUM t")
    assert await fingerprint(conn, "cdc") == mark


async def test_excluding_another_column_changes_the_fingerprint(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute("CREATE TABLE t (id int, a int, b int)")
    attach_tables(database, "t", exclude=("t.a",))
    mark = await fingerprint(conn, "cdc")
    attach_tables(database, "t", exclude=("t.b",))
    assert await fingerprint(conn, "cdc") != mark


async def test_fingerprint_of_a_hundred_tables_is_quick(database: Database, conn: psycopg.AsyncConnection[Any]):
    """It runs every two seconds. The bound is loose, for busy machines; alone it takes 2 to 3 ms."""
    columns = ", ".join(f"c{n} text" for n in range(15))
    database.execute("".join(f"CREATE TABLE t{n} (id int PRIMARY KEY, {columns});" for n in range(100)))
    attach_tables(database, *(f"t{n}" for n in range(100)))
    took_s = []
    for _ in range(10):
        began = time.monotonic()
        await fingerprint(conn, "cdc")
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 0.05


BLOG = """
CREATE TABLE authors (id int PRIMARY KEY, name text, secret int UNIQUE);
CREATE TABLE messages (
    id int PRIMARY KEY,
    author int REFERENCES authors,
    editor int REFERENCES authors,
    hidden int REFERENCES authors (secret)
);
CREATE TABLE notes (id int PRIMARY KEY, message int REFERENCES messages, a int, b int, UNIQUE (a, b),
    parent int REFERENCES notes, FOREIGN KEY (a, b) REFERENCES notes (a, b));
"""


async def references(conn: psycopg.AsyncConnection[Any], **names: str) -> dict[str, dict[str, Reference]]:
    """Those of each collection by name, once the children have theirs."""
    renamed = {key.replace("_of_", "."): name for key, name in names.items()}
    collections = with_children((await read_catalog(conn, "cdc")).by_name.values(), renamed)
    return {collection.name: dict(collection.by_reference) for collection in collections}


async def test_foreign_key_is_named_by_its_column_and_its_children_by_their_collection(
    database: Database, conn: psycopg.AsyncConnection[Any]
):
    database.execute(BLOG)
    attach_tables(database, "authors", "messages", "notes")
    catalog = await read_catalog(conn, "cdc")
    authors, messages, notes = (catalog.by_name[name].relation_id for name in ("authors", "messages", "notes"))
    found = await references(conn)
    assert found["messages"] == {
        "author": Reference("author", "author", authors, "id"),
        "editor": Reference("editor", "editor", authors, "id"),
        "hidden": Reference("hidden", "hidden", authors, "secret"),
        "notes": Reference("notes", "id", notes, "message", is_many=True),
    }
    assert found["authors"] == {
        "messages_by_author": Reference("messages_by_author", "id", messages, "author", is_many=True),
        "messages_by_editor": Reference("messages_by_editor", "id", messages, "editor", is_many=True),
        "messages_by_hidden": Reference("messages_by_hidden", "secret", messages, "hidden", is_many=True),
    }
    assert found["notes"] == {
        "message": Reference("message", "message", messages, "id"),
        "parent": Reference("parent", "parent", notes, "id"),
        "notes": Reference("notes", "id", notes, "parent", is_many=True),
    }


async def test_children_can_be_called_otherwise(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute(BLOG)
    attach_tables(database, "authors", "messages")
    found = await references(conn, messages_of_author="posts")
    assert set(found["authors"]) == {"posts", "messages_by_editor", "messages_by_hidden"}


async def test_children_do_not_hide_a_column(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute(
        "CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)"
    )
    attach_tables(database, "a", "b")
    assert (await references(conn))["a"] == {}


async def test_excluded_columns_and_tables_that_are_not_attached_have_no_references(
    database: Database, conn: psycopg.AsyncConnection[Any]
):
    database.execute(BLOG)
    attach_tables(database, "authors", exclude=("authors.secret",))
    attach_tables(database, "messages", exclude=("messages.editor",))
    found = await references(conn)
    assert set(found["messages"]) == {"author"}
    assert set(found["authors"]) == {"messages"}


async def test_foreign_keys_and_collations_are_in_the_fingerprint(
    database: Database, conn: psycopg.AsyncConnection[Any]
):
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int, t text)")
    attach_tables(database, "a", "b")
    prints = [await fingerprint(conn, "cdc")]
    database.execute("ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a")
    prints.append(await fingerprint(conn, "cdc"))
    database.execute('ALTER TABLE b ALTER t TYPE text COLLATE "C"')
    prints.append(await fingerprint(conn, "cdc"))
    assert len(set(prints)) == 3


async def test_collations_tell_how_text_compares(database: Database, conn: psycopg.AsyncConnection[Any]):
    database.execute('CREATE TABLE t (a text COLLATE "C", b int, c text[] COLLATE "POSIX", d char(3))')
    attach_tables(database, "t")
    t = await one(conn)
    assert {name: column.collation for name, column in t.by_name.items() if name != "d"} == {
        "a": Collation("pg_catalog", "C", is_bytewise=True),
        "b": Collation(),
        "c": Collation("pg_catalog", "POSIX", is_bytewise=True),
    }
    assert (t.by_name["d"].collation.schema, t.by_name["d"].collation.name) == ("pg_catalog", "default")


async def test_collations_of_icu_tell_how_text_compares(database: Database, conn: psycopg.AsyncConnection[Any]):
    try:
        database.execute("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server is built without ICU; the older one of `make test` has it")
    database.execute("""
        CREATE COLLATION turkish (provider = icu, locale = 'tr');
        CREATE TABLE t (a text COLLATE blind, b text COLLATE turkish);
    """)
    attach_tables(database, "t")
    t = await one(conn)
    assert {name: column.collation for name, column in t.by_name.items()} == {
        "a": Collation("public", "blind", is_deterministic=False),
        "b": Collation("public", "turkish", has_plain_ascii=False),
    }
