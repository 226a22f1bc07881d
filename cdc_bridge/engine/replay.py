"""Send subscribers of one collection the changes that they missed, beside the stream.

A replay begins with an `init` without data for each subscriber. The changes follow in the order of the log, while the
topics keep what is new. When all that some snapshot sees has been sent, the stream goes on from there (`meet`).

Theory: many clients come back at once, from about the same position. So the log is read once for all of them, from the
least that one of them has; each change is matched and encoded once, and passed over where a client has it already.

Rule: changes are sent only while the log has no known gap. If a change cannot be decided for a subscriber, it gets
fresh data. Each change advances the client position. A replay never reads the clock or the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import TableIndex, topic_key
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.match import Match, find_matches
from cdc_bridge.engine.order import TransactionOrders
from cdc_bridge.engine.outbox import Entry, in_frames
from cdc_bridge.engine.subscriber import Anchor, Reading, Subscriber
from cdc_bridge.model.change import Change, Operation, Position, Snapshot, common_snapshot, newest_snapshot
from cdc_bridge.model.cursor import ClientPosition, Cursor, going_on
from cdc_bridge.model.errors import Forgotten
from cdc_bridge.model.subscription import Event, EventKind, Subscription

TRANSACTIONS_APART_MAX = 10_000
"""How far apart positions may be that are read together. Policy: others are read separately, so that no client waits
for many changes that it has already.
"""

SUBSCRIBERS_A_TURN = 100
"""Subscribers that are served before the event loop goes round."""


def in_turns(readings: Iterable[Reading]) -> Iterator[Sequence[Reading]]:
    """Yield readings in parts, each for one turn of the event loop."""
    every = list(readings)
    for begin in range(0, len(every), SUBSCRIBERS_A_TURN):
        yield every[begin : begin + SUBSCRIBERS_A_TURN]


def resume(hub: Hub, reading: Reading) -> Reading | None:
    """Open the cursor of a reading and send the `init`. Return the reading of what was missed, or None if the client
    cannot resume.
    """
    subscriber, subscription = reading.subscriber, reading.subscription
    anchor = hub.anchor(subscription.collection.relation_id)
    if reading.after is None:
        return reading if anchor.era.is_lasting and reading.positions[0].era == anchor.era else None
    client_position = hub.open(subscription, reading.after)
    if refusal := _refusal(subscription, client_position, anchor):
        hub.cursors[refusal] += 1
        return None
    assert client_position is not None
    positions = client_position.cursor.positions
    hub.cursors["resumed"] += 1
    subscriber.after = None
    subscriber.push(Event(EventKind.INIT, resumed=True), client_position)
    return subscriber.reading(positions)


def _refusal(subscription: Subscription, client_position: ClientPosition | None, anchor: Anchor) -> str | None:
    """Return why a client cannot resume from a position, in the words of metrics."""
    if not anchor.era.is_lasting:
        return "no_log"
    if client_position is None:
        return "not_ours"  # or given under other rights
    if subscription.related or subscription.query.aggregate is not None:
        return "other_tables"  # its rows show them, or it has figures
    if client_position.cursor.era != anchor.era:
        return "gap"
    return "altered" if client_position.cursor.shape != anchor.shape else None


@dataclass(slots=True, eq=False)
class Resuming:
    """Equal subscriptions with equal `positions`. Each missed change is sent to all of them or to none."""

    subscription: Subscription
    positions: tuple[Position, ...]
    readings: dict[Subscriber, Reading] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    """The entries of the current page, which are about to be sent."""

    @property
    def current(self) -> list[Reading]:
        return [reading for reading in self.readings.values() if reading.is_current]

    @property
    def seen(self) -> Snapshot:
        return newest_snapshot(self.positions)


def grouped(readings: Iterable[Reading]) -> list[Resuming]:
    """Group readings whose subscribers are sent the same. Rights are part of that, since they seal cursors."""
    found: dict[object, Resuming] = {}
    for reading in readings:
        subscription = reading.subscription
        key = topic_key(subscription), subscription.rights, subscription.cursor, reading.positions
        group = found.get(key)
        if group is None:
            group = found[key] = Resuming(subscription, reading.positions)
        group.readings[reading.subscriber] = reading
    return list(found.values())


def together(groups: Sequence[Resuming]) -> tuple[list[Resuming], list[Resuming]]:
    """Divide groups into those that are about as far as the first one, the newest last, and the others."""
    near: list[Resuming] = []
    far: list[Resuming] = []
    for group in groups:
        is_near = abs(group.seen.xmax - groups[0].seen.xmax) <= TRANSACTIONS_APART_MAX
        (near if is_near else far).append(group)
    return sorted(near, key=lambda group: group.seen.xmax), far


def start_anew(hub: Hub, group: Resuming) -> list[Reading]:
    """Return readings of fresh data for a group that cannot go on."""
    readings = [hub.start_anew(reading.subscriber) for reading in group.current]
    group.readings = {}
    group.entries = []
    return readings


class Replay:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, hub: Hub, groups: Sequence[Resuming]) -> None:
        self._hub = hub
        self._groups = groups
        self.collection = hub.collections.newest(groups[0].subscription.collection)
        self._shape = hub.anchor(self.collection.relation_id).shape
        self._era = groups[0].positions[0].era
        self._index: TableIndex[Resuming] = TableIndex()
        for group in groups:
            self._index.add(group.subscription, group)
        key = hub.tables[self.collection.relation_id].key
        self._orders = TransactionOrders(key) if key else None  # as for the stream
        self._emptied_by: int | None = None

    @property
    def positions(self) -> tuple[Position, ...]:
        """Return positions up to which all subscribers have everything."""
        if len(self._groups) == 1:
            return self._groups[0].positions
        return (Position.of(self._era, common_snapshot(group.seen for group in self._groups)),)

    def require_whole(self) -> None:
        """Raise `Forgotten` if the log is known to have a gap."""
        if any(group.positions[0].era != self._hub.era for group in self._groups):
            raise Forgotten("the log has a gap")

    @property
    def is_wanted(self) -> bool:
        """Whether any subscriber still catches up."""
        return any(group.current for group in self._groups)

    def remember(self, earlier: Iterable[Change]) -> None:
        """Note changes that the clients have, of transactions of which more changes follow."""
        if self._orders is not None:
            for change in earlier:
                self._orders.holds(change)

    def matches(self, change: Change, now_us: int) -> list[Match[Resuming]]:
        """Match a change. A TRUNCATE has nothing to match."""
        if change.operation is Operation.TRUNCATE:
            return []
        table, catalog = self._hub.tables[change.relation_id], self._hub.catalog
        return [
            Match(change, table, catalog, now_us, filters.filter, groups=filters.by_context, matches=matches)
            for filters, matches in find_matches(self._index, change, table.key, now_us)
        ]

    def take(self, change: Change, matches: Iterable[Match[Resuming]], upto: Snapshot) -> list[Reading]:
        """Put the events of a missed change, which `upto` sees, into the entries of those that do not have it.

        Return readings of fresh data for those of which they are unknown.
        """
        readings: list[Reading] = []
        for group, events in self._events(change, matches):
            if not group.readings or any(position.has(change.xid, change.seq) for position in group.positions):
                continue
            if events is None:
                readings += start_anew(self._hub, group)
            elif events:
                positions = going_on(group.positions, upto, change.seq)
                cursor = Cursor(self._shape, self._era, positions)
                claim = self._hub.client_position(group.subscription, cursor)
                group.entries += [Entry(0, event, event.cost_bytes, 0) for event in events[:-1]]
                group.entries.append(Entry(0, events[-1], events[-1].cost_bytes, 0, None, claim))
        return readings

    def _events(
        self, change: Change, matches: Iterable[Match[Resuming]]
    ) -> Iterator[tuple[Resuming, tuple[Event, ...] | None]]:
        """Yield the events of each group that has any. None: they are unknown."""
        if change.operation is Operation.TRUNCATE:
            yield from self._truncate(change)
            return
        self._emptied_by = None
        if self._orders is not None and not self._orders.holds(change):
            yield from ((group, None) for group in self._groups)
            return
        for match in matches:
            for group, events in match.events(None):
                for member in group.members:
                    yield member, events

    def _truncate(self, change: Change) -> Iterator[tuple[Resuming, tuple[Event, ...] | None]]:
        if change.relation_id == self.collection.relation_id:
            self._emptied_by = change.xid
            encoder = EventEncoder(change, self._hub.tables[change.relation_id].key)
            yield from ((group, encoder.events(group.subscription)) for group in self._groups)
        elif self._emptied_by != change.xid:
            yield from ((group, None) for group in self._groups)

    def send(self) -> Iterator[list[Reading]]:
        """Send the entries of a page to each subscriber that has room, in turns.

        Yield readings for those without room, which go on alone.
        """
        for group in self._groups:
            entries, group.entries = group.entries, []
            if group.subscription.item is None:
                entries = in_frames(entries, with_cursor=group.subscription.cursor)
            cost_bytes = sum(entry.cost_bytes for entry in entries)
            for some in in_turns(group.readings.values() if entries else ()):
                left: list[Reading] = []
                for reading in some:
                    subscriber = reading.subscriber
                    if not reading.is_current:
                        del group.readings[subscriber]
                    elif subscriber.outbox.has_room_for(cost_bytes):
                        subscriber.push_all(entries, cost_bytes)
                    else:
                        del group.readings[subscriber]
                        left.append(subscriber.reading(group.positions, is_alone=True))
                yield left

    def entries(self) -> Iterator[tuple[Reading, Entry]]:
        """Yield the entries of a page with their readings. Ask for the next one when the last one has been sent."""
        for group in self._groups:
            for entry in group.entries:
                for reading in group.current:
                    yield reading, entry
            group.entries = []

    def advance(self, upto: Snapshot, seq: int) -> None:
        """Note that all changes up to `seq` that `upto` sees have been sent."""
        for group in self._groups:
            group.positions = going_on(group.positions, upto, seq)

    def meet(self, snapshot: Snapshot) -> list[Reading]:
        """Go on with the stream after `snapshot`, all of which has been sent.

        Return readings for those of which more came since than their topic has kept: it has to be read from the log.
        """
        start = Position.of(self._era, snapshot)
        readings: list[Reading] = []
        for group in self._groups:
            if any(position.seen.xmax > snapshot.xmax for position in group.positions):  # a cold copy was put back
                readings += start_anew(self._hub, group)
                continue
            for reading in group.current:
                subscriber = reading.subscriber
                if not self._hub.go_on(subscriber, start):
                    readings.append(subscriber.reading((start,), is_alone=reading.is_alone))
        return readings
