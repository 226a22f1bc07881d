"""Tables of every shape, and tables that change their shape, followed over a socket.

In both modes, but for what is answered without a change: that knows of no mode.
"""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected


async def subscribe(client: Client, collection: str, **more: Any) -> dict[str, Any]:
    await client.send({"type": "subscribe", "collection": collection, "uid": collection, **more})
    return await client.next()


TYPES = {
    "i2": ("smallint", "7", 7),
    "i4": ("int", "-7", -7),
    "i8": ("bigint", "9223372036854775807", "9223372036854775807"),
    "n": ("numeric(30,5)", "'3.5'", "3.50000"),
    "nn": ("numeric", "'NaN'", "NaN"),
    "nbig": ("numeric", "1e40", "1" + "0" * 40),
    "f8": ("float8", "0.1", 0.1),
    "fnan": ("float8", "'NaN'", "NaN"),
    "finf": ("float4", "'-Infinity'", "-Infinity"),
    "b": ("bool", "true", True),
    "t": ("text", "E'quote \" back\\\\ line\\n \\U0001F600'", 'quote " back\\ line\n 😀'),
    "c": ("char(5)", "'ab'", "ab   "),
    "u": ("uuid", "'0190F3C2-0000-7000-8000-00000000ABCD'", "0190f3c2-0000-7000-8000-00000000abcd"),
    "d": ("date", "'2026-11-24'", "2026-11-24"),
    "dinf": ("date", "'infinity'", "infinity"),
    "tm": ("time", "'12:34:56.789'", "12:34:56.789"),
    "ttz": ("timetz", "'12:34:56+02'", "12:34:56+02"),
    "ts": ("timestamp", "'2026-11-24 12:34:56.7'", "2026-11-24T12:34:56.7"),
    "ts0": ("timestamp", "'2026-11-24 12:34:56'", "2026-11-24T12:34:56"),
    "tz": ("timestamptz", "'2026-11-24 12:34:56.789+02'", "2026-11-24T10:34:56.789Z"),
    "tz0": ("timestamptz", "'2026-11-24 12:34:56+02'", "2026-11-24T10:34:56.000Z"),
    "tz6": ("timestamptz", "'2026-11-24 12:34:56.123456+02'", "2026-11-24T10:34:56.123456Z"),
    "tzinf": ("timestamptz", "'-infinity'", "-infinity"),
    "iv": ("interval", "'1 day 02:03:04.5'", "P1DT2H3M4.5S"),
    "j": ("json", '\'{"a": 12345678901234567890, "b": [1, 2]}\'', {"a": 12345678901234567890, "b": [1, 2]}),
    "jb": ("jsonb", "'[null, \"x\", 1.50]'", [None, "x", 1.50]),
    "by": ("bytea", "'\\xDEADBEEF'", "\\xdeadbeef"),
    "ia": ("int[]", "'{1,NULL,3}'", [1, None, 3]),
    "i8a": ("bigint[]", "'{{1,2},{3,4}}'", [["1", "2"], ["3", "4"]]),
    "ta": ("text[]", "ARRAY['a,b', NULL]", ["a,b", None]),
    "tza": ("timestamptz[]", "ARRAY['2026-11-24 10:00+00'::timestamptz]", ["2026-11-24T10:00:00.000Z"]),
    "mood": ("mood", "'happy'", "happy"),
    "dom": ("positive", "5", "5"),
    "comp": ("point3", "ROW(1, 2, '2026-11-24 10:00+00')", {"x": 1, "y": "2", "at": "2026-11-24T10:00:00.000Z"}),
    "compa": ("point3[]", "ARRAY[ROW(1, 2, NULL)::point3]", [{"x": 1, "y": "2", "at": None}]),
    "r": ("int4range", "'[1,5)'", "[1,5)"),
    "tr": ("tstzrange", "'[2026-11-24 12:00+02,)'", '["2026-11-24 10:00:00+00",)'),
    "ip": ("inet", "'10.0.0.1/8'", "10.0.0.1/8"),
    "pt": ("point", "'(0.1,2)'", "(0.1,2)"),
    "nul": ("bigint", "NULL", None),
    "gen": ("bigint GENERATED ALWAYS AS (i4 * 2) STORED", "DEFAULT", "-14"),
    "type": ("text", "'a column called type'", "a column called type"),
    "data": ("text", "'a column called data'", "a column called data"),
    'Odd "näme"': ("int", "1", 1),
}
SCHEMA = """
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN positive AS bigint CHECK (VALUE > 0);
    CREATE TYPE point3 AS (x int, y bigint, at timestamptz);
"""
HOSTILE = (
    "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'postgres_verbose';"
    " SET bytea_output = 'escape'; SET extra_float_digits = -15; SET quote_all_identifiers = on;"
    " SET lc_monetary = 'C'; SET search_path = pg_temp;"
)


