"""The catalog as the database has it, and a fingerprint that tells cheaply when it has changed.

The sessions that this reads through have been prepared, see `session`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row

from cdc_bridge.admin.mode import PARTITION_PREFIX, ours
from cdc_bridge.model.catalog import (
    NO_COLLATION,
    Catalog,
    Collation,
    Collection,
    Column,
    PgType,
    Reference,
    TypeKind,
    collection_name,
)
from cdc_bridge.model.change import Relation
from cdc_bridge.model.errors import NotInstalled
from cdc_bridge.statements import TypedQuery, statement

_KINDS = {
    "bigint": TypeKind.QUOTED,
    "numeric": TypeKind.QUOTED,
    "timestamp with time zone": TypeKind.TIMESTAMPTZ,
}


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
    columns: list[tuple[str, int, int, int, bool]]
    key: list[str]
    references: list[tuple[str, int, str]]
    filenodes: list[tuple[int, int]]
    orders: list[tuple[int, tuple[str, ...]]]
    revision: str
    durable: bool


_decode_types = msgspec.json.Decoder(list[_TypeRow]).decode
_decode_collations = msgspec.json.Decoder(list[dict[str, Any]]).decode
_decode_collections = msgspec.json.Decoder(list[_CollectionRow]).decode


async def read_catalog(conn: AsyncConnection[Any], schema: str) -> Catalog:
    """Read all attached tables, with their foreign keys. Raises `NotInstalled`."""
    collections, types, collations = await fetch(conn, "queries/catalog", schema)
    kinds = _Kinds(
        {row.oid: row for row in _decode_types(types)},
        {row.pop("oid"): Collation(**row) for row in _decode_collations(collations)},
    )
    return Catalog(_collection(row, kinds) for row in _decode_collections(collections))


async def fingerprint(conn: AsyncConnection[Any], schema: str) -> str:
    """Return a text, cheaply, that differs whenever tables, rights or triggers may differ.

    Raises `NotInstalled`.
    """
    (found,) = await fetch(conn, "queries/fingerprint", schema)
    return found


async def fetch(conn: AsyncConnection[Any], query: str, schema: str, **parameters: Any) -> tuple[str, ...]:
    """Return the one row of a query about attached tables. Raises `NotInstalled` if our schema is not there."""
    named = {**ours(schema), "partition_prefix": PARTITION_PREFIX, **parameters}
    rows = await TypedQuery(_query(query, schema), named, tuple_row).all_async(conn)
    if not rows:
        raise NotInstalled(schema)
    return tuple(map(str, rows[0]))


@cache
def _query(name: str, schema: str) -> sql.Composed:
    dependencies = statement("queries/dependencies", None, leads_to=statement("queries/leads_to"))
    return statement(name, schema, reporting=statement("queries/reporting", schema), dependencies=dependencies)


PARTS_MAX = 1000
DEPTH_MAX = 50


@dataclass(slots=True)
class _Kinds:
    """Types and collations by their `oid`. Types are built when they are first asked for.

    Bound: `PARTS_MAX` types in one, counted as often as they occur there, and `DEPTH_MAX` levels of them. Policy: what
    exceeds this is a plain type, whose values are sent as PostgreSQL writes them. Twenty types, each with two fields of
    the one before, have a million parts, and anybody who owns a table can give it a column of such a type.
    """

    rows: Mapping[int, _TypeRow]
    collations: Mapping[int, Collation]
    known: dict[int, PgType] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)
    depth: int = 0

    def column(self, name: str, number: int, type_oid: int, collation_oid: int, is_nullable: bool) -> Column:
        return Column(name, number, self.type(type_oid), self.collations.get(collation_oid, NO_COLLATION), is_nullable)

    def type(self, oid: int) -> PgType:
        if oid not in self.known:
            # A type inside of itself, which PostgreSQL tries to forbid, ends here as plain.
            row = self.rows[oid]
            self.known[oid], self.parts[oid] = PgType(row.name), 1
            if self.depth < DEPTH_MAX:
                self.depth += 1
                built = self._build(row)
                self.depth -= 1
                inner = [row.base or row.element] if row.base or row.element else [each for _, each in row.fields]
                parts = 1 + sum(self.parts[each] for each in inner)
                if parts <= PARTS_MAX:
                    self.known[oid], self.parts[oid] = built, parts
        return self.known[oid]

    def _build(self, row: _TypeRow) -> PgType:
        if row.base:
            return self.type(row.base)
        if row.element:
            return PgType(row.name, TypeKind.ARRAY, element=self.type(row.element))
        if row.fields:
            fields = tuple([(name, self.type(oid)) for name, oid in row.fields])
            return PgType(row.name, TypeKind.COMPOSITE, fields=fields)
        return PgType(row.name, _KINDS.get(row.name, TypeKind.PLAIN), labels=tuple(row.labels))


def _collection(row: _CollectionRow, kinds: _Kinds) -> Collection:
    relation = Relation(row.schema, row.name)
    columns = tuple(kinds.column(*column) for column in row.columns)
    references = {own: Reference(own, own, target_id, target) for own, target_id, target in reversed(row.references)}
    is_whole = {column.name for column in columns}.issuperset(row.key)
    return Collection(
        name=collection_name(relation),
        relation=relation,
        relation_id=row.oid,
        columns=columns,
        key=tuple(row.key) if is_whole else (),
        filenodes=dict(row.filenodes),
        orders=dict(row.orders),
        excluded=frozenset(row.excluded),
        revision=row.revision,
        durable=row.durable,
        references=tuple(references.values()),
    )
