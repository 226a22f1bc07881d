"""Initial data: rows of a table as they stand at one moment, and the `pg_snapshot` that names the moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import msgspec
import psycopg
from psycopg import AsyncConnection, errors, sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.broker import InitialData, SourceChanged, SourceUnavailable
from cdc_bridge.catalog import Collection
from cdc_bridge.change import Snapshot
from cdc_bridge.errors import RequestError, forbidden_collection, forbidden_item, invalid_query
from cdc_bridge.projection import KeyEncoder, RowEncoder
from cdc_bridge.subscription import Query, SortKey

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[tuple[str, ...]]]

_decode_row = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# The same settings that pin values in sql/functions/capture.sql. Money follows the locale that capture was
# installed under, so that both print it alike.
PINNED = {
    "search_path": "pg_catalog, pg_temp",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "quote_all_identifiers": "off",
}


async def pin(connection: AsyncConnection[tuple[str, ...]], schema: str) -> None:
    """Make a session render values as the trigger does. For autocommit connections, once."""
    names, settings = zip(*PINNED.items(), strict=True)
    await connection.execute(
        "SELECT set_config(name, setting, false) FROM unnest(%s::text[], %s::text[]) AS s(name, setting)",
        [list(names), list(settings)],
    )
    await connection.execute(
        """
        SELECT set_config('lc_monetary', split_part(setting, '=', 2), false)
        FROM pg_proc, unnest(proconfig) AS setting
        WHERE pronamespace = to_regnamespace(%s) AND proname = 'capture' AND setting LIKE 'lc_monetary=%%'
        """,
        [schema],
    )


class SnapshotReader:
    """Reads through a pool, one repeatable-read transaction for each reading."""

    def __init__(self, pool: Pool, *, statement_timeout_s: float = 30) -> None:
        self._pool = pool
        self._statement_timeout_ms = round(statement_timeout_s * 1000)

    async def read(self, collection: Collection, query: Query, key: tuple[str, ...] | None) -> InitialData:
        """`key`: the one row that is asked for, else all. Raises `SourceChanged`, `SourceUnavailable`, `RequestError`."""
        async with self._transaction(collection) as connection:
            snapshot = await _fetch_one(connection, sql.SQL("SELECT pg_current_snapshot()::text"))
            statement, parameters = select(collection, query, key)
            cursor = await connection.execute(statement, parameters)
            encode = RowEncoder(query.projection.columns).encode
            rows = [encode(_decode_row(row)) for (row,) in await cursor.fetchall()]
        more = query.limit_is_ours and len(rows) > query.limit
        return InitialData(Snapshot.parse(snapshot), tuple(rows[: query.limit]), more)

    async def find_key(self, collection: Collection, key: tuple[str, ...]) -> bytes:
        """The key as `delete` would carry it, however the client spelled it. Raises `RequestError` when no row has it."""
        columns = sql.SQL(", ").join(map(sql.Identifier, collection.key))
        statement = sql.SQL("SELECT row_to_json(k.*)::text FROM (SELECT {} FROM {} WHERE {}) AS k").format(
            columns, _table(collection), _key_condition(collection)
        )
        async with self._transaction(collection) as connection:
            found = await (await connection.execute(statement, key)).fetchone()
        if found is None:
            raise forbidden_item()
        return KeyEncoder(collection).encode(_decode_row(found[0]))

    @asynccontextmanager
    async def _transaction(self, collection: Collection) -> AsyncIterator[AsyncConnection[tuple[str, ...]]]:
        try:
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(self._statement_timeout_ms))
                yield connection
        except errors.QueryCanceled as error:
            raise RequestError("SERVICE_UNAVAILABLE", "Reading the data took too long.") from error
        except errors.InsufficientPrivilege as error:
            raise forbidden_collection(collection.name) from error
        except (errors.UndefinedTable, errors.UndefinedColumn) as error:
            raise SourceChanged(str(error)) from error
        except errors.UndefinedFunction as error:  # json and a few other types have no order, and no equality
            raise invalid_query('"sort" or "item" names a column of a type that cannot be compared') from error
        except (errors.DataError, UnicodeEncodeError) as error:
            raise forbidden_item() from error
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise SourceUnavailable(str(error)) from error


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


def _table(collection: Collection) -> sql.Identifier:
    return sql.Identifier(collection.relation.schema, collection.relation.name)


def _key_condition(collection: Collection) -> sql.Composable:
    """Parameters go without a type, so PostgreSQL reads each as the type of its column."""
    return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in collection.key)


async def _fetch_one(connection: AsyncConnection[tuple[str, ...]], statement: sql.SQL) -> str:
    row = await (await connection.execute(statement)).fetchone()
    assert row is not None
    return row[0]