async def test_value_reads_the_same_in_init_and_events_whatever_the_writer_set(database: Database, mode: Mode) -> None:
    quoted = {name: sql.Identifier(name).as_string() for name in TYPES}
    columns = ", ".join(f"{quoted[name]} {type_}" for name, (type_, _, _) in TYPES.items())
    literals = ", ".join(literal for _, literal, _ in TYPES.values())
    database.execute(f'{SCHEMA} CREATE TABLE "select" (id int PRIMARY KEY, {columns})')
    attach(database, "select", mode=mode)
    expected = {"id": 1} | {name: value for name, (_, _, value) in TYPES.items()}
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "select"))["data"] == []
        names = ", ".join(["id", *quoted.values()])
        database.execute(f'INSERT INTO "select" ({names}) VALUES (1, {literals})')
        assert await client.collect(1, event="create") == [expected]
        database.execute(HOSTILE + ' UPDATE public."select" SET id = id')
        assert await client.collect(1, event="update") == [expected]
        async with connected(bridge.url) as other:
            assert (await subscribe(other, "select"))["data"] == [expected]


async def test_table_of_another_schema_keeps_it_in_its_name(database: Database, mode: Mode) -> None:
    database.execute('CREATE SCHEMA "my app"; CREATE TABLE "my app"."Öl" (id int PRIMARY KEY)')
    attach(database, '"my app"."Öl"', mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "my app.Öl"))["event"] == "init"
        database.execute('INSERT INTO "my app"."Öl" VALUES (1)')
        await client.expect(event="create", data=[{"id": 1}])


async def test_collection_can_be_renamed(database: Database) -> None:
    database.execute("CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY)")
    attach(database, "sales.orders")
    names = {"sales.orders": "orders"}
    async with running_bridge(database.dsn, collections=names) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "orders"))["event"] == "init"
        assert (await subscribe(client, "sales.orders"))["error"]["code"] == "FORBIDDEN"


async def test_partitioned_table_is_one_collection(database: Database, mode: Mode) -> None:
    database.execute("""
        CREATE TABLE p (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
    """)
    attach(database, "p", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, "p")
        database.execute("INSERT INTO p VALUES (1, 1), (2, 11)")
        assert len(await client.collect(2, event="create")) == 2
        database.execute("INSERT INTO p2 VALUES (3, 12)")
        await client.expect(event="create", data=[{"id": 3, "k": 12}])
        database.execute("TRUNCATE p")
        await client.expect(event="init", data=[], reason="truncate")
        database.execute("INSERT INTO p1 VALUES (4, 1)")
        await client.expect(event="create", data=[{"id": 4, "k": 1}])
        database.execute("TRUNCATE p2")
        await client.expect(event="init", data=[{"id": 4, "k": 1}], reason="resync")


async def test_new_partition_is_captured_and_its_rows_are_there(database: Database, mode: Mode) -> None:
    database.execute("""
        CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    """)
    attach(database, "p", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, "p")
        database.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); INSERT INTO p2 VALUES (15)")
        await client.expect(event="init", data=[{"id": 15}], reason="resync", timeout=20)
        database.execute("INSERT INTO p2 VALUES (16)")
        await client.until(event="create", data=[{"id": 16}], timeout=20)


