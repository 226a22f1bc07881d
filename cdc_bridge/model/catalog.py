"""Collections that clients can subscribe to, with their columns, keys and relations, and the rights of roles on them.

All are facts of the database. A `Catalog` is a value: when the database changes, a new one takes its place.
"""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

from cdc_bridge.model.change import Relation

SHAPE_BYTES = 8


@dataclass(frozen=True, slots=True)
class RowPolicy:
    """A policy for SELECT. `expression` is its condition as PostgreSQL prints it; it uses these `columns`.

    `digest` is another one when the policy, or what it depends on, has changed. `obstacle` is why it cannot be judged
    of a row that is not in the table any more; empty where nothing is known to stand in the way.
    """

    name: str
    expression: str
    columns: tuple[str, ...]
    is_permissive: bool = True
    digest: str = ""
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class TableAccess:
    """The access of one role to one table. `columns` of None are all; with `policies` of None all rows are visible."""

    columns: frozenset[str] | None = None
    policies: tuple[RowPolicy, ...] | None = None


EVERYTHING_THERE = TableAccess()
NO_ACCESS = TableAccess(frozenset(), ())

RoleAccess: TypeAlias = Mapping[int, TableAccess]
"""By the `oid` of a table."""


@dataclass(frozen=True, slots=True)
class Access:
    """The access of all roles that the bridge may take; None is the bridge itself.

    `claim_functions`, by schema and name, give what depends on nothing but the claims of a token.
    """

    roles: Mapping[str | None, RoleAccess] = field(default_factory=dict)
    claim_functions: frozenset[tuple[str, str]] = frozenset()

    def of(self, role: str | None) -> RoleAccess:
        return self.roles.get(role, _NOWHERE)

    def to(self, relation_id: int, role: str | None) -> TableAccess:
        """Return what the role may see of a table. Without a database, the bridge itself may see everything."""
        if role is None and None not in self.roles:
            return EVERYTHING_THERE
        return self.of(role).get(relation_id, NO_ACCESS)


_NOWHERE: RoleAccess = MappingProxyType({})
UNKNOWN = Access()


class TypeKind(enum.Enum):
    """How a value of a type is sent in JSON; see `table`."""

    PLAIN = "plain"  # as PostgreSQL's row_to_json writes it
    QUOTED = "quoted"  # a number that must not lose digits: int8, numeric
    TIMESTAMPTZ = "timestamptz"
    ARRAY = "array"
    COMPOSITE = "composite"


@dataclass(frozen=True, slots=True)
class PgType:
    """A type; of a domain, its base type. `name` is as `format_type` prints it, `labels` are those of an enum."""

    name: str
    kind: TypeKind = TypeKind.PLAIN
    element: PgType | None = None
    fields: tuple[tuple[str, PgType], ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def is_json(self) -> bool:
        return self.name in ("json", "jsonb")


@dataclass(frozen=True, slots=True)
class Collation:
    """How the text of a column compares. `schema` and `name` are empty if the type has no collation.

    `is_deterministic`: equal means the same bytes. `is_bytewise`: it orders by code points, as "C" does.
    `has_plain_ascii`: upper and lower case of ASCII letters are each other's, which is not so in Turkish.
    """

    schema: str = ""
    name: str = ""
    is_deterministic: bool = True
    is_bytewise: bool = False
    has_plain_ascii: bool = True


NO_COLLATION = Collation()


@dataclass(frozen=True, slots=True)
class Column:
    """`number` is PostgreSQL's `attnum`, which survives a rename.

    `is_nullable` only describes a column: it is the same one, with the same rows, when that changes.
    """

    name: str
    number: int
    type: PgType
    collation: Collation = NO_COLLATION
    is_nullable: bool = field(default=True, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)
    """Computed once: every filter and every projection is looked up by its columns."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.name, self.number, self.type, self.collation)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key of one column, seen from one of its ends.

    From the table that has it (`is_many` is false) it leads to the one row that it names and is called like its
    column. From the table that it refers to it leads to all rows that name one, and is called like their collection.
    `column` is of the collection that has this reference, `target_column` of the one with the id `target_id`.
    `short_name` is the name without the schema of the table, if it has one: see `Collection.by_reference`.
    """

    name: str
    column: str
    target_id: int
    target_column: str
    is_many: bool = False
    short_name: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """An attached table as clients know it.

    `filenodes` maps the `oid` of every table that reports under this collection, the table itself and the partitions of
    a partitioned one, to its storage (0 for a partitioned table). `key` names the columns of the primary key, in its
    order; it is empty when there is none, or when a column of it is excluded. `revision` changes when our triggers have
    been recreated, disabled or enabled on any of these tables, when a partition was attached again, or when a virtual
    column computes something else: rows may have changed without a captured change.

    `orders` has the names of the columns of those partitions that have them in another order than the table.

    `durable`: its changes are in the log. `shape` is a digest of all that a position in its changes depends on: while
    it is the same, the rows have changed by captured changes only.

    `references` lead to other collections, or to this one. `by_reference` finds them by their names, and by their short
    names where these name nothing else here.
    """

    name: str
    relation: Relation
    relation_id: int
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    filenodes: Mapping[int, int]
    excluded: frozenset[str] = frozenset()
    revision: str = ""
    durable: bool = False
    references: tuple[Reference, ...] = ()
    orders: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    by_name: Mapping[str, Column] = field(init=False, repr=False, compare=False)
    by_reference: Mapping[str, Reference] = field(init=False, repr=False, compare=False)
    shape: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(column.name for column in self.columns))
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})
        object.__setattr__(self, "by_reference", _by_reference(self.references, self.by_name))
        object.__setattr__(self, "shape", _shape(self))

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.by_name[name] for name in self.key)

    def order(self, relation_id: int) -> tuple[str, ...]:
        """Return the names of the columns in the order of the changes of one of its tables."""
        return self.orders.get(relation_id, self.names)

    def reads_as(self, other: Collection) -> bool:
        """Whether a row of this collection means the same to a client as a row of `other`."""
        return (self.relation_id, self.columns, self.key) == (other.relation_id, other.columns, other.key)


