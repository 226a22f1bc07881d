"""Read from the log what a client has missed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.capture.log_pages import asking, current_snapshot, is_forgotten, pages
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.change import Position, newest_snapshot
from cdc_bridge.model.encoding import key_encoder
from cdc_bridge.model.errors import Forgotten, PayloadError, SourceUnavailable, forbidden_item
from cdc_bridge.model.row import RowValues, split_object
from cdc_bridge.ports import CaughtUp, Pages
from cdc_bridge.statements import statement

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]


class PooledLogReader:
    """Implements `ports.LogReader`. A reading keeps a connection for as long as it takes, but no transaction."""

    def __init__(self, pool: Pool, schema: str, *, answer_limit_s: float = 30) -> None:
        self._pool = pool
        self._schema = schema
        self._answer_limit_s = answer_limit_s

    async def missed(self, collection: Collection, delivered: tuple[Position, ...]) -> Pages:
        """See the port."""
        relations = sorted(collection.filenodes)
        try:
            async with self._pool.connection() as connection:
                await connection.execute(statement("queries/log_session"))
                ask = asking(connection, self._schema)
                upto = await current_snapshot(ask)
                if any(position.seen.xmax > upto.xmax for position in delivered):
                    raise Forgotten("the database is younger than what was delivered")  # a cold copy was put back
                async with aclosing(pages(ask, relations, delivered, upto)) as read:
                    async for page in read:
                        if await is_forgotten(ask, newest_snapshot(delivered)):
                            raise Forgotten("the log was emptied meanwhile")
                        yield page
                if await is_forgotten(ask, newest_snapshot(delivered)):
                    raise Forgotten("the log does not reach back so far")
            yield CaughtUp(upto)
        except PayloadError as error:
            raise Forgotten(f"the log cannot be read: {error}") from error
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise SourceUnavailable(str(error) or "no answer in time") from error

    async def spell_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        """See the port."""
        try:
            async with asyncio.timeout(self._answer_limit_s), self._pool.connection() as connection:
                return key_encoder(collection)(await spelled(connection, collection, key))
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise SourceUnavailable(str(error) or "no answer in time") from error


async def spelled(connection: AsyncConnection[Any], collection: Collection, key: tuple[str, ...]) -> RowValues:
    """Return a key as `row_to_json` writes it. Raises FORBIDDEN if this cannot be a key."""
    columns = sql.SQL(", ").join(
        sql.SQL("CAST(%s AS {}) AS {}").format(sql.SQL(column.type.name), sql.Identifier(column.name))
        for column in collection.key_columns
    )
    query = sql.SQL("SELECT row_to_json(k.*)::text FROM (SELECT {}) AS k").format(columns)
    try:
        row = await (await connection.execute(query, key)).fetchone()
    except (errors.DataError, UnicodeEncodeError) as error:
        raise forbidden_item() from error
    if row is None:
        raise forbidden_item()
    return split_object(row[0])
