"""A client's subscription or read of one collection, the fields that it gets, and the events that answer it.

Most outputs are columns, which every version of a row has. The database has to add the others (`author.name`,
`year(created)`); `table` combines both into one JSON object.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import msgspec

from cdc_bridge.model.catalog import Collection, Column, Reference
from cdc_bridge.model.cursor import EventPosition
from cdc_bridge.model.filter import EVERYTHING, Comparison, Field, Filter, leaves
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext

PROJECTIONS_MAX = 1000
"""Bound of the projections that are remembered, since clients choose them. Policy: the others cost more to compare."""


@dataclass(frozen=True, slots=True)
class SortKey:
    """A field to sort by. `path` leads to its row along foreign keys, from row to row.

    A last step of the path to many rows sorts by the number of these; `field` is the column that they refer to.
    """

    field: Field
    descending: bool = False
    path: tuple[Reference, ...] = ()


def total_order(sort: tuple[SortKey, ...], collection: Collection) -> tuple[SortKey, ...]:
    """Return the sort keys followed by the key of the collection, so that pages do not overlap."""
    named = {key.field.column.name for key in sort if not key.path and key.field.function is None}
    return *sort, *(SortKey(Field(column)) for column in collection.key_columns if column.name not in named)


@dataclass(frozen=True, slots=True)
class Nested:
    """Rows of another collection along a relation: one object or null, or with `reference.is_many` a list.

    `is_bare`: the value of the projection's only output instead of an object. `is_count`: the number of rows instead of
    a list, without a projection. The rest chooses among many rows and sorts them; a `limit` of None is all.
    """

    reference: Reference
    projection: Projection
    is_bare: bool = False
    is_count: bool = False
    filter: Filter = EVERYTHING
    sort: tuple[SortKey, ...] = ()
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """One member of the object that a client gets."""

    name: str
    source: Field | Nested

    @property
    def column(self) -> Column | None:
        """Return the column, if the output is a plain one."""
        source = self.source
        return source.column if isinstance(source, Field) and source.function is None else None


@dataclass(frozen=True, slots=True)
class Projection:
    """The outputs in their order. Equal projections are equal values, so that work can be shared."""

    outputs: tuple[Output, ...]
    is_flat: bool = field(init=False, repr=False, compare=False)
    """Whether every version of a row has all outputs."""
    _hash: int = field(init=False, repr=False, compare=False)
    """Computed once: it is needed with every change."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_flat", all(output.column is not None for output in self.outputs))
        object.__setattr__(self, "_hash", hash(self.outputs))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, columns: Iterable[Column]) -> Projection:
        """Return the projection of these columns under their own names."""
        return cls(tuple(Output(column.name, Field(column)) for column in columns))


Uid: TypeAlias = str | int | float | None
"""A uid as the client sent it. Replies to requests repeat its JSON type; events have it as a string."""

Item: TypeAlias = str | int | float | dict[str, Any]


def uid_text(uid: Uid) -> str | None:
    """Return a uid as events carry it and as it is compared: as a string, like JavaScript's."""
    return uid if uid is None or isinstance(uid, str) else scalar_text(uid)


def scalar_text(value: str | int | float) -> str:
    """Return a value as JavaScript prints it: 7 and 7.0 are `7`, true is `true`, 1e-7 stays `1e-7`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, float):
        return str(value)
    if 1e-6 <= abs(value) < 1e21 or value == 0:
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    mantissa, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
    return f"{mantissa}e{exponent}"


class EventKind(enum.Enum):
    """The kinds of events, by their names in Directus."""

    INIT = "init"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"

    __hash__ = object.__hash__  # that of Enum is written in Python, and each event asks for it


EVERY_EVENT = frozenset({EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE})


class Meta(enum.Enum):
    """Counts beside the data: of the whole collection, or of the rows that match the filter."""

    TOTAL_COUNT = "total_count"
    FILTER_COUNT = "filter_count"


class Overflow(enum.Enum):
    """The policy of a subscription when more than `backlog_bytes_max` waits for its connection."""

    CLOSE = "close"  # the connection is closed
    LATEST = "latest"  # the newest state of each row is kept
    RESYNC = "resync"  # nothing is kept, and fresh data follow when the client reads again


class AggregateFunction(enum.Enum):
    """Functions by their names in Directus. `countAll` and `count` of `*` count rows."""

    COUNT = "count"
    COUNT_DISTINCT = "countDistinct"
    COUNT_ALL = "countAll"
    SUM = "sum"
    SUM_DISTINCT = "sumDistinct"
    AVG = "avg"
    AVG_DISTINCT = "avgDistinct"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Figures instead of rows: `functions` with their fields (None: `*`), for each group of rows that have the same
    fields of `group_by`. A figure is called like its function, and a field of a group like the field.
    """

    functions: tuple[tuple[AggregateFunction, Field | None], ...]
    group_by: tuple[Field, ...] = ()


@lru_cache(PROJECTIONS_MAX)
def _same(projection: Projection) -> Projection:
    """Return one object for equal projections, since to find that two are equal costs much with every change."""
    return projection


