"""What the tests of filters and selections share: a pool as the bridge has it, and the ways to ask one question."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.database.catalog import read_catalog
from cdc_bridge.database.expressions import parameters
from cdc_bridge.database.row_evaluator import PooledRowEvaluator
from cdc_bridge.database.sessions import prepare
from cdc_bridge.database.snapshot import SnapshotReader
from cdc_bridge.database.where import Scope, table, where
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.filter import Comparison, Field, Filter, Function, Literal, Operator, Path, Value
from cdc_bridge.model.row import RowValues, split_object
from cdc_bridge.model.security_context import BY_ITSELF
from cdc_bridge.ports import EvaluationRequest, EvaluationResult, Failure
from tests.schema.telling import attach_tables
from tests.support.server import Database

NOW_US = 1_795_012_000_000_000  # 2026-11-18T14:26:40Z


@dataclass(frozen=True, slots=True)
class Questions:
    """A database with everything that asks it."""

    database: Database
    pool: AsyncConnectionPool[Any]
    evaluator: PooledRowEvaluator
    reader: SnapshotReader
    catalog: Catalog

    def __getitem__(self, name: str) -> Collection:
        return self.catalog.by_name[name]

    async def by_where(self, collection: Collection, filter_: Filter, now_us: int = NOW_US) -> list[int]:
        """The ids of the table's rows that the compiled WHERE lets through."""
        statement = sql.SQL("SELECT t.id FROM {} WHERE {} ORDER BY t.id").format(
            table(collection, "t"), where(filter_, "t", Scope(self.catalog, now_us))
        )
        async with self.pool.connection() as connection:
            found = await connection.execute(statement, parameters(statement))
            return [id_ for (id_,) in await found.fetchall()]

    async def by_images(self, collection: Collection, filter_: Filter, now_us: int = NOW_US) -> list[int]:
        """The same of the rows' images, as the evaluator decides."""
        images = await self.images(collection)
        (verdict,) = await self.evaluator.decide([EvaluationRequest(collection, self.catalog, filter_, images, now_us)])
        assert not verdict.failures, verdict
        return [number(image) for image, seen_by in zip(images, verdict.seen_by, strict=True) if seen_by]

    async def images(self, collection: Collection) -> tuple[RowValues, ...]:
        """All rows of the table, as a change would carry them."""
        statement = sql.SQL("SELECT row_to_json(t.*)::text FROM {} ORDER BY t.id").format(table(collection, "t"))
        async with self.pool.connection() as connection:
            found = await connection.execute(statement, [])
            return tuple([split_object(row) for (row,) in await found.fetchall()])


def let_through(*images: bool) -> EvaluationResult:
    """Of a case that is asked for nobody in particular."""
    return EvaluationResult(tuple([frozenset({BY_ITSELF} if is_let_through else ()) for is_let_through in images]))


def failed(failure: Failure, images_count: int = 3) -> EvaluationResult:
    return EvaluationResult((frozenset(),) * images_count, {BY_ITSELF: failure})


def number(image: RowValues) -> int:
    return int(bytes(image["id"]))


@asynccontextmanager
async def questions(database: Database, *tables: str, statement_timeout_s: float = 5) -> AsyncIterator[Questions]:
    """For a database of which these tables are attached now, or some have been before."""
    if tables:
        attach_tables(database, *tables)
    async with AsyncConnectionPool(
        database.dsn,
        min_size=1,
        max_size=2,
        open=False,
        configure=lambda connection: prepare(connection, "cdc"),
        kwargs={"autocommit": True, "prepare_threshold": None, "client_encoding": "UTF8"},
    ) as pool:
        async with pool.connection() as connection:
            catalog = await read_catalog(connection, "cdc")
        evaluator = PooledRowEvaluator(pool, statement_timeout_s=statement_timeout_s)
        yield Questions(database, pool, evaluator, SnapshotReader(pool, "cdc"), catalog)


def field(collection: Collection, name: str, function: Function | None = None) -> Field:
    return Field(collection.by_name[name], function)


def literals(values: Sequence[Any]) -> tuple[Value, ...]:
    """Python values as the JSON that `row_to_json` would write; bytes are JSON already, and `Now` stays."""
    return tuple(
        Literal(value)
        if isinstance(value, bytes)
        else Literal(json.dumps(value, ensure_ascii=False).encode())
        if isinstance(value, (str, int, float, bool, list, dict))
        else value
        for value in values
    )


def comparison(operand: Field | Path, operator: Operator, *values: Any) -> Comparison:
    return Comparison(operand, operator, literals(values))