async def test_added_renamed_and_dropped_columns_are_followed(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    attach(database, "t", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, "t")
        for ddl, insert, row in [
            ("ALTER TABLE t ADD w bigint", "INSERT INTO t VALUES (1, 'a', 7)", {"id": 1, "v": "a", "w": "7"}),
            ("ALTER TABLE t RENAME w TO x", "INSERT INTO t VALUES (2, 'a', 8)", {"id": 2, "v": "a", "x": "8"}),
            ("ALTER TABLE t ALTER x TYPE int", "INSERT INTO t VALUES (3, 'a', 9)", {"id": 3, "v": "a", "x": 9}),
            ("ALTER TABLE t ALTER x TYPE numeric", "INSERT INTO t VALUES (4, 'a', 9)", {"id": 4, "v": "a", "x": "9"}),
            ("ALTER TABLE t DROP v", "INSERT INTO t VALUES (5, 10)", {"id": 5, "x": "10"}),
        ]:
            database.execute(ddl)
            database.execute(insert)
            message = await client.until(reason="resync", timeout=20)
            assert row in message["data"]
            assert all(set(other) == set(row) for other in message["data"])


async def test_dropped_column_ends_the_subscription_that_names_it(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    attach(database, "t", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, "t", query={"fields": ["id", "v"]})
        database.execute("ALTER TABLE t DROP v")
        answer = await client.expect(type="subscribe", status="error", uid="t", timeout=20)
        assert answer["error"]["code"] == "FORBIDDEN"
        database.execute("INSERT INTO t VALUES (1)")
        await client.send({"type": "subscribe", "collection": "t", "uid": "anew"})
        await client.expect(event="init", data=[{"id": 1}], uid="anew")
        database.execute("INSERT INTO t VALUES (2)")
        await client.expect(event="create", data=[{"id": 2}], uid="anew")


@pytest.mark.parametrize("end", ["DROP TABLE t", "ALTER TABLE t RENAME TO other", "DROP SCHEMA cdc CASCADE"])
async def test_subscriptions_of_a_table_that_goes_are_told(database: Database, end: str, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, "t")
        database.execute(end)
        await client.expect(type="subscribe", status="error", timeout=20)


async def test_table_attached_under_a_running_bridge_can_be_followed_at_once(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE later (id int PRIMARY KEY)")
    attach(database, "t", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "later"))["error"]["code"] == "FORBIDDEN"
        attach(database, "later", mode=mode)
        assert (await subscribe(client, "later"))["event"] == "init"
        database.execute("INSERT INTO later VALUES (1)")
        await client.expect(event="create", data=[{"id": 1}])


async def test_excluded_column_does_not_exist_for_clients(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, secret text); INSERT INTO t VALUES (1, 'hush')")
    attach(database, "t", excluded=("t.secret",), mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "t"))["data"] == [{"id": 1}]
        assert (await subscribe(client, "t", query={"fields": "secret"}))["error"]["code"] == "FORBIDDEN"
        await subscribe(client, "t")
        database.execute("ALTER TABLE t RENAME secret TO renamed")
        database.execute("UPDATE t SET renamed = 'still'")
        message = await client.until(event="update", timeout=20)
        assert message["data"] == [{"id": 1}]


async def test_limit_of_ours_that_cuts_is_told(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 150)")
    attach(database, "t")
    async with running_bridge(database.dsn, limit_max=120) as bridge, connected(bridge.url) as client:
        first = await subscribe(client, "t")
        assert ([row["id"] for row in first["data"]], first["more"]) == (list(range(1, 101)), True)
        assert "more" not in await subscribe(client, "t", query={"limit": 5})
        everything = await subscribe(client, "t", query={"limit": -1, "sort": "-id"})
        assert ([row["id"] for row in everything["data"]], everything["more"]) == (list(range(150, 30, -1)), True)
        assert (await subscribe(client, "t", query={"limit": 121}))["error"]["code"] == "INVALID_QUERY"
        page = await subscribe(client, "t", query={"limit": "2", "page": "3"})
        assert [row["id"] for row in page["data"]] == [5, 6]


async def test_items_are_read(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "items", "action": "read", "collection": "t", "uid": 7, "query": {"fields": "v"}})
        assert await client.next() == {"type": "items", "data": [{"v": "a"}, {"v": "b"}], "uid": 7}
        await client.send({"type": "items", "action": "read", "collection": "t", "uid": 8, "id": "2"})
        assert await client.next() == {"type": "items", "data": {"id": 2, "v": "b"}, "uid": 8}
        await client.send({"type": "items", "action": "read", "collection": "t", "uid": 9, "id": 3})
        assert (await client.next())["error"]["code"] == "FORBIDDEN"
        await client.send({"type": "items", "action": "delete", "collection": "t", "uid": 10, "id": 1})
        assert (await client.next())["type"] == "items"


