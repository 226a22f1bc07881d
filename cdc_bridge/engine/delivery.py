"""From feeds to outlets: what subscribers are told, once their feeds let it pass.

Rule: an event goes to the outlet, with the receipt of what has been told by then. Rows that have become stale are no
event, and wait until somebody reads them (`stale`). Who is held is told nothing before its data have been read anew,
and what was stale for it is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

from cdc_bridge.engine.feed import Phase
from cdc_bridge.engine.seals import Seals
from cdc_bridge.engine.stale import Stale
from cdc_bridge.engine.subscriber import Anchor, Reading, Subscriber
from cdc_bridge.model.change import Change, Position, Snapshot
from cdc_bridge.model.cursor import Cursor, Mark, Receipt, Seal
from cdc_bridge.model.subscription import Event, EventKind, Reason
from cdc_bridge.ports import InitialData


class Delivery:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self) -> None:
        self.stale = Stale()
        self.seals = Seals()
        self._meeting: dict[Subscriber, None] = {}

    # --- receipts of what clients have been told ---

    def receipt(self, subscriber: Subscriber, cursor: Cursor) -> Receipt | None:
        """None for those who did not ask for cursors."""
        return Receipt(self._seal_of(subscriber), cursor) if subscriber.subscription.cursor else None

    def open(self, subscriber: Subscriber, text: str) -> Cursor | None:
        """None for whatever is not a cursor that we gave under the rights that this one has."""
        return self._seal_of(subscriber).open(text)

    def _receipt_after(self, subscriber: Subscriber, mark: Mark | None) -> Receipt | None:
        if mark is None or not subscriber.subscription.cursor:
            return None
        return subscriber.receipt(self._seal_of(subscriber), mark)

    def _seal_of(self, subscriber: Subscriber) -> Seal:
        return self.seals.under(subscriber.subscription.rights)

    # --- where data and stream meet ---

    def begin(self, subscriber: Subscriber, anchor: Anchor, data: InitialData) -> Reading | None:
        """See `Hub.begin`."""
        lacks = subscriber.feed.lacks(data.snapshot)
        released = subscriber.feed.begin(data.snapshot)
        if released is None:
            return subscriber.reading()
        self._send_data(subscriber, anchor, data)
        if lacks:
            return self.hold(subscriber)
        self._release(subscriber, released)
        return None

    def go_on(self, subscriber: Subscriber, start: Position) -> bool:
        """See `Hub.go_on`."""
        if subscriber.feed.lacks(start.seen):
            subscriber.feed.hold()
            return False
        released = subscriber.feed.begin(start.seen)
        if released is None:
            return False
        subscriber.start = start
        self._release(subscriber, released)
        return True

    def meeting(self) -> list[Subscriber]:
        """Those whose data have been sent, while changes that are in them may still come."""
        return list(self._meeting)

    def heard(self, subscriber: Subscriber, snapshot: Snapshot) -> None:
        """To one of these: all that the snapshot sees has come."""
        subscriber.feed.heard(snapshot)
        if subscriber.feed.phase is not Phase.MEETING:
            del self._meeting[subscriber]

    def hold(self, subscriber: Subscriber) -> Reading:
        """It needs fresh data."""
        self.stop(subscriber)
        return subscriber.reading()

    def stop(self, subscriber: Subscriber) -> None:
        """Tell it nothing more."""
        subscriber.feed.hold()
        self._meeting.pop(subscriber, None)
        self.stale.discard(subscriber)

    # --- the stream ---

    def offer(self, subscribers: Iterable[Subscriber], change: Change, events: tuple[Event, ...]) -> None:
        """What a change means to these, for their feeds to keep, drop or let pass."""
        for subscriber in subscribers:
            self._push(subscriber, subscriber.feed.offer(change.xid, events))

    def lack(self, subscribers: Iterable[Subscriber], change: Change) -> list[Reading]:
        """A change cannot be told to these: fresh data for whom it is not in the data that they have or wait for."""
        return [self.hold(subscriber) for subscriber in subscribers if subscriber.feed.lack(change.xid)]

    def show(self, subscribers: Iterable[Subscriber], rows: tuple[bytes, ...], seen: Snapshot) -> list[Reading]:
        """See `Hub.show`."""
        event = Event(EventKind.UPDATE, rows)
        readings = [self._show(subscriber, event, seen) for subscriber in subscribers if subscriber.feed.is_waiting]
        return [reading for reading in readings if reading is not None]

    def _show(self, subscriber: Subscriber, event: Event, seen: Snapshot) -> Reading | None:
        parted = subscriber.feed.part(seen)
        if parted is None:
            return self.hold(subscriber)
        before, after = parted
        self._push_all(subscriber, before)
        if event.rows or subscriber.subscription.query.aggregate is not None:
            subscriber.outlet.push(subscriber, event, None)
        self._push_all(subscriber, after)
        return None

    # --- inside ---

    def _send_data(self, subscriber: Subscriber, anchor: Anchor, data: InitialData) -> None:
        subscriber.start = Position.of(anchor.era, data.snapshot)
        subscriber.after = None
        receipt = self.receipt(subscriber, Cursor(anchor.shape, anchor.era, (subscriber.start,)))
        subscriber.outlet.push(subscriber, _init(subscriber, data), receipt)
        subscriber.has_data = True

    def _release(self, subscriber: Subscriber, held: Iterable[tuple[Event, ...]]) -> None:
        self._meeting[subscriber] = None
        self._push_all(subscriber, held)

    def _push_all(self, subscriber: Subscriber, kept: Iterable[tuple[Event, ...]]) -> None:
        for events in kept:
            self._push(subscriber, events)

    def _push(self, subscriber: Subscriber, events: Iterable[Event]) -> None:
        for event in events:
            if event.stale is not None:
                self.stale.add(subscriber, event.stale)
            else:
                subscriber.outlet.push(subscriber, event, self._receipt_after(subscriber, event.mark))


def _init(subscriber: Subscriber, data: InitialData) -> Event:
    reason = Reason.RESYNC if subscriber.has_data else None
    if subscriber.subscription.event is not None:
        return Event(EventKind.INIT, None, reason)
    return Event(EventKind.INIT, data.rows, reason, data.more, meta=data.meta)
