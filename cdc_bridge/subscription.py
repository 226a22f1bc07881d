"""What one client asked for, in the terms of one collection."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from cdc_bridge.catalog import Collection
from cdc_bridge.cursor import Mark
from cdc_bridge.projection import Projection

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


@dataclass(frozen=True, slots=True)
class SortKey:
    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """The initial data of a subscription or the answer to a read.

    `limit` counts rows. `limit_is_ours` says that the client did not choose it, so a cut must be told.
    """

    projection: Projection
    sort: tuple[SortKey, ...] = ()
    limit: int = 100
    offset: int = 0
    limit_is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """`item` is the encoded key of the one row that is followed, or None for the whole collection; `key` are the
    same key's values as the client spelled them.

    `request` is the raw `query`, kept to be judged anew when the table changes.

    `cursor`, `tx` and `old` are what its messages carry besides; `changes_only` leaves out updates that change no field
    of the projection.
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

    @property
    def stream_uid(self) -> str | None:
        """What its events carry."""
        return uid_text(self.uid)

    def wants(self, kind: EventKind) -> bool:
        return self.event is None or kind is self.event or kind is EventKind.INIT


class Reason(enum.Enum):
    """Why an `init` came again."""

    RESYNC = "resync"  # changes may have been missed
    TRUNCATE = "truncate"  # the table was emptied


@dataclass(frozen=True, slots=True)
class Transaction:
    """Who made a change. `at` is when it was written, in microseconds since 1970; 0 when nobody knows."""

    xid: int
    at: int


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a subscription before it is a frame: rows or keys, each one JSON value.

    `rows` is None for an `init` without data. `more`: a limit of ours has cut the rows. `resumed`: the client goes on
    from its cursor. `old` are the rows as they were, in the order of `rows`.

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
    mark: Mark | None = field(default=None, compare=False)

    def marked(self, mark: Mark) -> Event:
        """The same event with its mark."""
        return Event(self.kind, self.rows, self.reason, self.more, self.resumed, self.old, self.transaction, mark)

    @property
    def cost_bytes(self) -> int:
        """What it occupies while it waits, with something for the objects around the data."""
        return 100 + sum(map(len, self.rows or ())) + sum(map(len, self.old or ()))
