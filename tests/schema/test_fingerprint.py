"""The fingerprint of the catalogs differs after whatever a bridge has to know, and after nothing else that is usual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, AsyncCursor
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.admin.problems import log_problems
from cdc_bridge.admin.retention import prune
from cdc_bridge.admin.tables import query_tables
from cdc_bridge.database.catalog import fingerprint
from cdc_bridge.database.catalog_reader import PooledCatalogReader
from cdc_bridge.database.sessions import prepare
from tests.schema.telling import attach_tables
from tests.support.server import Database

TABLES = """
CREATE TYPE mood AS ENUM ('ok');
CREATE TABLE t (id int PRIMARY KEY, mood mood);
CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT;
CREATE TABLE other (id int PRIMARY KEY);
CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
"""


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[AsyncConnection[Any]]:
    database.execute(TABLES)
    attach_tables(database, "t", "p")
    async with await database.connect() as conn:
        await prepare(conn, "cdc")
        yield conn


HARM = [
    "CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()",
    "CREATE TRIGGER app AFTER INSERT ON p1 FOR EACH ROW EXECUTE FUNCTION nop()",
    "ALTER TABLE t OWNER TO pg_monitor",
    "CREATE TABLE child () INHERITS (t)",
    "ALTER TABLE t DISABLE TRIGGER ALL",
    "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)",
    "CREATE FUNCTION as_json(mood) RETURNS json LANGUAGE sql AS 'SELECT NULL::json';"
    "ALTER FUNCTION as_json OWNER TO pg_monitor; CREATE CAST (mood AS json) WITH FUNCTION as_json(mood)",
    "ALTER TABLE cdc.change_log_0 SET UNLOGGED",
    "ALTER TABLE cdc.change_log_1 ADD more int",
    "ALTER TABLE cdc.change_log_1 ADD CHECK (seq IS NOT NULL)",
    "ALTER TABLE cdc.change_log_1 ENABLE ROW LEVEL SECURITY",
    "CREATE UNIQUE INDEX ON cdc.change_log_1 (seq)",
    "CREATE RULE no AS ON INSERT TO cdc.change_log_1 DO INSTEAD NOTHING",
    "CREATE TRIGGER no BEFORE INSERT ON cdc.change_log_1 FOR EACH ROW EXECUTE FUNCTION nop()",
    "ALTER FUNCTION cdc.forget_segment OWNER TO pg_monitor",
    "ALTER TABLE cdc.forgotten RENAME TO remembered",
    "ALTER SEQUENCE cdc.gate RENAME TO door",
]


@pytest.mark.parametrize("harm", HARM)
async def test_whatever_is_wrong_with_triggers_or_log_shows(
    database: Database, conn: AsyncConnection[Any], harm: str
) -> None:
    async def problems() -> Any:
        return await query_tables("cdc").all_async(conn), await log_problems("cdc").all_async(conn)

    before, mark = await problems(), await fingerprint(conn, "cdc")
    await asyncio.to_thread(database.execute, harm)
    assert await problems() != before
    assert await fingerprint(conn, "cdc") != mark


NOBODYS_CHANGE = [
    "INSERT INTO t SELECT n FROM generate_series(1, 1000) n; DELETE FROM t WHERE id > 10",
    "CREATE TEMP TABLE t2 (id serial PRIMARY KEY, mood mood, t int REFERENCES pg_temp.t2); DROP TABLE pg_temp.t2",
    "CREATE TEMP TABLE kept (id int PRIMARY KEY)",
    "TRUNCATE other",
    "CREATE INDEX ON t (mood)",
    "ANALYZE",
]
CATALOGS = (
    "pg_class",
    "pg_attribute",
    "pg_trigger",
    "pg_proc",
    "pg_auth_members",
    "pg_policy",
    "pg_type",
    "pg_namespace",
)


@pytest.mark.parametrize("has_policy", [False, True])
async def test_what_is_nobodys_change_does_not_show(
    database: Database, conn: AsyncConnection[Any], has_policy: bool
) -> None:
    if has_policy:
        database.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON t USING (id < 5)")
    mark = await fingerprint(conn, "cdc")
    with psycopg.connect(database.dsn, autocommit=True) as application:
        for statement in NOBODYS_CHANGE:
            await asyncio.to_thread(application.execute, statement.encode())
            assert await fingerprint(conn, "cdc") == mark, statement
        for catalog in CATALOGS:
            await asyncio.to_thread(application.execute, f"VACUUM FULL {catalog}".encode())
        assert await fingerprint(conn, "cdc") == mark


async def test_going_on_to_the_next_segment_is_nobodys_change(database: Database, conn: AsyncConnection[Any]) -> None:
    """Functions are written anew for that, which happens every few seconds while much is written."""
    mark = await fingerprint(conn, "cdc")
    database.execute("INSERT INTO t SELECT n FROM generate_series(1, 5000) n")
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        assert prune(owner, "cdc", 0, 0).advanced
    assert await fingerprint(conn, "cdc") == mark


class Recording(AsyncCursor[Any]):
    """Counts what is asked."""

    asked: int = 0

    async def execute(self, *args: Any, **keywords: Any) -> Any:
        Recording.asked += 1
        return await super().execute(*args, **keywords)


async def test_catalog_is_read_again_only_when_something_has_changed(database: Database) -> None:
    database.execute(TABLES)
    attach_tables(database, "t", "p")
    keywords = {"autocommit": True, "cursor_factory": Recording}
    async with AsyncConnectionPool(
        database.dsn, min_size=1, open=False, kwargs=keywords, configure=lambda each: prepare(each, "cdc")
    ) as pool:
        reader = PooledCatalogReader(pool, database.dsn, "cdc", {})
        mark, catalog = await reader.fingerprint(), await reader.read()
        assert await reader.repair() == []
        Recording.asked = 0
        for _ in range(3):
            assert await reader.fingerprint() == mark
            assert await reader.repair() == []
            assert await reader.read() is catalog
        assert Recording.asked == 3
        database.execute("CREATE TABLE more (id int)")
        attach_tables(database, "more")
        assert await reader.fingerprint() != mark
        assert (await reader.read()).by_name.keys() == {"t", "p", "more"}


class Interrupted(AsyncCursor[Any]):
    """Something else happens before one of its statements."""

    happens: Callable[[], object] = staticmethod(lambda: None)
    left = 0

    async def execute(self, *args: Any, **keywords: Any) -> Any:
        Interrupted.left -= 1
        if Interrupted.left == 0:
            await asyncio.to_thread(Interrupted.happens)
        return await super().execute(*args, **keywords)


AROUND = {
    "a policy and a constraint": (
        "CREATE POLICY mine ON t USING (true);ALTER TABLE cdc.change_log_1 ADD CONSTRAINT mine CHECK (seq IS NULL)",
        "DROP POLICY IF EXISTS mine ON t; ALTER TABLE cdc.change_log_1 DROP CONSTRAINT IF EXISTS mine",
    ),
    "a right": ("GRANT SELECT ON p TO pg_monitor", "REVOKE SELECT ON p FROM pg_monitor"),
    "names": (
        "BEGIN; ALTER TABLE other RENAME TO o; ALTER TABLE more RENAME TO other; ALTER TABLE o RENAME TO more; COMMIT",
        "BEGIN; ALTER TABLE other RENAME TO o; ALTER TABLE more RENAME TO other; ALTER TABLE o RENAME TO more; COMMIT",
    ),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("statement", range(1, 16))
async def test_what_came_and_went_around_a_reading_is_not_kept(database: Database, around: str, statement: int) -> None:
    """The fingerprint is then as it was before, so nothing would ever be read again."""
    database.execute(
        TABLES + "ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON t TO pg_monitor;"
        "GRANT INSERT ON p TO pg_monitor; CREATE TABLE more (id int PRIMARY KEY);"
        "CREATE POLICY others ON t USING (EXISTS (SELECT FROM other o WHERE o.id = t.id))"
    )
    attach_tables(database, "t", "p")
    comes, goes = AROUND[around]
    keywords = {"autocommit": True, "cursor_factory": Interrupted}
    async with AsyncConnectionPool(
        database.dsn, min_size=1, open=False, kwargs=keywords, configure=lambda each: prepare(each, "cdc")
    ) as pool:
        reader, fresh = [PooledCatalogReader(pool, database.dsn, "cdc", {}, roles=["pg_monitor"]) for _ in range(2)]
        has_come = False

        def come() -> None:
            nonlocal has_come
            with suppress(psycopg.errors.LockNotAvailable):  # the reading itself holds it off
                database.execute("SET lock_timeout = '100ms';" + comes)
                has_come = True

        Interrupted.left, Interrupted.happens = statement, come
        await reader.fingerprint()
        await reader.repair()
        Interrupted.left = 0
        if has_come:
            database.execute(goes)
        for each in (reader, fresh):
            await each.fingerprint()
            await each.repair()
        assert await reader.read() == await fresh.read()
        assert reader.problems == fresh.problems == ()
