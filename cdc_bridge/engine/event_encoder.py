"""Encode a change as the events of a subscription. Each distinct piece of work is done once per change.

The rows of one event are sorted by the subscription's `sort` as far as memory can: nulls where PostgreSQL puts them,
text by its code points, since only PostgreSQL knows its collation. A key that the rows of a change do not have
(`author.name`, `year(created)`) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from cdc_bridge.engine.filter_index import Matches, Positions
from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.change import Change, Operation
from cdc_bridge.model.cursor import EventPosition
from cdc_bridge.model.encoding import NULL, RowEncoder, RowKey, row_encoder
from cdc_bridge.model.filter import EVERYTHING
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import Event, EventKind, Projection, Reason, SortKey, Subscription, Transaction

EncodingKey: TypeAlias = tuple[Projection, SecurityContext, bool]
"""The outputs, the context that sees them, and whether they are of old rows."""

NestedValues: TypeAlias = Mapping[EncodingKey, Mapping[int, RowValues]]
"""Members of a projection that rows lack (see `table`), by position."""

NO_NESTED_VALUES: NestedValues = {}


_Draft: TypeAlias = tuple[EventKind, Positions, Reason | None]
"""An event before it is encoded: its kind, the rows that it is about, its reason."""


class EventEncoder:
    """Encodes one change on demand: keys once, rows once per projection. `event_position` is the stream's after it."""

    __slots__ = (
        "_change",
        "_event_position",
        "_every",
        "_key",
        "_nested_values",
        "_new_keys",
        "_old_keys",
        "_rekeyed",
        "_some",
    )

    def __init__(
        self,
        change: Change,
        key: RowKey | None,
        event_position: EventPosition | None = None,
        nested_values: NestedValues = NO_NESTED_VALUES,
    ) -> None:
        self._change = change
        self._key = key
        self._event_position = event_position
        self._nested_values = nested_values
        self._every: dict[tuple[RowEncoder, bool], tuple[bytes, ...]] = {}
        self._some: dict[Hashable, dict[int, bytes]] | None = None
        self._old_keys: list[bytes] | None = None
        self._new_keys: list[bytes] | None = None
        self._rekeyed: frozenset[int] | None = None

    def events(self, subscription: Subscription, matches: Matches | None = None) -> tuple[Event, ...]:
        """Return what the subscription's `event` and `item` let through, in the order in which it is to be sent.

        `matches` is what its filter lets through; None: everything.
        """
        operation, _, _, _, _, old, new, *_ = self._change
        if operation is Operation.INSERT and len(new) == 1 and subscription.is_plain:  # most changes: the short way
            if EventKind.CREATE not in subscription.wanted or not (matches is None or matches.new):
                return ()
            rows = self._encode_all(row_encoder(subscription.query.projection), of_old=False)
            return (Event(EventKind.CREATE, rows, event_position=self._event_position),)
        if subscription.query.aggregate is not None:
            return _figures(subscription)
        if operation is Operation.TRUNCATE:
            return self._truncate(subscription)
        if subscription.item is not None:
            matches = self._of_item(subscription.item, matches or self._every_row())
        if old and new:
            return self._updates(subscription, matches)
        kind, written = (EventKind.CREATE, new) if new else (EventKind.DELETE, old)
        matched = matches and (matches.new if new else matches.old)
        positions = range(len(written)) if matched is None or len(matched) == len(written) else matched
        if not positions or kind not in subscription.wanted:
            return ()
        event = self._event(kind, positions, None, subscription, matches)
        event.event_position = self._event_position
        return (event,)

    # --- which events there are ---

    def _truncate(self, subscription: Subscription) -> tuple[Event, ...]:
        transaction = Transaction(self._change.xid, self._change.at) if subscription.tx else None
        if subscription.item is None:
            rows = None if subscription.event else ()
            event = Event(
                EventKind.INIT, rows, Reason.TRUNCATE, transaction=transaction, event_position=self._event_position
            )
        else:
            event = Event(
                EventKind.DELETE, (subscription.item,), transaction=transaction, event_position=self._event_position
            )
        return (event,) if subscription.wants(event.kind) else ()

    def _of_item(self, item: bytes, matches: Matches) -> Matches:
        """Keep the rows with this key."""
        old, new = self._keys_of(of_old=True), self._keys_of(of_old=False)
        return Matches([i for i in matches.old if old[i] == item], [i for i in matches.new if new[i] == item])

    def _every_row(self) -> Matches:
        return Matches(range(len(self._change.old)), range(len(self._change.new)))

    def _updates(self, subscription: Subscription, matches: Matches | None) -> tuple[Event, ...]:
        events = [
            self._event(kind, positions, reason, subscription, matches)
            for kind, positions, reason in self._update_drafts(subscription, matches)
            if positions and kind in subscription.wanted
        ]
        if events:
            events[-1].event_position = self._event_position
        return tuple(events)

    def _update_drafts(self, subscription: Subscription, matches: Matches | None) -> list[_Draft]:
        """A row that changed its key has gone under the old one and come under the new one."""
        rekeyed = self._rekeyed_rows() if subscription.collection.key else frozenset()
        if not rekeyed and matches is None:
            every = range(len(self._change.new))
            if subscription.changes_only:
                return [(EventKind.UPDATE, self._changed(subscription, every, every), None)]
            return [(EventKind.UPDATE, every, None)]
        matches = matches or self._every_row()
        before, after = set(matches.old), set(matches.new)
        one = subscription.item is not None  # its row may have changed its key: the filter does not show that
        gone = [i for i in matches.old if i in rekeyed and (one or i in after)]
        left = [i for i in matches.old if i not in after and not (one and i in rekeyed)]
        come = [i for i in matches.new if i in rekeyed and (one or i in before)]
        still: Positions = [i for i in matches.new if i not in rekeyed or not (one or i in before)]
        if subscription.changes_only:
            still = self._changed(subscription, still, before)
        if subscription.event is not None:  # a client that asks for deletes gets none for rows that are still there
            left = []
        return [
            (EventKind.DELETE, gone, None),
            (EventKind.DELETE, left, Reason.LEAVE),
            (EventKind.CREATE, come, None),
            (EventKind.UPDATE, still, None),
        ]

    def _rekeyed_rows(self) -> frozenset[int]:
        if self._rekeyed is None:
            self._rekeyed = frozenset()
            if self._key is not None:
                old, new = self._keys_of(of_old=True), self._keys_of(of_old=False)
                if old != new:
                    self._rekeyed = frozenset([i for i, key in enumerate(old) if key != new[i]])
        return self._rekeyed

    def _changed(self, subscription: Subscription, positions: Positions, before: Iterable[int]) -> Positions:
        """Leave out the updated rows that look as before to a client that wants changes only, and knew them before."""
        known = sorted(set(before).intersection(positions))
        looked = dict(zip(known, self._rows(subscription, known, of_old=True), strict=True))
        looks = zip(positions, self._rows(subscription, positions, of_old=False), strict=True)
        return [i for i, row in looks if looked.get(i) != row]

    # --- what they carry ---

    def _event(
        self,
        kind: EventKind,
        positions: Positions,
        reason: Reason | None,
        subscription: Subscription,
        matches: Matches | None,
    ) -> Event:
        if kind is EventKind.DELETE:
            rows = self._gone(subscription, positions)
        else:
            if subscription.query.sort and len(positions) > 1:
                positions = _in_order(positions, self._change.new, subscription.query.sort)
            rows = self._rows(subscription, positions, of_old=False)
        event = Event(kind, tuple(rows), reason)
        if subscription.old:
            event.old = self._old(kind, subscription, positions, matches)
        if subscription.tx:
            event.transaction = Transaction(self._change.xid, self._change.at)
        return event

    def _gone(self, subscription: Subscription, positions: Positions) -> Sequence[bytes]:
        """Return keys; the rows as they were where there are none."""
        if not subscription.collection.key:
            return self._rows(subscription, positions, of_old=True)
        keys = self._keys_of(of_old=True)
        return [keys[i] for i in positions]

    def _old(
        self, kind: EventKind, subscription: Subscription, positions: Positions, matches: Matches | None
    ) -> tuple[bytes, ...] | None:
        """Return the rows as they were; null for rows that have entered, if they may not have been visible before."""
        if kind is EventKind.CREATE:
            return None
        rows = self._rows(subscription, positions, of_old=True)
        if kind is EventKind.DELETE or matches is None or not subscription.is_guarded:
            return tuple(rows)
        before = set(matches.old)
        return tuple([row if i in before else NULL for i, row in zip(positions, rows, strict=True)])

    def _keys_of(self, *, of_old: bool) -> list[bytes]:
        """Return the keys of all rows. The collection has a key."""
        assert self._key is not None
        if of_old:
            if self._old_keys is None:
                self._old_keys = list(map(self._key, self._change.old))
            return self._old_keys
        if self._new_keys is None:
            self._new_keys = list(map(self._key, self._change.new))
        return self._new_keys

    def _rows(self, subscription: Subscription, positions: Positions, *, of_old: bool) -> Sequence[bytes]:
        """Return the rows at these positions as the subscription shows them."""
        if not positions:
            return ()
        projection = subscription.query.projection
        encoder = row_encoder(projection)
        rows = self._change.old if of_old else self._change.new
        if not projection.is_flat:
            shown = projection, subscription.asked_by, of_old
            nested_values = self._nested_values[shown]
            return self._encoded(shown, positions, lambda i: encoder.complete(rows[i], nested_values[i]))
        if isinstance(positions, range):
            return self._encode_all(encoder, of_old=of_old)
        if every := self._every.get((encoder, of_old)):
            return [every[i] for i in positions]
        encode = encoder.for_rows_like(rows[0])
        return self._encoded((encoder, of_old), positions, lambda i: encode(rows[i]))

    def _encode_all(self, encoder: RowEncoder, *, of_old: bool) -> tuple[bytes, ...]:
        """Return all rows by a flat projection."""
        every = self._every.get((encoder, of_old))
        if every is None:
            rows = self._change.old if of_old else self._change.new
            every = self._every[encoder, of_old] = tuple(map(encoder.for_rows_like(rows[0]), rows))
        return every

    def _encoded(self, shown: Hashable, positions: Positions, encode: Callable[[int], bytes]) -> list[bytes]:
        if self._some is None:
            self._some = {}
        known = self._some.setdefault(shown, {})
        for i in positions:
            if i not in known:
                known[i] = encode(i)
        return [known[i] for i in positions]


