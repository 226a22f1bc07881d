"""From a change to the events that a subscription gets, each distinct piece of work done once per change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from cdc_bridge.engine.sorting import in_order
from cdc_bridge.model import values
from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.change import Change, Operation, Row
from cdc_bridge.model.cursor import Mark
from cdc_bridge.model.filter import EVERYTHING
from cdc_bridge.model.projection import KeyEncoder, Projection, RowEncoder
from cdc_bridge.model.security_context import BY_ITSELF, SecurityContext
from cdc_bridge.model.subscription import Event, EventKind, Reason, Subscription, Transaction

ENCODERS_MAX = 1000

Positions: TypeAlias = Sequence[int]
"""Which rows of a change, in their order."""

Shown: TypeAlias = tuple[Projection, SecurityContext, bool]
"""What is shown, to whom, and whether of rows as they were."""

Completions: TypeAlias = Mapping[Shown, Mapping[int, Row]]
"""What images lack of a projection (see `projection`), by position."""

NO_COMPLETIONS: Completions = {}


@dataclass(frozen=True, slots=True)
class Matches:
    """The rows that a filter lets through: as they were, and as they are now."""

    old: Positions
    new: Positions
    is_every_row: bool = False

    @classmethod
    def every_row(cls, change: Change) -> Matches:
        return cls(range(len(change.old)), range(len(change.new)), is_every_row=True)


class Encoders:
    """The compiled encoders of one collection, made on demand. They live as long as its columns do.

    Clients choose projections, so their number has a bound; past it they are made anew.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.key = KeyEncoder(collection).encode if collection.key else None
        self._rows: dict[Projection, RowEncoder] = {}

    def row(self, projection: Projection) -> RowEncoder:
        encoder = self._rows.get(projection)
        if encoder is None:
            if len(self._rows) >= ENCODERS_MAX:
                self._rows.clear()
            encoder = self._rows[projection] = RowEncoder(projection)
        return encoder


