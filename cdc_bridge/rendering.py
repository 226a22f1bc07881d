"""From a change to the events that a subscription gets, each distinct piece of work done once per change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, assert_never

import msgspec

from cdc_bridge import values
from cdc_bridge.catalog import Collection, PgType, TypeKind
from cdc_bridge.change import Change, Operation, Row
from cdc_bridge.cursor import Mark
from cdc_bridge.projection import KeyEncoder, Projection, RowEncoder
from cdc_bridge.subscription import Event, EventKind, Reason, Subscription, Transaction

ENCODERS_MAX = 1000


class Encoders:
    """The compiled encoders of one collection, made on demand. They live as long as its columns do.

    Clients choose projections, so their number has a bound; past it they are made anew.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.key = KeyEncoder(collection).encode if collection.key else None
        self._rows: dict[Projection, Callable[[Row], bytes]] = {}

    def row(self, projection: Projection) -> Callable[[Row], bytes]:
        encode = self._rows.get(projection)
        if encode is None:
            if len(self._rows) >= ENCODERS_MAX:
                self._rows.clear()
            encode = self._rows[projection] = RowEncoder(projection).encode
        return encode


class Rendering:
    """One change, encoded on demand: keys once, rows once per projection. `mark` is what it brings the stream to."""

    def __init__(self, change: Change, encoders: Encoders, mark: Mark | None = None) -> None:
        self._change = change
        self._encoders = encoders
        self._mark = mark
        self._transaction = Transaction(change.xid, change.at)
        self._rows: dict[tuple[Projection, bool], list[bytes]] = {}
        self._keys: dict[bool, list[bytes]] = {}

    def events(self, subscription: Subscription) -> tuple[Event, ...]:
        """What the subscription's `event` and `item` let through, in the order in which it is to be sent."""
        events = [event for event in self._events(subscription) if subscription.wants(event.kind)]
        if events and self._mark is not None:
            events[-1] = events[-1].marked(self._mark)
        return tuple(events)

    def _events(self, subscription: Subscription) -> list[Event]:
        match self._change.operation:
            case Operation.INSERT:
                return self._event(EventKind.CREATE, subscription, self._positions(subscription, of_old=False))
            case Operation.UPDATE:
                return self._update(subscription)
            case Operation.DELETE:
                return self._event(EventKind.DELETE, subscription, self._positions(subscription, of_old=True))
            case Operation.TRUNCATE:
                return self._truncate(subscription)
        assert_never(self._change.operation)

    def _truncate(self, subscription: Subscription) -> list[Event]:
        if subscription.item is not None:
            return [Event(EventKind.DELETE, (subscription.item,), transaction=self._shown(subscription))]
        rows = None if subscription.event else ()
        return [Event(EventKind.INIT, rows, Reason.TRUNCATE, transaction=self._shown(subscription))]

    def _update(self, subscription: Subscription) -> list[Event]:
        """A row that changed its key has gone under the old one and come under the new one."""
        if self._encoders.key is None or self._key_list(of_old=True) == self._key_list(of_old=False):
            return self._event(EventKind.UPDATE, subscription, self._updated(subscription))
        before = self._positions(subscription, of_old=True)
        after = self._positions(subscription, of_old=False)
        keys = zip(self._key_list(of_old=True), self._key_list(of_old=False), strict=True)
        moved = {i for i, (old, new) in enumerate(keys) if old != new}
        return [
            *self._event(EventKind.DELETE, subscription, [i for i in before if i in moved]),
            *self._event(EventKind.CREATE, subscription, [i for i in after if i in moved]),
            *self._event(EventKind.UPDATE, subscription, [i for i in self._updated(subscription) if i not in moved]),
        ]

    def _updated(self, subscription: Subscription) -> Sequence[int]:
        """The rows as they are now, without those that look as before to a client that wants changes only."""
        positions = self._positions(subscription, of_old=False)
        if not subscription.changes_only:
            return positions
        old = self._row_list(subscription.query.projection, of_old=True)
        new = self._row_list(subscription.query.projection, of_old=False)
        return [i for i in positions if old[i] != new[i]]

    def _positions(self, subscription: Subscription, *, of_old: bool) -> Sequence[int]:
        """Which of the rows the subscription is about."""
        images = self._change.old if of_old else self._change.new
        if subscription.item is None:
            return range(len(images))
        return [i for i, key in enumerate(self._key_list(of_old=of_old)) if key == subscription.item]

    def _event(self, kind: EventKind, subscription: Subscription, positions: Sequence[int]) -> list[Event]:
        """The event of these rows, or none when there are none."""
        if not positions:
            return []
        if kind is EventKind.DELETE:
            is_keyed = self._encoders.key is not None
            data = (
                self._key_list(of_old=True) if is_keyed else self._row_list(subscription.query.projection, of_old=True)
            )
        else:
            data = self._row_list(subscription.query.projection, of_old=False)
            positions = _sorted(positions, self._change.new, subscription)
        return [
            Event(
                kind,
                tuple([data[i] for i in positions]),
                old=self._old(kind, subscription, positions),
                transaction=self._shown(subscription),
            )
        ]

    def _old(self, kind: EventKind, subscription: Subscription, positions: Sequence[int]) -> tuple[bytes, ...] | None:
        if not subscription.old or kind is EventKind.CREATE:
            return None
        rows = self._row_list(subscription.query.projection, of_old=True)
        return tuple([rows[i] for i in positions])

    def _shown(self, subscription: Subscription) -> Transaction | None:
        return self._transaction if subscription.tx else None

    def _row_list(self, projection: Projection, *, of_old: bool) -> list[bytes]:
        rows = self._rows.get((projection, of_old))
        if rows is None:
            encode = self._encoders.row(projection)
            rows = [encode(row) for row in (self._change.old if of_old else self._change.new)]
            self._rows[projection, of_old] = rows
        return rows

    def _key_list(self, *, of_old: bool) -> list[bytes]:
        keys = self._keys.get(of_old)
        if keys is None:
            assert self._encoders.key is not None
            keys = [self._encoders.key(row) for row in (self._change.old if of_old else self._change.new)]
            self._keys[of_old] = keys
        return keys


def _sorted(positions: Sequence[int], rows: Sequence[Row], subscription: Subscription) -> Sequence[int]:
    """The rows of one statement as the subscription's `sort` has them.

    Nulls come as PostgreSQL puts them. Text goes by its code points: its collation is the database's own affair,
    and one message is too little to ask it.
    """
    if not subscription.query.sort:
        return positions
    result = list(positions)
    for key in reversed(subscription.query.sort):
        if key.path or key.field.function:
            continue  # what the image does not have
        column = key.field.column
        rank = _number_rank if _is_number(column.type) else _rank
        ranks = {i: rank(bytes(rows[i].get(column.name, values.NULL))) for i in result}
        result.sort(key=ranks.__getitem__, reverse=key.descending)
    return result


def _is_number(type_: PgType) -> bool:
    return type_.kind is TypeKind.QUOTED or type_.name in ("smallint", "integer", "real", "double precision")


def _number_rank(raw: bytes) -> tuple[int, Decimal]:
    """NaN is more than any number, null more than everything."""
    if raw == values.NULL:
        return 2, Decimal()
    number = Decimal(raw.decode().strip('"'))
    return (1, Decimal()) if number.is_nan() else (0, number)


def _rank(raw: bytes) -> tuple[bool, Any]:
    if raw == values.NULL:
        return True, ""
    return False, msgspec.json.decode(raw) if raw[:1] == b'"' else raw.decode()