def _figures(subscription: Subscription) -> tuple[Event, ...]:
    """Return an event that makes all figures stale, whatever has changed."""
    return (Event(EventKind.UPDATE, stale=EVERYTHING),) if subscription.wants(EventKind.UPDATE) else ()


def needs_old_rows(subscription: Subscription) -> bool:
    """Return whether the rows as they were are shown, or compared, and not just their keys."""
    return subscription.old or subscription.changes_only or not subscription.collection.key


def _in_order(positions: Sequence[int], rows: Sequence[RowValues], sort: Sequence[SortKey]) -> Sequence[int]:
    """Return the positions of rows, sorted. Equal rows stay as they are."""
    keys = [key for key in sort if not (key.path or key.field.function)]
    if not keys:
        return positions
    result = list(positions)
    for key in reversed(keys):
        column = key.field.column
        rank = _rank(column.type)
        ranks = {i: rank(bytes(rows[i].get(column.name, NULL))) for i in result}
        result.sort(key=ranks.__getitem__, reverse=key.descending)
    return result


def _rank(type_: PgType) -> Callable[[bytes], Any]:
    is_number = type_.kind is TypeKind.QUOTED or type_.name in ("smallint", "integer", "real", "double precision")
    return _number_rank if is_number else _text_rank


def _number_rank(raw: bytes) -> tuple[int, Decimal]:
    """NaN is more than any number, null more than everything."""
    if raw == NULL:
        return 2, Decimal()
    number = Decimal(raw.decode().strip('"'))
    return (1, Decimal()) if number.is_nan() else (0, number)


def _text_rank(raw: bytes) -> tuple[bool, Hashable]:
    if raw == NULL:
        return True, ""
    return False, msgspec.json.decode(raw) if raw[:1] == b'"' else raw.decode()
