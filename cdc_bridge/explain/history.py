"""Find what the change log and the table have of one row.

A change of many rows is cut down to the one row: what a filter says of a row does not depend on the others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from psycopg import AsyncConnection, errors, sql
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.admin.mode import ours
from cdc_bridge.capture.log_pages import changes_of
from cdc_bridge.capture.log_reader import spelled
from cdc_bridge.database.expressions import Name, joined, parameters
from cdc_bridge.database.select import ALIAS, has_key
from cdc_bridge.database.where import table
from cdc_bridge.model.catalog import Catalog, Collection, TypeKind
from cdc_bridge.model.change import Change, Operation, Snapshot
from cdc_bridge.model.encoding import key_encoder, member_name, row_key
from cdc_bridge.model.errors import DatabaseError, PayloadError
from cdc_bridge.model.row import Raw, Row
from cdc_bridge.statements import statement

SEARCH_LIMIT_S = 60
"""The time for looking through the log, which has no index on keys."""

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]


class Key(NamedTuple):
    """A row's key: its values as the caller wrote them, as events carry it, and its place in a row of the log."""

    values: tuple[str, ...]
    encoded: bytes
    patterns: list[str]


class Reach(NamedTuple):
    """How far back the log tells.

    `forgotten_xid`: the youngest transaction of which it has forgotten something, None for none. `gaps`: how often
    changes were not captured. `trigger_xid`: the transaction that made or altered a trigger of the table last.
    """

    forgotten_xid: int | None
    gaps: int
    trigger_xid: int | None


@dataclass(frozen=True, slots=True)
class RowNow:
    """The row as `snapshot` sees it, and the transaction that wrote it; None where there is no such row."""

    snapshot: Snapshot
    xid: int | None
    row: Row | None


async def find_key(pool: Pool, collection: Collection, values: tuple[str, ...]) -> Key:
    """Raises FORBIDDEN for what cannot be a key."""
    async with pool.connection() as connection:
        raw = await spelled(connection, collection, values)
    column = collection.key_columns[0]
    if column.type.kind is TypeKind.TIMESTAMPTZ:  # may be written in the time zone of the writer
        patterns = ["%"]
    else:
        member = (member_name(column.name) + bytes(raw[column.name])).decode()
        patterns = [f"%{_escaped(member + end)}%" for end in ",}"]
    return Key(values, key_encoder(collection)(raw), patterns)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


async def read_reach(pool: Pool, schema: str, collection: Collection) -> Reach:
    asked = {"relations": sorted(collection.filenodes), **ours(schema)}
    async with pool.connection() as connection:
        cursor = await connection.execute(statement("queries/log_reach", schema), asked)
        [row] = await cursor.fetchall()
    return Reach(*row)


async def read_row_now(pool: Pool, collection: Collection, key: Key) -> RowNow | None:
    """Read the row with the rights of the role that we connect as. None: it may not read all that is captured."""
    query = statement(
        "queries/row_now",
        columns=joined(", ", [Name(ALIAS, name) for name in collection.names]),
        table=table(collection, ALIAS),
        condition=has_key(collection, key.values),
    )
    try:
        async with pool.connection() as connection:
            cursor = await connection.execute(query, parameters(query))
            [(snapshot, xid, item)] = await cursor.fetchall()
    except errors.InsufficientPrivilege:
        return None
    return RowNow(Snapshot.parse(snapshot), xid, None if item is None else Row(Raw(item.encode())))


async def find_changes(pool: Pool, schema: str, collection: Collection, key: Key, changes_max: int) -> list[Change]:
    """Return the newest changes of the row that the log has, the newest first."""
    found: list[Change] = []
    async with aclosing(_changes(pool, schema, collection, key)) as changes:
        async for change in changes:
            found.append(change)
            if len(found) == changes_max:
                break
    return found


async def _changes(pool: Pool, schema: str, collection: Collection, key: Key) -> AsyncGenerator[Change, None]:
    asked = {"relations": sorted(collection.filenodes), "patterns": key.patterns}
    encode = row_key(collection)
    assert encode is not None
    try:
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(f"{SEARCH_LIMIT_S}s"))
            async with connection.cursor("explain") as cursor:
                cursor.itersize = 1  # one can have a thousand rows
                await cursor.execute(statement("queries/row_history", schema), asked)
                async for written in cursor:
                    for change in _of_key(written, encode, key.encoded):
                        yield change
    except errors.QueryCanceled:
        raise DatabaseError(
            f"looking through the change log took longer than {SEARCH_LIMIT_S} s: try when the server is less busy"
        ) from None
    except PayloadError as error:
        raise DatabaseError(f"the change log cannot be read: {error}") from error


def _of_key(written: Sequence[Any], encode: Any, key: bytes) -> Iterator[Change]:
    """Yield what a row of the log has of the one row."""
    [change] = changes_of([written])
    if change.operation is Operation.TRUNCATE:
        yield change
        return
    for position in range(max(len(change.old), len(change.new))):
        old, new = change.old[position : position + 1], change.new[position : position + 1]
        if any(encode(row) == key for row in (*old, *new)):
            yield change._replace(old=old, new=new)


def tables_of(catalog: Catalog, name: str) -> Collection | None:
    """Return a collection by its name, or by that of its table."""
    by_table = {str(each.relation): each for each in catalog.by_name.values()}
    return catalog.by_name.get(name) or by_table.get(name)
