"""The catalog as the database has it, and a fingerprint that tells cheaply when it has changed.

The sessions that this reads through have been prepared, see `session`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row

from cdc_bridge.catalog import Catalog, Collection, Column, PgType, TypeKind, collection_name
from cdc_bridge.change import Relation
from cdc_bridge.errors import NotInstalled
from cdc_bridge.schema.tables import PARTITION_PREFIX, ours
from cdc_bridge.statements import statement

_QUOTED = {"bigint", "numeric"}


class _TypeRow(msgspec.Struct):
    oid: int
    name: str
    base: int
    element: int
    fields: list[tuple[str, int]]
    labels: list[str]


class _CollectionRow(msgspec.Struct):
    oid: int
    schema: str
    name: str
    excluded: list[str]
    columns: list[tuple[str, int, int]]
    key: list[str]
    filenodes: list[tuple[int, int]]
    revision: str
    durable: bool


_decode_types = msgspec.json.Decoder(list[_TypeRow]).decode
_decode_collections = msgspec.json.Decoder(list[_CollectionRow]).decode


async def read_catalog(conn: AsyncConnection[Any], schema: str) -> Catalog:
    """Every attached table. Raises `NotInstalled`."""
    collections, types = await _fetch(conn, "queries/catalog", schema)
    by_oid = {row.oid: row for row in _decode_types(types)}
    known: dict[int, PgType] = {}
    return Catalog(_collection(row, by_oid, known) for row in _decode_collections(collections))


async def fingerprint(conn: AsyncConnection[Any], schema: str) -> str:
    """Changes whenever `read_catalog` would return something else. Raises `NotInstalled`."""
    (found,) = await _fetch(conn, "queries/fingerprint", schema)
    return found


async def _fetch(conn: AsyncConnection[Any], query: str, schema: str) -> tuple[str, ...]:
    """The one row of a query; neither query has any where there is no schema of ours."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_query(query, schema), {**ours(schema), "partition_prefix": PARTITION_PREFIX})
        row = await cursor.fetchone()
    if row is None:
        raise NotInstalled(schema)
    return tuple(map(str, row))


@cache
def _query(name: str, schema: str) -> sql.Composed:
    return statement(name, schema, reporting=statement("queries/reporting", schema))


def _collection(row: _CollectionRow, types: Mapping[int, _TypeRow], known: dict[int, PgType]) -> Collection:
    relation = Relation(row.schema, row.name)
    columns = tuple(Column(name, number, _type(oid, types, known)) for name, number, oid in row.columns)
    is_whole = {column.name for column in columns}.issuperset(row.key)
    return Collection(
        name=collection_name(relation),
        relation=relation,
        relation_id=row.oid,
        columns=columns,
        key=tuple(row.key) if is_whole else (),
        filenodes=dict(row.filenodes),
        excluded=frozenset(row.excluded),
        revision=row.revision,
        durable=row.durable,
    )


def _type(oid: int, types: Mapping[int, _TypeRow], known: dict[int, PgType]) -> PgType:
    if oid not in known:
        # A type inside of itself, which PostgreSQL tries to forbid, ends here as plain.
        known[oid] = PgType(types[oid].name)
        known[oid] = _build(types[oid], types, known)
    return known[oid]


def _build(row: _TypeRow, types: Mapping[int, _TypeRow], known: dict[int, PgType]) -> PgType:
    if row.base:
        return _type(row.base, types, known)
    if row.element:
        return PgType(row.name, TypeKind.ARRAY, element=_type(row.element, types, known))
    if row.fields:
        fields = tuple((name, _type(oid, types, known)) for name, oid in row.fields)
        return PgType(row.name, TypeKind.COMPOSITE, fields=fields)
    if row.name in _QUOTED:
        return PgType(row.name, TypeKind.QUOTED)
    if row.name == "timestamp with time zone":
        return PgType(row.name, TypeKind.TIMESTAMPTZ)
    return PgType(row.name, labels=tuple(row.labels))