@dataclass(frozen=True, slots=True)
class Query:
    """The initial data of a subscription or the answer to a read.

    `limit` counts rows. `limit_is_ours`: the client did not choose it, so the reply says when it cuts the rows.
    `filter` includes `search`, and the conditions of what the client may see. With `aggregate` there are no rows, and
    the projection has no outputs.

    `asked` is the filter without row-level security, None if no policy applies. It is used to read the table, since
    PostgreSQL applies policies itself there, and they may use columns that the reader was not granted.
    """

    projection: Projection
    sort: tuple[SortKey, ...] = ()
    limit: int = 100
    offset: int = 0
    limit_is_ours: bool = False
    filter: Filter = EVERYTHING
    meta: frozenset[Meta] = frozenset()
    aggregate: Aggregate | None = None
    asked: Filter | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "projection", _same(self.projection))

    @property
    def of_table(self) -> Filter:
        """Return the filter with which the table is read."""
        return self.filter if self.asked is None else self.asked


@dataclass(frozen=True, slots=True)
class Subscription:
    """One client's subscription.

    `item` is the encoded key of one row, None for the whole collection; `key` are the same key's values as the client
    sent them. `request` is the raw `query`, kept to be parsed again when the table changes.

    `cursor`, `tx` and `old` are what its messages carry besides. `changes_only` omits updates that change no field of
    the projection. `related` adds updates for changed rows that the projection shows through a relation. `overflow`
    says what happens when too much waits.

    `collection` has only visible columns. `context` says on whose behalf rows are read. `rights` is a digest of what is
    visible: under other rights, the client starts anew. `allowed` are the events that it may receive. `is_guarded`:
    policies or rules hide rows, whatever the client asks for.
    """

    collection: Collection
    query: Query
    event: EventKind | None = None
    item: bytes | None = None
    key: tuple[str, ...] | None = None
    uid: Uid = None
    request: Any = field(default=None, compare=False)
    cursor: bool = False
    tx: bool = False
    old: bool = False
    changes_only: bool = False
    related: bool = False
    overflow: Overflow = Overflow.CLOSE
    context: SecurityContext = BY_ITSELF
    rights: bytes = b""
    allowed: frozenset[EventKind] = EVERY_EVENT
    is_guarded: bool = False
    asked_by: SecurityContext = field(init=False, repr=False, compare=False)
    """The context in which changes are evaluated: that of the bridge where the answer is the same for all."""
    wanted: frozenset[EventKind] = field(init=False, repr=False, compare=False)
    """The kinds of events that it receives."""
    stream_uid: str | None = field(init=False, repr=False, compare=False)
    """The uid of its events."""
    is_plain: bool = field(init=False, repr=False, compare=False)
    """Whether its events have nothing but rows or keys, of all rows that its filter lets through."""

    def __post_init__(self) -> None:
        query = self.query
        is_common = query.projection.is_flat and all(isinstance(leaf, Comparison) for leaf in leaves(query.filter))
        object.__setattr__(self, "asked_by", BY_ITSELF if is_common else self.context)
        delivered = self.allowed if self.event is None else self.allowed & {self.event}
        object.__setattr__(self, "wanted", delivered | {EventKind.INIT})
        object.__setattr__(self, "stream_uid", uid_text(self.uid))
        has_more = self.tx or self.old or self.changes_only or self.item is not None or query.aggregate is not None
        object.__setattr__(self, "is_plain", query.projection.is_flat and not has_more)

    def sees_as(self, other: Subscription) -> bool:
        """Whether the same request shows the same to both."""
        return (self.query, self.rights) == (other.query, other.rights)

    def wants(self, kind: EventKind) -> bool:
        return kind in self.wanted


class Reason(enum.Enum):
    """Why another `init` is sent, or a `delete` of a row that still exists."""

    RESYNC = "resync"  # changes may have been missed
    TRUNCATE = "truncate"  # the table was emptied
    LEAVE = "leave"  # of a delete: the row no longer matches the filter


class Transaction(NamedTuple):
    """The transaction of a change. `at` is when it was written, in microseconds since 1970; 0 if unknown."""

    xid: int
    at: int


class Event(msgspec.Struct):
    """One message of a subscription before it is a frame: rows or keys, each one JSON value.

    `rows` is None for an `init` without data. `more`: a limit of the bridge has cut the rows. `resumed`: the client
    continues from its cursor. `old` are the old versions, in the order of `rows`. `meta` are the counts of an `init`.

    With `stale` it is not a message: rows that match this filter have to be read and sent again. It waits its turn
    among the events, so that what is read is newer than they are.

    `event_position` is the stream's position after its change. Only the last event of a change has one, since before it
    the change is not complete.
    """

    kind: EventKind
    rows: tuple[bytes, ...] | None = None
    reason: Reason | None = None
    more: bool = False
    resumed: bool = False
    old: tuple[bytes, ...] | None = None
    transaction: Transaction | None = None
    meta: tuple[tuple[Meta, int], ...] = ()
    stale: Filter | None = None
    event_position: EventPosition | None = None

    @property
    def cost_bytes(self) -> int:
        """Return the memory that it occupies while it waits, with an allowance for the objects around the data."""
        rows, old = self.rows, self.old
        size_bytes = len(rows[0]) if rows and len(rows) == 1 else sum(map(len, rows or ()))
        return 100 + size_bytes + (sum(map(len, old)) if old else 0)
