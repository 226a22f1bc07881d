"""One subscription of one client, as the hub keeps it: where its events go, and what is to be read for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cdc_bridge.engine.feed import Feed
from cdc_bridge.model.change import Era, Position
from cdc_bridge.model.cursor import Mark, Receipt, Seal
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.subscription import Event, Subscription


class Outlet(Protocol):
    """Where one client's messages go. None of these waits; a client that is too slow is the outlet's business."""

    @property
    def count(self) -> int:
        """How many subscribers it has."""
        ...

    def open(self, subscriber: Subscriber) -> None: ...

    def push(self, subscriber: Subscriber, event: Event, receipt: Receipt | None) -> None:
        """`receipt` is of what the client has been told once the event is sent; None when that is as much as before."""
        ...

    def subscribers(self) -> list[Subscriber]: ...

    def silence(self, subscriber: Subscriber) -> None:
        """Forget what waits for it; what is pushed from now on goes."""
        ...

    def drop(self, subscriber: Subscriber) -> None: ...
    def refuse(self, subscriber: Subscriber, error: RequestError) -> None: ...

    @property
    def has_room(self) -> bool:
        """Whether no more waits than should when much is about to be pushed."""
        ...

    async def room(self, size_bytes: int) -> bool:
        """Wait, for those who have more to push than may wait: until there is room for so much, or False if there will
        be none. However much it is, there is room when nothing waits.
        """
        ...


@dataclass(slots=True, eq=False)
class Subscriber:
    """One subscription of one client.

    `after` is the cursor that it wants to go on from, until that is decided. `has_data`: the client has data already,
    of an `init` or of before it came back, so the next `init` with data is a resync.

    What its receipts say is the union of two positions: that of its data (`start`), and that of the
    stream at the last event that it got. The first is dropped as soon as the second has all of it.
    """

    outlet: Outlet
    subscription: Subscription
    feed: Feed
    after: str | None = None
    has_data: bool = False
    start: Position | None = None

    def reading(self) -> Reading:
        """What has to be read for it now."""
        return Reading(self, self.subscription, self.feed.epoch, self.after)

    def receipt(self, seal: Seal, mark: Mark) -> Receipt:
        """After an event of this mark."""
        if self.start is not None and mark.position.seen.covers(self.start.seen):
            self.start = None
        return mark.receipt(seal, self.start)


@dataclass(frozen=True, slots=True)
class Reading:
    """Initial data to be read for a subscriber; worthless when the feed's epoch has moved on.

    `subscription` is what was asked for when the reading was ordered. With `after` it is not the data that are wanted
    but what has come after this cursor.
    """

    subscriber: Subscriber
    subscription: Subscription
    epoch: int
    after: str | None = None

    @property
    def current(self) -> bool:
        return self.subscriber.feed.epoch == self.epoch


@dataclass(frozen=True, slots=True)
class Anchor:
    """The era and the shape of a collection before its data are read: what the data's position belongs to."""

    era: Era
    shape: bytes
