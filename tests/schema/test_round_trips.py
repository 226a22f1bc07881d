"""How often a read goes to the server and back, counted on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.capture.connection import Connector
from cdc_bridge.database.catalog import read_catalog
from cdc_bridge.database.pools import ReadPools
from cdc_bridge.database.row_evaluator import PooledRowEvaluator
from cdc_bridge.database.snapshot import SnapshotReader
from cdc_bridge.engine.query_parser import QueryParser
from cdc_bridge.model.catalog import Catalog, PgType
from cdc_bridge.model.filter import Policy
from cdc_bridge.model.security_context import SELF, Principal, SecurityContext
from cdc_bridge.model.subscription import Meta
from cdc_bridge.ports import Asked, ClaimExpression, EvaluationRequest
from cdc_bridge.query.forms import QueryLimits
from tests.schema.telling import attach_tables
from tests.support.proxy import Proxy
from tests.support.server import Database

ROUND_TRIPS_MAX = 2


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """Roles outlive databases, so it is dropped at the end."""
    name = f"reader_of_{database.name}"
    database.execute(f"CREATE ROLE {name}")
    yield name
    database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


class Wire:
    """A pool as the bridge has it, through a proxy that counts."""

    def __init__(self, proxy: Proxy, pool: AsyncConnectionPool[Any], catalog: Catalog) -> None:
        self.proxy, self.pool, self.catalog = proxy, pool, catalog
        self.reader, self.evaluator = SnapshotReader(pool, "cdc"), PooledRowEvaluator(pool)

    async def counted(self, work: Awaitable[Any]) -> tuple[Any, int]:
        before = self.proxy.server_messages[b"Z"]
        done = await work
        return done, self.proxy.server_messages[b"Z"] - before


@asynccontextmanager
async def wire(database: Database, role: str) -> AsyncIterator[Wire]:
    database.execute(
        f"""
        CREATE TABLE notes (id int PRIMARY KEY, owner text, took interval);
        INSERT INTO notes VALUES (1, 'ann', '1 day'), (2, 'bob', '2 days'), (3, 'ann', '3 days');
        GRANT SELECT ON notes TO {role};
        CREATE FUNCTION is_mine(text) RETURNS boolean LANGUAGE sql STABLE AS
            $$ SELECT $1 = current_setting('request.jwt.claims', true)::json ->> 'sub' $$;
        ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON notes USING (is_mine(owner));
        """
    )
    attach_tables(database, "notes")
    async with Proxy.before(database.dsn, swallow=b"") as proxy:
        dsn = proxy.dsn(database.dsn)
        pools = ReadPools(dsn, "cdc", Connector(dsn, 5), connect_timeout_s=5, reconnect_delay_max_s=5)
        async with pools.open(1) as pool:
            async with pool.connection() as connection:
                catalog = await read_catalog(connection, "cdc")
            yield Wire(proxy, pool, catalog)


def principal(role: str, name: str = "ann") -> Principal:
    return Principal(role, role, msgspec.json.encode({"sub": name}).decode())


@pytest.mark.parametrize("meta", [frozenset(), frozenset(Meta)], ids=["rows", "rows and counts"])
async def test_initial_read_takes_few_round_trips(
    database: Database, role: str, meta: frozenset[Meta], capsys: pytest.CaptureFixture[str]
) -> None:
    """Together with whatever the pool does to hand out a connection."""
    async with wire(database, role) as w:
        notes = w.catalog.by_name["notes"]
        parser = QueryParser(w.evaluator, QueryLimits(), AccessPolicy())
        parsed = await parser.parse({"meta": [each.value for each in meta]}, "notes", w.catalog, SELF, to_follow=False)
        asked = Asked(notes, parsed.query, None, SecurityContext(principal(role)))
        data, trips = await w.counted(w.reader.read(asked, w.catalog))
        assert [msgspec.json.decode(row)["id"] for row in data.rows] == [1, 3]
        assert dict(data.meta) == dict.fromkeys(meta, 2)
        with capsys.disabled():
            print(f"\nan initial read: {trips} round trips")
        assert trips <= ROUND_TRIPS_MAX


async def test_key_of_an_item_is_found_in_few_round_trips(database: Database, role: str) -> None:
    async with wire(database, role) as w:
        found = w.reader.find_key(w.catalog.by_name["notes"], ("1",), w.catalog, SecurityContext(principal(role)))
        key, trips = await w.counted(found)
        assert msgspec.json.decode(key) == 1
        assert trips <= ROUND_TRIPS_MAX


async def test_many_reads_take_no_more_round_trips_than_one(database: Database, role: str) -> None:
    async with wire(database, role) as w:
        notes = w.catalog.by_name["notes"]
        parser = QueryParser(w.evaluator, QueryLimits(), AccessPolicy())
        query = (await parser.parse({}, "notes", w.catalog, SELF, to_follow=False)).query
        contexts = [SecurityContext(principal(role, name)) for name in ["bob", "ann"] * 10]
        asked = [Asked(notes, query, None, context) for context in contexts]
        data, trips = await w.counted(w.reader.read_together(asked, w.catalog))
        assert [len(each.rows) for each in data] == [1, 2] * 10
        assert trips <= ROUND_TRIPS_MAX


async def test_everything_that_a_query_needs_is_looked_up_in_few_round_trips(database: Database, role: str) -> None:
    """A literal, a claim's value, and whether a policy can be evaluated; and nothing once it is known."""
    async with wire(database, role) as w:
        notes, ann = w.catalog.by_name["notes"], principal(role)
        own = Policy("notes", "(public.is_mine(owner))", (notes.by_name["owner"],))
        (literals, claims, probes), trips = await w.counted(
            w.evaluator.look_up(
                [(PgType("interval"), '"1 day"'), (PgType("inet"), '"::1"')],
                [ClaimExpression(ann, "current_setting('request.jwt.claims'::text, true)")],
                [EvaluationRequest(notes, w.catalog, own, (), 0, (SecurityContext(ann),))],
            )
        )
        assert literals == [b'"P1D"', b'"::1"']
        assert [value.type for value in claims] == ["text"]
        assert [verdict.failures for verdict in probes] == [{}]
        assert trips <= ROUND_TRIPS_MAX

        parser = QueryParser(w.evaluator, QueryLimits(), AccessPolicy())
        raw = {"filter": {"took": {"_gt": "36 hours"}}}
        for allowed in (ROUND_TRIPS_MAX, 0):
            _, trips = await w.counted(parser.parse(raw, "notes", w.catalog, SELF, to_follow=True))
            assert trips <= allowed


async def test_role_that_is_gone_is_refused(database: Database, role: str) -> None:
    async with wire(database, role) as w:
        nobody = SecurityContext(principal("nobody_at_all"))
        with pytest.raises(Exception, match="FORBIDDEN"):
            await w.reader.find_key(w.catalog.by_name["notes"], ("1",), w.catalog, nobody)
        assert await w.reader.find_key(w.catalog.by_name["notes"], ("1",), w.catalog) == b"1"
