"""Initial data: rows of a table as they stand at one moment, and the `pg_snapshot` that names the moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import psycopg
from psycopg import AsyncCursor, errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.database.aggregation import FiguresEncoder, figures
from cdc_bridge.database.fragments import parameters
from cdc_bridge.database.refusals import in_our_words
from cdc_bridge.database.scripts import Connection, begin_looking, end_looking
from cdc_bridge.database.select import count, key_of, rows
from cdc_bridge.database.where import Surroundings
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.change import Row, Snapshot
from cdc_bridge.model.errors import forbidden_item
from cdc_bridge.model.filter import EVERYTHING
from cdc_bridge.model.projection import KeyEncoder, ReadEncoder
from cdc_bridge.model.rawjson import split_object
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext
from cdc_bridge.model.subscription import Meta, Query
from cdc_bridge.ports import Asked, InitialData
from cdc_bridge.statements import statement

TOGETHER_TIMEOUT_S = 1.0
"""For each statement of a reading of many. Who needs longer reads alone."""

NO_CATALOG = Catalog()

Pool: TypeAlias = AsyncConnectionPool[Connection]


class SnapshotReader:
    """Reads through a pool, one repeatable-read transaction for each reading."""

    def __init__(self, pool: Pool, schema: str = "cdc", *, statement_timeout_s: float = 30) -> None:
        self._pool = pool
        self._schema = schema
        self._statement_timeout_s = statement_timeout_s

    async def read(self, asked: Asked, catalog: Catalog = NO_CATALOG) -> InitialData:
        """`catalog` has what the query's relations lead to. Raises as `ports.Reader` says."""
        query = asked.query
        async with self._transaction(asked.collection) as (connection, before):
            snapshot = await self._snapshot(connection, before)
            surroundings = Surroundings(catalog, await _now_us(connection), asked.context)
            texts = await _execute(
                connection, _reading(asked, surroundings), asked.context, has_key=asked.key is not None
            )
            meta = [
                (each, await _counted(connection, each, asked.collection, query, surroundings))
                for each in Meta
                if each in query.meta
            ]
        return _data(snapshot, query, texts, tuple(meta))

    async def read_together(self, asked: Sequence[Asked], catalog: Catalog) -> list[InitialData]:
        """All in one transaction and one round trip, for which there is little time: see `ports.Reader`."""
        async with self._transaction(asked[0].collection, TOGETHER_TIMEOUT_S) as (connection, settled):
            snapshot = await self._snapshot(connection, settled)
            now_us = await _now_us(connection)
            async with connection.pipeline():
                cursors = [await _sent(connection, each, Surroundings(catalog, now_us, each.context)) for each in asked]
            texts = [[text for (text,) in await cursor.fetchall()] for cursor in cursors]
        return [_data(snapshot, each.query, found) for each, found in zip(asked, texts, strict=True)]

    async def renew(self) -> None:
        await self._pool.drain()

    async def find_key(
        self,
        collection: Collection,
        key: tuple[str, ...],
        catalog: Catalog = NO_CATALOG,
        context: SecurityContext = BY_ITSELF,
    ) -> bytes:
        """See `ports.Reader`."""
        async with self._transaction(collection) as (connection, _):
            surroundings = Surroundings(catalog, await _now_us(connection), context)
            found = await _execute(connection, key_of(collection, key, surroundings), context, has_key=True)
        if not found:
            raise forbidden_item()
        return KeyEncoder(collection).encode(split_object(found[0]))

    async def _snapshot(self, connection: Connection, before: Snapshot | None) -> Snapshot:
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
        self, collection: Collection, timeout_s: float | None = None
    ) -> AsyncIterator[tuple[Connection, Snapshot | None]]:
        """A transaction, and on a standby a snapshot from before it."""
        timeout_s = timeout_s or self._statement_timeout_s
        try:
            # The server's timeout is for slow statements, ours, which is longer, for a server that is gone.
            async with asyncio.timeout(timeout_s + 10):
                async with self._pool.connection() as connection:
                    before = await _settled(connection)
                    async with connection.transaction(force_rollback=True):
                        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                        limit_ms = round(timeout_s * 1000)
                        await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(limit_ms))
                        yield connection, before
        except (psycopg.Error, PoolTimeout, TimeoutError, UnicodeEncodeError) as error:
            raise in_our_words(error, collection) from error


async def _sent(connection: Connection, asked: Asked, surroundings: Surroundings) -> AsyncCursor[tuple[str, ...]]:
    """What one reading does to the session is undone before the next one. When one fails all do, and are undone."""
    reading = _reading(asked, surroundings)
    await begin_looking(connection, asked.context)
    cursor = await connection.execute(reading, parameters(reading))
    await end_looking(connection)
    return cursor


def _reading(asked: Asked, surroundings: Surroundings) -> sql.Composed:
    statement_of = rows if asked.query.aggregate is None else figures
    return statement_of(asked.collection, asked.query, asked.key, surroundings)


def _data(
    snapshot: Snapshot, query: Query, texts: Sequence[str], meta: tuple[tuple[Meta, int], ...] = ()
) -> InitialData:
    encode = _encoder(query)
    encoded = [encode(split_object(text)) for text in texts]
    more = query.limit_is_ours and len(encoded) > query.limit
    return InitialData(snapshot, tuple(encoded[: query.limit]), more, meta)


def _encoder(query: Query) -> Callable[[Row], bytes]:
    return ReadEncoder(query.projection).encode if query.aggregate is None else FiguresEncoder(query.aggregate).encode


async def _counted(
    connection: Connection, asked: Meta, collection: Collection, query: Query, surroundings: Surroundings
) -> int:
    """Counts are of a collection, also where one row of it is asked for."""
    filter_ = EVERYTHING if asked is Meta.TOTAL_COUNT else query.of_table
    (found,) = await _execute(connection, count(collection, filter_, surroundings), surroundings.context)
    return int(found)


async def _execute(
    connection: Connection, asked: sql.Composed, context: SecurityContext, *, has_key: bool = False
) -> list[str]:
    """The rows, each a text. A key that its column's type does not accept is the key of no row."""
    try:
        await begin_looking(connection, context)
        cursor = await connection.execute(asked, parameters(asked))
        found = [text for (text,) in await cursor.fetchall()]
        await end_looking(connection)
        return found
    except errors.InvalidRegularExpression:
        raise
    except (errors.DataError, UnicodeEncodeError) as error:
        if has_key:
            raise forbidden_item() from error
        raise


async def _now_us(connection: Connection) -> int:
    return int(await _fetch_one(connection, statement("queries/now")))


async def _settled(connection: Connection) -> Snapshot | None:
    """None on a primary, which knows by itself."""
    if await _fetch_one(connection, statement("queries/standby")) == "no":
        return None
    return Snapshot.parse(await _fetch_one(connection, statement("queries/settled_snapshot")))


async def _fetch_one(connection: Connection, query: sql.Composed) -> str:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]
