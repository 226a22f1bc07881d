"""Initial data: rows of a table as they stand at one moment, and the `pg_snapshot` that names the moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import psycopg
from psycopg import AsyncConnection, AsyncCursor, errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.catalog import Collection
from cdc_bridge.change import Snapshot
from cdc_bridge.errors import (
    RequestError,
    SourceChanged,
    SourceUnavailable,
    forbidden_collection,
    forbidden_item,
    invalid_query,
)
from cdc_bridge.logs import facts
from cdc_bridge.ports import InitialData
from cdc_bridge.projection import KeyEncoder, RowEncoder
from cdc_bridge.rawjson import split_object
from cdc_bridge.statements import statement
from cdc_bridge.subscription import Query, SortKey

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[tuple[str, ...]]]


class SnapshotReader:
    """Reads through a pool, one repeatable-read transaction for each reading."""

    def __init__(self, pool: Pool, schema: str = "cdc", *, statement_timeout_s: float = 30) -> None:
        self._pool = pool
        self._schema = schema
        self._statement_timeout_s = statement_timeout_s

    async def read(self, collection: Collection, query: Query, key: tuple[str, ...] | None) -> InitialData:
        """`key`: the one row that is asked for, else all. Raises as `ports.Reader` says."""
        async with self._transaction(collection) as (connection, before):
            snapshot = await self._snapshot(connection, before)
            rows_query, parameters = select(collection, query, key)
            cursor = await _execute_with_key(connection, rows_query, parameters)
            encode = RowEncoder(query.projection.columns).encode
            rows = [encode(split_object(row)) for (row,) in await cursor.fetchall()]
        more = query.limit_is_ours and len(rows) > query.limit
        return InitialData(snapshot, tuple(rows[: query.limit]), more)

    async def renew(self) -> None:
        await self._pool.drain()

    async def find_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        """The key as `delete` would carry it, however the client spelled it; FORBIDDEN when no row has it."""
        columns = sql.SQL(", ").join(map(sql.Identifier, collection.key))
        statement = sql.SQL("SELECT row_to_json(k.*)::text FROM (SELECT {} FROM {} WHERE {}) AS k").format(
            columns, _table(collection), _key_condition(collection)
        )
        async with self._transaction(collection) as (connection, _):
            found = await _execute_with_key(connection, statement, key)
        row = await found.fetchone()
        if row is None:
            raise forbidden_item()
        return KeyEncoder(collection).encode(split_object(row[0]))

    async def _snapshot(self, connection: AsyncConnection[tuple[str, ...]], before: Snapshot | None) -> Snapshot:
        """That of this transaction. A standby does not tell who is in progress. Who was not so before had ended, and
        who has something in the log that can be seen had too; of the others there is nothing here.
        """
        now = Snapshot.parse(await _fetch_one(connection, statement("queries/snapshot")))
        if before is None:
            return now
        unsure = {*before.in_progress, *range(before.xmax, now.xmax)}
        asked = {"xids": [str(xid) for xid in unsure]}
        cursor = await connection.execute(statement("queries/logged_xids", self._schema), asked)
        return Snapshot(
            now.xmin, now.xmax, frozenset(unsure.difference(int(xid) for (xid,) in await cursor.fetchall()))
        )

    @asynccontextmanager
    async def _transaction(
        self, collection: Collection
    ) -> AsyncIterator[tuple[AsyncConnection[tuple[str, ...]], Snapshot | None]]:
        """A transaction, and on a standby a snapshot from before it."""
        try:
            # The server's timeout is for slow statements, ours, which is longer, for a server that is gone.
            async with asyncio.timeout(self._statement_timeout_s + 10):
                async with self._pool.connection() as connection:
                    before = await _settled(connection)
                    async with connection.transaction():
                        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                        limit_ms = round(self._statement_timeout_s * 1000)
                        await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(limit_ms))
                        yield connection, before
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise _in_our_words(error, collection) from error


def _in_our_words(error: Exception, collection: Collection) -> Exception:
    """What an error of the database means to whoever asked. None of them ends a worker."""
    match error:
        case errors.QueryCanceled():
            return RequestError("SERVICE_UNAVAILABLE", "Reading the data took too long.")
        case errors.InsufficientPrivilege():
            return forbidden_collection(collection.name)
        case errors.UndefinedTable() | errors.UndefinedColumn() | errors.InvalidSchemaName():
            return SourceChanged(str(error))
        case errors.UndefinedFunction():  # json and a few other types have no order, and no equality
            return invalid_query('"sort" or "item" names a column of a type that cannot be compared')
        case errors.OutOfMemory() | errors.ProgramLimitExceeded() | errors.StatementTooComplex():
            return RequestError("SERVICE_UNAVAILABLE", "The data is too large to be read at once: ask for less.")
        case psycopg.OperationalError() | PoolTimeout() | TimeoutError():
            return SourceUnavailable(str(error) or "no answer in time")
    log.error("initial data cannot be read", extra=facts(collection=collection.name, reason=str(error)))
    return RequestError("SERVICE_UNAVAILABLE", "The data cannot be read.")


def select(collection: Collection, query: Query, key: tuple[str, ...] | None) -> tuple[sql.Composed, list[str | int]]:
    """The statement of a reading. It fetches one row too many, which tells that the limit cut."""
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in query.projection.columns)
    parameters: list[str | int] = []
    condition: sql.Composable = sql.SQL("")
    if key is not None:
        condition = sql.SQL(" WHERE ") + _key_condition(collection)
        parameters += key
    statement = sql.SQL("SELECT row_to_json(r.*)::text FROM (SELECT {} FROM {}{}{} LIMIT %s OFFSET %s) AS r").format(
        columns, _table(collection), condition, _order(collection, query)
    )
    return statement, [*parameters, query.limit + 1 if query.limit else 0, query.offset]


def _order(collection: Collection, query: Query) -> sql.Composable:
    """What the client asked for, then the key, so that pages do not overlap."""
    named = {key.column for key in query.sort}
    keys = [*query.sort, *(SortKey(name) for name in collection.key if name not in named)]
    if not keys:
        return sql.SQL("")
    terms = [sql.SQL("{} DESC" if key.descending else "{}").format(sql.Identifier(key.column)) for key in keys]
    return sql.SQL(" ORDER BY ") + sql.SQL(", ").join(terms)


def _table(collection: Collection) -> sql.Composable:
    """ONLY, since what inherits from a table without being its partition is not captured either."""
    name = sql.Identifier(collection.relation.schema, collection.relation.name)
    is_partitioned = collection.filenodes[collection.relation_id] == 0
    return name if is_partitioned else sql.SQL("ONLY {}").format(name)


def _key_condition(collection: Collection) -> sql.Composable:
    """Parameters go without a type, so PostgreSQL reads each as the type of its column."""
    return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in collection.key)


async def _execute_with_key(
    connection: AsyncConnection[tuple[str, ...]], statement: sql.Composed, parameters: Sequence[str | int]
) -> AsyncCursor[tuple[str, ...]]:
    """A key that its column's type does not accept is the key of no row."""
    try:
        return await connection.execute(statement, parameters)
    except (errors.DataError, UnicodeEncodeError) as error:
        if any(isinstance(parameter, str) for parameter in parameters):
            raise forbidden_item() from error
        raise


async def _settled(connection: AsyncConnection[tuple[str, ...]]) -> Snapshot | None:
    """None on a primary, which knows by itself."""
    if await _fetch_one(connection, statement("queries/standby")) == "no":
        return None
    return Snapshot.parse(await _fetch_one(connection, statement("queries/settled_snapshot")))


async def _fetch_one(connection: AsyncConnection[tuple[str, ...]], query: sql.Composed) -> str:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]
