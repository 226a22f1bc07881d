"""What one client asked for, in the terms of one collection."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import msgspec

from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.cursor import Mark
from cdc_bridge.model.filter import EVERYTHING, Comparison, Field, Filter, leaves
from cdc_bridge.model.projection import Projection, SortKey
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext

Uid: TypeAlias = str | int | float | None
"""As the client sent it. Requests are answered with the same JSON type; subscriptions talk in strings."""

Item: TypeAlias = str | int | float | dict[str, Any]


def uid_text(uid: Uid) -> str | None:
    """A uid as events carry it and as it is compared: a string, in JavaScript's spelling."""
    return uid if uid is None or isinstance(uid, str) else scalar_text(uid)


def scalar_text(value: str | int | float) -> str:
    """As JavaScript would print it: 7 and 7.0 are `7`, true is `true`, 1e-7 stays `1e-7`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, float):
        return str(value)
    if 1e-6 <= abs(value) < 1e21 or value == 0:
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    mantissa, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
    return f"{mantissa}e{exponent}"


class EventKind(enum.Enum):
    """Directus's words for what happened."""

    INIT = "init"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"

    __hash__ = object.__hash__  # that of Enum is written in Python, and each event asks for it


EVERY_EVENT = frozenset({EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE})


class Meta(enum.Enum):
    """What can be counted besides: the whole collection, or what the filter lets through."""

    TOTAL_COUNT = "total_count"
    FILTER_COUNT = "filter_count"


class AggregateFunction(enum.Enum):
    """Directus's words. `countAll` and `count` of `*` count rows."""

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
    """Figures instead of rows: `functions` with the field they are of (None: `*`), for each group of rows that have
    the fields of `group_by` in common. An output is called like its function, or, grouped by, like its field.
    """

    functions: tuple[tuple[AggregateFunction, Field | None], ...]
    group_by: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """The initial data of a subscription or the answer to a read.

    `limit` counts rows. `limit_is_ours` says that the client did not choose it, so a cut must be told. `filter` holds
    what `search` asks for as well, and what the client may see. With `aggregate` there are no rows, and the projection
    has no outputs.

    `asked` is the filter without what policies of row-level security say, None where they say nothing: where a table is
    read PostgreSQL applies them by itself, and they may ask of columns that the reader was not granted.
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

    @property
    def of_table(self) -> Filter:
        """What rows have to be like where a table is read."""
        return self.filter if self.asked is None else self.asked


@dataclass(frozen=True, slots=True)
class Subscription:
    """`item` is the encoded key of the one row that is followed, or None for the whole collection; `key` are the
    same key's values as the client spelled them.

    `request` is the raw `query`, kept to be judged anew when the table changes.

    `cursor`, `tx` and `old` are what its messages carry besides; `changes_only` leaves out updates that change no field
    of the projection. `related`: also when a row changes that the projection shows through a relation.

    `context` says on whose behalf its rows are read, `rights` is a digest of what may be seen: under other rights,
    nothing that was sent before is to be relied on. `allowed` are the events that it may be told of. `collection`
    has only what may be seen of it. `is_guarded`: not all of its rows may be seen, whatever the client asks for.
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
    context: SecurityContext = BY_ITSELF
    rights: bytes = b""
    allowed: frozenset[EventKind] = EVERY_EVENT
    is_guarded: bool = False
    asked_by: SecurityContext = field(init=False, repr=False, compare=False)
    """For whom the database is asked what changes mean: nobody in particular where all would get one answer."""
    wanted: frozenset[EventKind] = field(init=False, repr=False, compare=False)
    """The events that it is sent."""

    def __post_init__(self) -> None:
        query = self.query
        is_common = query.projection.is_flat and all(isinstance(leaf, Comparison) for leaf in leaves(query.filter))
        object.__setattr__(self, "asked_by", BY_ITSELF if is_common else self.context)
        told = self.allowed if self.event is None else self.allowed & {self.event}
        object.__setattr__(self, "wanted", told | {EventKind.INIT})

    @property
    def stream_uid(self) -> str | None:
        """What its events carry."""
        return uid_text(self.uid)

    def sees_as(self, other: Subscription) -> bool:
        """Whether the same request, with these eyes, shows what it did with those of the other."""
        return (self.query, self.rights) == (other.query, other.rights)

    def wants(self, kind: EventKind) -> bool:
        return kind in self.wanted


class Reason(enum.Enum):
    """Why an `init` came again, or a `delete` although nothing was deleted."""

    RESYNC = "resync"  # changes may have been missed
    TRUNCATE = "truncate"  # the table was emptied
    LEAVE = "leave"  # of a delete: the row is there, but the filter lets it through no more


class Transaction(NamedTuple):
    """Who made a change. `at` is when it was written, in microseconds since 1970; 0 when nobody knows."""

    xid: int
    at: int


class Event(msgspec.Struct):
    """One message of a subscription before it is a frame: rows or keys, each one JSON value.

    `rows` is None for an `init` without data. `more`: a limit of ours has cut the rows. `resumed`: the client goes on
    from its cursor. `old` are the rows as they were, in the order of `rows`.

    `meta` are the counts that `init` carries when they are asked for.

    `stale` makes it no message: rows that this filter lets through are to be read and shown again. It waits its turn
    among the events, so that what is read is newer than they are.

    `mark` is what its change brings the stream to. Of the events of one change only the last has it, since with the
    others not all of the change has been told.
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
    mark: Mark | None = None

    @property
    def cost_bytes(self) -> int:
        """What it occupies while it waits, with something for the objects around the data."""
        return 100 + sum(map(len, self.rows or ())) + sum(map(len, self.old or ()))
