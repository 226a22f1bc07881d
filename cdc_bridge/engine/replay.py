"""Send a subscriber the changes that it missed, beside the stream.

A replay begins with an `init` without data. The changes follow in the order of the log, while the topic keeps what is
new. When all that some snapshot sees has been sent, the stream goes on from there (`meet`).

Rule: changes are sent only while `is_whole`. As soon as one cannot be decided, the subscriber gets fresh data. Each
change advances its client position. A replay never reads the clock or the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import FilterGroup, Group
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.match import Match
from cdc_bridge.engine.order import TransactionOrders
from cdc_bridge.engine.subscriber import Anchor, Reading, Subscriber
from cdc_bridge.model.change import Change, Operation, Position, Snapshot
from cdc_bridge.model.cursor import ClientPosition, Cursor, going_on
from cdc_bridge.model.subscription import Event, EventKind
from cdc_bridge.query.operands import RowVersions


@dataclass(slots=True, eq=False)
class Replay:
    """See the module's docstring. `positions`: what was sent. `_orders` and `_emptied_by` are as for the stream."""

    hub: Hub
    reading: Reading
    anchor: Anchor
    positions: tuple[Position, ...]
    _filters: FilterGroup[Subscriber]
    _orders: TransactionOrders | None
    _emptied_by: int | None = None

    @classmethod
    def begin(cls, hub: Hub, reading: Reading) -> Replay | None:
        """Begin at the subscriber's cursor. Return None if it cannot be used."""
        subscriber = reading.subscriber
        relation_id = subscriber.subscription.collection.relation_id
        anchor = hub.anchor(relation_id)
        cursor = hub.open(subscriber, reading.after or "")
        if cursor is None or not anchor.era.is_lasting or (cursor.era, cursor.shape) != (anchor.era, anchor.shape):
            return None
        if subscriber.subscription.related or subscriber.subscription.query.aggregate is not None:
            return None  # its rows contain other tables, or it has figures
        subscriber.after = None
        key = hub.tables[relation_id].key
        subscriber.push(Event(EventKind.INIT, resumed=True), hub.client_position(subscriber, cursor))
        filters: FilterGroup[Subscriber] = FilterGroup(subscriber.subscription.query.filter)
        filters.put(Group(subscriber.subscription))
        return cls(
            hub, subscriber.reading(), anchor, cursor.positions, filters, TransactionOrders(key) if key else None
        )

    @property
    def subscriber(self) -> Subscriber:
        return self.reading.subscriber

    @property
    def is_whole(self) -> bool:
        """Whether the subscriber still catches up, and the log has no known gap."""
        return self.reading.is_current and self.hub.era == self.anchor.era

    def remember(self, earlier: Iterable[Change]) -> None:
        """Note changes that the client has, of transactions of which more changes follow."""
        if self._orders is not None:
            for change in earlier:
                self._orders.holds(change)

    def match(self, change: Change, now_us: int) -> Match[Subscriber] | None:
        """Match a change. Return None if no row can match, or the table was emptied."""
        if change.operation is Operation.TRUNCATE:
            return None
        table, filters = self.hub.tables[change.relation_id], self._filters
        matches = None
        if not filters.is_everything:
            rows = *change.old, *change.new
            matches = filters.match(RowVersions(rows, now_us), range(len(rows)), len(change.old))
            if matches is None:
                return None
        groups = filters.by_context
        return Match(change, table, self.hub.catalog, now_us, filters.filter, groups=groups, matches=matches)

    def events_of(
        self, change: Change, match: Match[Subscriber] | None, upto: Snapshot
    ) -> list[tuple[Event, ClientPosition | None]] | None:
        """Return the events of a missed change, which `upto` sees; None if the subscriber needs fresh data."""
        collection = self.hub.catalog.by_relation_id[change.relation_id]
        self.positions = going_on(self.positions, upto, change.seq)
        if change.operation is not Operation.TRUNCATE:
            self._emptied_by = None
            if self._orders is not None and not self._orders.holds(change):
                return None
        elif change.relation_id == collection.relation_id:
            self._emptied_by = change.xid
        else:
            return [] if self._emptied_by == change.xid else None
        client_position = self.hub.client_position(
            self.subscriber, Cursor(self.anchor.shape, self.anchor.era, self.positions)
        )
        events: tuple[Event, ...] | None = ()
        if change.operation is Operation.TRUNCATE:
            events = EventEncoder(change, self.hub.tables[change.relation_id].key).events(self.subscriber.subscription)
        elif match is not None:
            _, events = next(match.events(None), (None, ()))
        if events is None:
            return None
        return [(event, client_position if event is events[-1] else None) for event in events]

    def meet(self, snapshot: Snapshot) -> bool:
        """Go on with the stream after `snapshot`, all of which has been sent.

        Return False if more came since than the topic has kept: it has to be read from the log too.
        """
        start = Position.of(self.anchor.era, snapshot)
        self.positions = (start,)
        if self.hub.go_on(self.subscriber, start):
            return True
        self.reading = self.subscriber.awaited or self.reading
        return False
