"""From feeds to outlets: what followers are told, once their feeds let it pass.

Rule: an event goes to the outlet, with the receipt of what has been told by then. Rows that have become stale are no
event, and wait until somebody reads them (`stale`). Who is held is told nothing before its data have been read anew,
and what was stale for it is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

from cdc_bridge.change import Change, Position, Snapshot
from cdc_bridge.cursor import Cursor, Mark, Receipt, Seal
from cdc_bridge.hub.feed import Phase
from cdc_bridge.hub.follower import Anchor, Follower, Reading
from cdc_bridge.hub.seals import Seals
from cdc_bridge.hub.stale import Stale
from cdc_bridge.ports import InitialData
from cdc_bridge.subscription import Event, EventKind, Reason


class Delivery:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self) -> None:
        self.stale = Stale()
        self.seals = Seals()
        self._meeting: dict[Follower, None] = {}

    # --- receipts of what clients have been told ---

    def receipt(self, follower: Follower, cursor: Cursor) -> Receipt | None:
        """None for those who did not ask for cursors."""
        return Receipt(self._seal_of(follower), cursor) if follower.subscription.cursor else None

    def open(self, follower: Follower, text: str) -> Cursor | None:
        """None for whatever is not a cursor that we gave under the rights that this one has."""
        return self._seal_of(follower).open(text)

    def _receipt_after(self, follower: Follower, mark: Mark | None) -> Receipt | None:
        if mark is None or not follower.subscription.cursor:
            return None
        return follower.receipt(self._seal_of(follower), mark)

    def _seal_of(self, follower: Follower) -> Seal:
        return self.seals.under(follower.subscription.rights)

    # --- where data and stream meet ---

    def begin(self, follower: Follower, anchor: Anchor, data: InitialData) -> Reading | None:
        """See `Hub.begin`."""
        lacks = follower.feed.lacks(data.snapshot)
        released = follower.feed.begin(data.snapshot)
        if released is None:
            return follower.reading()
        self._send_data(follower, anchor, data)
        if lacks:
            return self.hold(follower)
        self._release(follower, released)
        return None

    def go_on(self, follower: Follower, start: Position) -> bool:
        """See `Hub.go_on`."""
        if follower.feed.lacks(start.seen):
            follower.feed.hold()
            return False
        released = follower.feed.begin(start.seen)
        if released is None:
            return False
        follower.start = start
        self._release(follower, released)
        return True

    def meeting(self) -> list[Follower]:
        """Those whose data have been sent, while changes that are in them may still come."""
        return list(self._meeting)

    def heard(self, follower: Follower, snapshot: Snapshot) -> None:
        """To one of these: all that the snapshot sees has come."""
        follower.feed.heard(snapshot)
        if follower.feed.phase is not Phase.MEETING:
            del self._meeting[follower]

    def hold(self, follower: Follower) -> Reading:
        """It needs fresh data."""
        self.stop(follower)
        return follower.reading()

    def stop(self, follower: Follower) -> None:
        """Tell it nothing more."""
        follower.feed.hold()
        self._meeting.pop(follower, None)
        self.stale.discard(follower)

    # --- the stream ---

    def offer(self, followers: Iterable[Follower], change: Change, events: tuple[Event, ...]) -> None:
        """What a change means to these, for their feeds to keep, drop or let pass."""
        for follower in followers:
            self._push(follower, follower.feed.offer(change.xid, events))

    def lack(self, followers: Iterable[Follower], change: Change) -> list[Reading]:
        """A change cannot be told to these: fresh data for whom it is not in the data that they have or wait for."""
        return [self.hold(follower) for follower in followers if follower.feed.lack(change.xid)]

    def show(self, followers: Iterable[Follower], rows: tuple[bytes, ...], seen: Snapshot) -> list[Reading]:
        """See `Hub.show`."""
        event = Event(EventKind.UPDATE, rows)
        readings = [self._show(follower, event, seen) for follower in followers if follower.feed.is_waiting]
        return [reading for reading in readings if reading is not None]

    def _show(self, follower: Follower, event: Event, seen: Snapshot) -> Reading | None:
        parted = follower.feed.part(seen)
        if parted is None:
            return self.hold(follower)
        before, after = parted
        self._push_all(follower, before)
        if event.rows or follower.subscription.query.aggregate is not None:
            follower.outlet.push(follower, event, None)
        self._push_all(follower, after)
        return None

    # --- inside ---

    def _send_data(self, follower: Follower, anchor: Anchor, data: InitialData) -> None:
        follower.start = Position(anchor.era, data.snapshot)
        follower.after = None
        receipt = self.receipt(follower, Cursor(anchor.shape, anchor.era, (follower.start,)))
        follower.outlet.push(follower, _init(follower, data), receipt)
        follower.has_data = True

    def _release(self, follower: Follower, held: Iterable[tuple[Event, ...]]) -> None:
        self._meeting[follower] = None
        self._push_all(follower, held)

    def _push_all(self, follower: Follower, kept: Iterable[tuple[Event, ...]]) -> None:
        for events in kept:
            self._push(follower, events)

    def _push(self, follower: Follower, events: Iterable[Event]) -> None:
        for event in events:
            if event.stale is not None:
                self.stale.add(follower, event.stale)
            else:
                follower.outlet.push(follower, event, self._receipt_after(follower, event.mark))


def _init(follower: Follower, data: InitialData) -> Event:
    reason = Reason.RESYNC if follower.has_data else None
    if follower.subscription.event is not None:
        return Event(EventKind.INIT, None, reason)
    return Event(EventKind.INIT, data.rows, reason, data.more, meta=data.meta)