@pytest.mark.parametrize("item", [2, "2", 2.0])
async def test_item_is_followed_by_value(database: Database, item: Any, mode: Mode) -> None:
    database.execute("CREATE TABLE t (id bigint PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    attach(database, "t", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "t", item=item))["data"] == {"id": "2", "v": "b"}
        database.execute("UPDATE t SET v = 'c'")
        await client.expect(event="update", data={"id": "2", "v": "c"})
        database.execute("DELETE FROM t")
        await client.expect(event="delete", data="2")


@pytest.mark.parametrize("item", [99, "junk", {"id": 1, "x": 2}, "\x00", "9" * 50])
async def test_item_that_is_not_there_is_forbidden(database: Database, item: Any) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        answer = await subscribe(client, "t", item=item)
        assert answer["error"] == {"code": "FORBIDDEN", "message": "You don't have permission to access this."}


async def test_composite_and_missing_keys(database: Database, mode: Mode) -> None:
    database.execute("""
        CREATE TABLE c (a int, b bigint, v text, PRIMARY KEY (b, a)); INSERT INTO c VALUES (1, 2, 'x');
        CREATE TABLE k (v text, w int);
    """)
    attach(database, "c", "k", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "c", item={"a": 1, "b": "2"}))["data"] == {"a": 1, "b": "2", "v": "x"}
        assert (await subscribe(client, "k", item=1))["error"]["code"] == "INVALID_PAYLOAD"
        await subscribe(client, "k", query={"fields": ["v"]})
        database.execute("INSERT INTO k VALUES ('same', 1), ('same', 1)")
        await client.expect(event="create", data=[{"v": "same"}, {"v": "same"}])
        database.execute("DELETE FROM k")
        await client.expect(event="delete", data=[{"v": "same"}, {"v": "same"}], uid="k")
        database.execute("DELETE FROM c")
        await client.expect(event="delete", data={"b": "2", "a": 1}, uid="c")


async def test_cannot_sort_by_what_has_no_order(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, j json); INSERT INTO t VALUES (1, '{}'), (2, '{}')")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        assert (await subscribe(client, "t", query={"sort": "j"}))["error"]["code"] == "INVALID_QUERY"


async def test_identical_rows_and_statements_of_one_transaction_all_arrive(database: Database, mode: Mode) -> None:
    database.execute("CREATE TABLE k (v text)")
    attach(database, "k", mode=mode)
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, "k")
        database.execute(
            "BEGIN; INSERT INTO k VALUES ('a'); INSERT INTO k VALUES ('a'); INSERT INTO k VALUES ('a'); COMMIT"
        )
        assert await client.collect(3, event="create") == [{"v": "a"}] * 3


LEVELS = 18

DOUBLED = "".join(f"CREATE TYPE t{level + 1} AS (a t{level}, b t{level});" for level in range(LEVELS))
DEEP = "".join(f"CREATE TYPE d{level + 1} AS (a d{level});" for level in range(400))


@pytest.mark.once
@pytest.mark.parametrize(
    ("types", "name", "value", "shown"),
    [
        ("CREATE TYPE t0 AS (a int, b int);" + DOUBLED, f"t{LEVELS}", "NULL", None),
        ("CREATE TYPE d0 AS (a bigint);" + DEEP, "d400", "NULL", None),
        ("CREATE TYPE d0 AS (a bigint);" + DEEP, "d40", "NULL", None),
        ("CREATE TYPE d0 AS (a bigint);" + DEEP, "d1", "ROW(ROW(7))", {"a": {"a": "7"}}),
    ],
    ids=["of half a million parts", "of 400 levels", "of 40 levels", "of two levels"],
)
async def test_type_of_any_size_holds_nobody_up(
    database: Database, types: str, name: str, value: str, shown: Any
) -> None:
    """Whoever owns an attached table can give it such a column."""
    database.execute(f"{types} CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        database.execute(f"ALTER TABLE t ADD COLUMN c {name}")
        attach(database, "late")
        assert (await subscribe(client, "late"))["event"] == "init"
        assert (await subscribe(client, "t"))["event"] == "init"
        database.execute(f"INSERT INTO t VALUES (1, {value})")
        assert (await client.next())["data"] == [{"id": 1, "c": shown}]
        await client.send({"type": "items", "action": "read", "collection": "t"})
        assert (await client.next())["data"] == [{"id": 1, "c": shown}]
