"""Initial data: rows of a table as they stand at one moment, and the `pg_snapshot` that names the moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import psycopg
from psycopg import errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.database.select import count, figures_encoder, key_of, reading
from cdc_bridge.database.sessions import BoundStatement, Connection, ask_in_turn, begin_read, in_our_words
from cdc_bridge.database.where import Scope
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.encoding import key_encoder, read_encoder
from cdc_bridge.model.errors import forbidden_item
from cdc_bridge.model.filter import EVERYTHING
from cdc_bridge.model.row import split_object
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext
from cdc_bridge.model.subscription import Meta, Query
from cdc_bridge.ports import Asked, InitialData
from cdc_bridge.statements import statement

TOGETHER_TIMEOUT_S = 1.0
"""The time for each statement of a common read. A read that needs longer is done alone."""

NO_CATALOG = Catalog()

Pool: TypeAlias = AsyncConnectionPool[Connection]


class SnapshotReader:
    """Reads through a pool, one repeatable-read transaction and two round trips for each read."""

    def __init__(self, pool: Pool, schema: str = "cdc", *, statement_timeout_s: float = 30) -> None:
        self._pool = pool
        self._schema = schema
        self._statement_timeout_s = statement_timeout_s

    async def read(self, asked: Asked, catalog: Catalog = NO_CATALOG) -> InitialData:
        """`catalog` has what the query's relations lead to. Raises as `ports.Reader` says."""
        metas = [each for each in Meta if each in asked.query.meta]
        async with self._transaction(asked.collection, policies=_policies(asked, catalog)) as read:
            scope = Scope(catalog, read.now_us, asked.context)
            statements = [
                reading(asked.collection, asked.query, asked.key, scope),
                *(_count(each, asked, scope) for each in metas),
            ]
            with _key_of_no_row(asked.key is not None):
                texts, *counts = await read.ask([(statement, asked.context) for statement in statements])
        meta = tuple((each, int(text)) for each, (text,) in zip(metas, counts, strict=True))
        return _data(read.snapshot, asked.query, texts, meta)

    async def read_together(self, asked: Sequence[Asked], catalog: Catalog) -> list[InitialData]:
        """Read all in one transaction, for which there is little time. See `ports.Reader`."""
        async with self._transaction(asked[0].collection, TOGETHER_TIMEOUT_S) as read:
            found = await read.ask(
                [
                    (
                        reading(each.collection, each.query, each.key, Scope(catalog, read.now_us, each.context)),
                        each.context,
                    )
                    for each in asked
                ]
            )
        return [_data(read.snapshot, each.query, texts) for each, texts in zip(asked, found, strict=True)]

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
        async with self._transaction(collection) as read:
            asked = key_of(collection, key, Scope(catalog, read.now_us, context))
            with _key_of_no_row(True):
                (found,) = await read.ask([(asked, context)])
        if not found:
            raise forbidden_item()
        return key_encoder(collection)(split_object(found[0]))

    @asynccontextmanager
    async def _transaction(
        self, collection: Collection, timeout_s: float | None = None, policies: Sequence[str] = ()
    ) -> AsyncIterator[_Read]:
        """Begin a transaction. Whatever ends it early, the pool has it rolled back. `policies` are named in the log
        when PostgreSQL refuses one.
        """
        timeout_s = timeout_s or self._statement_timeout_s
        try:
            # The server's timeout is for slow statements, ours, which is longer, for a server that is gone.
            async with asyncio.timeout(timeout_s + 10), self._pool.connection() as connection:
                snapshot, settled, now_us = await begin_read(connection, timeout_s)
                if settled is not None:
                    snapshot = await self._of_standby(connection, settled, snapshot)
                yield _Read(connection, snapshot, now_us)
        except (psycopg.Error, PoolTimeout, TimeoutError, UnicodeEncodeError) as error:
            raise in_our_words(error, collection, policies) from error

    async def _of_standby(self, connection: Connection, settled: Snapshot, now: Snapshot) -> Snapshot:
        """Return the snapshot on a standby, which does not tell what is in progress. A transaction that was not in
        progress in `settled` had ended, and so had one that has a visible row in the log. The others count as in
        progress.
        """
        unsure = {*settled.in_progress, *range(settled.xmax, now.xmax)}
        asked = {"xids": [str(xid) for xid in unsure]}
        cursor = await connection.execute(statement("queries/logged_xids", self._schema), asked)
        logged = {int(xid) for (xid,) in await cursor.fetchall()}
        return Snapshot(now.xmin, now.xmax, frozenset(unsure - logged))


@dataclass(frozen=True, slots=True)
class _Read:
    """A transaction that has begun. It ends with `ask`."""

    connection: Connection
    snapshot: Snapshot
    now_us: int

    async def ask(self, asked: Sequence[BoundStatement]) -> list[list[str]]:
        return await ask_in_turn(self.connection, asked)


@contextmanager
def _key_of_no_row(has_key: bool) -> Iterator[None]:
    """Refuse a key that its column's type does not accept: no row has it."""
    try:
        yield
    except errors.InvalidRegularExpression:
        raise
    except (errors.DataError, UnicodeEncodeError) as error:
        if has_key:
            raise forbidden_item() from error
        raise


def _policies(asked: Asked, catalog: Catalog) -> list[str]:
    """Return the names of the policies that apply to the reader."""
    access = catalog.access.to(asked.collection.relation_id, asked.context.principal.role)
    return [policy.name for policy in access.policies or ()]


def _data(
    snapshot: Snapshot, query: Query, texts: Sequence[str], meta: tuple[tuple[Meta, int], ...] = ()
) -> InitialData:
    encode = read_encoder(query.projection) if query.aggregate is None else figures_encoder(query.aggregate)
    encoded = [encode(split_object(text)) for text in texts]
    more = query.limit_is_ours and len(encoded) > query.limit
    return InitialData(snapshot, tuple(encoded[: query.limit]), more, meta)


def _count(asked: Meta, of: Asked, scope: Scope) -> sql.Composed:
    """Return a query for a count of the collection, even if one row of it is asked for."""
    filter_ = EVERYTHING if asked is Meta.TOTAL_COUNT else of.query.of_table
    return count(of.collection, filter_, scope)