def _by_reference(references: Sequence[Reference], columns: Container[str]) -> dict[str, Reference]:
    found = {reference.name: reference for reference in references}
    short = Counter(reference.short_name for reference in references)
    for reference in references:
        name = reference.short_name
        if name and short[name] == 1 and name not in columns:
            found.setdefault(name, reference)
    return found


def _shape(collection: Collection) -> bytes:
    """Return a short hash, since every cursor contains it. It is the same on every bridge of the database."""
    facts = (
        collection.relation_id,
        collection.columns,
        collection.key,
        collection.revision,
        sorted(collection.filenodes.items()),
        sorted(collection.excluded),
    )
    return hashlib.blake2b(repr(facts).encode(), digest_size=SHAPE_BYTES).digest()


class Catalog:
    """The collections by name and by the `oid` of every table that reports under them, and the access of roles."""

    def __init__(self, collections: Iterable[Collection] = (), access: Access = UNKNOWN) -> None:
        self.access = access
        self.by_name: dict[str, Collection] = {c.name: c for c in collections}
        self.by_relation_id: dict[int, Collection] = {
            relation_id: c for c in self.by_name.values() for relation_id in c.filenodes
        }

    def siblings(self, relation_id: int) -> frozenset[int]:
        """Return all tables that report under the same collection as this one."""
        collection = self.by_relation_id.get(relation_id)
        return frozenset({relation_id} if collection is None else collection.filenodes)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Catalog)
            and (self.by_name, self.access) == (other.by_name, other.access)
            and self._nullable() == other._nullable()
        )

    def _nullable(self) -> list[list[bool]]:
        """Return what columns, and so collections, do not compare by."""
        return [[column.is_nullable for column in collection.columns] for collection in self.by_name.values()]

    __hash__ = None  # type: ignore[assignment]  # it is compared, never a key


def with_children(collections: Iterable[Collection], names: Mapping[str, str]) -> list[Collection]:
    """Return the collections with relations to the rows that refer to them.

    Children are called like their collection, or as `names` says: `{"messages.author": "posts"}`. Where several
    foreign keys of one collection lead to another, each needs a name of its own there: `messages_by_author`. A name
    that a column has is not taken. The children `app.projects` have the short name `projects`.
    """
    known = list(collections)
    children: dict[int, list[Reference]] = {collection.relation_id: [] for collection in known}
    for child in known:
        targets = [reference.target_id for reference in child.references if not reference.is_many]
        for own in child.references:
            if own.is_many or own.target_id not in children:
                continue
            usual = child.name if targets.count(own.target_id) == 1 else f"{child.name}_by_{own.column}"
            name = names.get(f"{child.name}.{own.column}", usual)
            bare = name.removeprefix(f"{child.relation.schema}.")
            short = bare if bare != name else ""
            many = Reference(name, own.target_column, child.relation_id, own.column, is_many=True, short_name=short)
            children[own.target_id].append(many)
    complete = []
    for collection in known:
        references = {own.name: own for own in collection.references if not own.is_many and own.target_id in children}
        for many in children[collection.relation_id]:
            if many.name not in collection.by_name:
                references.setdefault(many.name, many)
        complete.append(replace(collection, references=tuple(references.values())))
    return complete


def collection_name(relation: Relation) -> str:
    """Return `messages` for `public.messages`; other names keep their schema."""
    return relation.name if relation.schema == "public" else str(relation)