class Rendering:
    """One change, encoded on demand: keys once, rows once per projection. `mark` is what it brings the stream to."""

    def __init__(
        self, change: Change, encoders: Encoders, mark: Mark | None = None, completions: Completions = NO_COMPLETIONS
    ) -> None:
        self._change = change
        self._encoders = encoders
        self._mark = mark
        self._completions = completions
        self._rows: dict[Shown, Callable[[int], bytes]] = {}
        self._keys: dict[bool, list[bytes]] = {}
        self._moved: frozenset[int] | None = None

    def keys(self, *, of_old: bool) -> list[bytes]:
        """Those of all rows, encoded. The collection has a key."""
        keys = self._keys.get(of_old)
        if keys is None:
            assert self._encoders.key is not None
            keys = [self._encoders.key(row) for row in (self._change.old if of_old else self._change.new)]
            self._keys[of_old] = keys
        return keys

    def events(self, subscription: Subscription, matches: Matches | None = None) -> tuple[Event, ...]:
        """What the subscription's `event` and `item` let through, in the order in which it is to be sent.

        `matches` is what its filter does; None: everything.
        """
        if subscription.query.aggregate is not None:
            return _figures(subscription)
        found = self._events(subscription, self._of_item(subscription, matches or Matches.every_row(self._change)))
        events = [event for event in found if _wants(subscription, event)]
        if events and self._mark is not None:
            events[-1] = events[-1].marked(self._mark)
        return tuple(events)

    def _of_item(self, subscription: Subscription, matches: Matches) -> Matches:
        """Of these rows those that an `item` subscription is about."""
        if subscription.item is None or self._change.operation is Operation.TRUNCATE:
            return matches
        return Matches(
            [i for i in matches.old if self.keys(of_old=True)[i] == subscription.item],
            [i for i in matches.new if self.keys(of_old=False)[i] == subscription.item],
        )

    def _events(self, subscription: Subscription, matches: Matches) -> Iterable[Event]:
        match self._change.operation:
            case Operation.INSERT:
                return self._event(EventKind.CREATE, subscription, matches.new)
            case Operation.UPDATE:
                return self._update(subscription, matches)
            case Operation.DELETE:
                return self._event(EventKind.DELETE, subscription, matches.old)
            case Operation.TRUNCATE:
                return self._truncate(subscription)
        assert_never(self._change.operation)

    def _truncate(self, subscription: Subscription) -> list[Event]:
        if subscription.item is not None:
            return [Event(EventKind.DELETE, (subscription.item,), transaction=self._shown(subscription))]
        rows = None if subscription.event else ()
        return [Event(EventKind.INIT, rows, Reason.TRUNCATE, transaction=self._shown(subscription))]

    def _update(self, subscription: Subscription, matches: Matches) -> list[Event]:
        """A row that changed its key has gone under the old one and come under the new one."""
        moved = self._moved_rows() if subscription.collection.key else frozenset()
        if not moved and matches.is_every_row:
            return self._event(EventKind.UPDATE, subscription, self._changed(subscription, matches.new, matches.new))
        before, after = set(matches.old), set(matches.new)
        one = subscription.item is not None  # its row has another key, or had one: that is not a matter of the filter
        gone = [i for i in matches.old if i in moved and (one or i in after)]
        left = [i for i in matches.old if i not in after and not (one and i in moved)]
        come = [i for i in matches.new if i in moved and (one or i in before)]
        still = [i for i in matches.new if i not in moved or not (one or i in before)]
        return [
            *self._event(EventKind.DELETE, subscription, gone),
            *self._event(EventKind.DELETE, subscription, left, Reason.LEAVE),
            *self._event(EventKind.CREATE, subscription, come),
            *self._event(EventKind.UPDATE, subscription, self._changed(subscription, still, before), before=before),
        ]

    def _moved_rows(self) -> frozenset[int]:
        if self._moved is None:
            self._moved = frozenset()
            if self._encoders.key is not None and self.keys(of_old=True) != self.keys(of_old=False):
                keys = zip(self.keys(of_old=True), self.keys(of_old=False), strict=True)
                self._moved = frozenset(i for i, (old, new) in enumerate(keys) if old != new)
        return self._moved

    def _changed(self, subscription: Subscription, positions: Positions, before: Iterable[int]) -> Positions:
        """Without those that look as before to a client that wants changes only, and that it knew before."""
        if not subscription.changes_only:
            return positions
        known = set(before)
        old = self._row(subscription, of_old=True)
        new = self._row(subscription, of_old=False)
        return [i for i in positions if i not in known or old(i) != new(i)]

    def _event(
        self,
        kind: EventKind,
        subscription: Subscription,
        positions: Positions,
        reason: Reason | None = None,
        before: Set[int] | None = None,
    ) -> list[Event]:
        """The event of these rows, or none when there are none. `before`: those that were let through, if not all."""
        if not positions:
            return []
        if kind is EventKind.DELETE:
            data = self._gone(subscription, positions)
        else:
            positions = in_order(positions, self._change.new, subscription.query.sort)
            data = list(map(self._row(subscription, of_old=False), positions))
        old = self._old(kind, subscription, positions, before)
        return [Event(kind, tuple(data), reason, old=old, transaction=self._shown(subscription))]

    def _gone(self, subscription: Subscription, positions: Positions) -> list[bytes]:
        """Keys; the rows as they were where there are none."""
        if not subscription.collection.key:
            return list(map(self._row(subscription, of_old=True), positions))
        keys = self.keys(of_old=True)
        return [keys[i] for i in positions]

    def _old(
        self, kind: EventKind, subscription: Subscription, positions: Positions, before: Set[int] | None
    ) -> tuple[bytes, ...] | None:
        """Of rows that have entered nothing, where it may be that they could not be seen before."""
        if not subscription.old or kind is EventKind.CREATE:
            return None
        row = self._row(subscription, of_old=True)
        if before is None or not subscription.is_guarded:
            return tuple(map(row, positions))
        return tuple([row(i) if i in before else values.NULL for i in positions])

    def _shown(self, subscription: Subscription) -> Transaction | None:
        return Transaction(self._change.xid, self._change.at) if subscription.tx else None

    def _row(self, subscription: Subscription, *, of_old: bool) -> Callable[[int], bytes]:
        """Encodes the row at a position, once. What images have of it looks the same to all."""
        projection = subscription.query.projection
        shown = projection, BY_ITSELF if projection.is_flat else subscription.asked_by, of_old
        row = self._rows.get(shown)
        if row is None:
            row = self._rows[shown] = self._encoding(shown)
        return row

    def _encoding(self, shown: Shown) -> Callable[[int], bytes]:
        projection, _, of_old = shown
        encoder = self._encoders.row(projection)
        images = self._change.old if of_old else self._change.new
        encoded: dict[int, bytes] = {}

        def row(position: int) -> bytes:
            found = encoded.get(position)
            if found is None:
                image = images[position]
                if projection.is_flat:
                    found = encoder.encode(image)
                else:
                    found = encoder.complete(image, self._completions[shown][position])
                encoded[position] = found
            return found

        return row


def _figures(subscription: Subscription) -> tuple[Event, ...]:
    """Whatever has changed, they have to be worked out anew."""
    return (Event(EventKind.UPDATE, stale=EVERYTHING),) if subscription.wants(EventKind.UPDATE) else ()


def needs_old_rows(subscription: Subscription) -> bool:
    """Whether the rows as they were are shown, or compared, and not just their keys."""
    return subscription.old or subscription.changes_only or not subscription.collection.key


def _wants(subscription: Subscription, event: Event) -> bool:
    """Who asked for deletes only did not ask to be told of rows that are still there."""
    return subscription.wants(event.kind) and not (event.reason is Reason.LEAVE and subscription.event is not None)
