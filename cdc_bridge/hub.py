"""Who follows what on this node, and the way of a change to all of them.

A hub is driven by calls and never waits: a change is fanned out between two awaits of its caller. It keeps
three things in step: the catalog, the index of followers, and each follower's feed.

Guarantee: a follower gets one `init` first; after it, in their order, every event that concerns it and that
the `init` did not hold; and after a gap another `init`, never silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Change, Operation, Snapshot
from cdc_bridge.errors import RequestError, forbidden_collection
from cdc_bridge.feed import Feed, Phase
from cdc_bridge.matching import Index
from cdc_bridge.order import TransactionOrder
from cdc_bridge.rendering import Encoders, Rendering
from cdc_bridge.subscription import Event, EventKind, Reason, Subscription

Judge: TypeAlias = Callable[[Subscription, Collection], Subscription]
"""The same request against a changed table. Raises `RequestError` when it can no longer be served."""


class Outlet(Protocol):
    """Where one client's messages go. None of these waits; a client that is too slow is the outlet's business."""

    @property
    def count(self) -> int:
        """How many followers it has."""
        ...

    def open(self, follower: Follower) -> None: ...
    def push(self, follower: Follower, event: Event) -> None: ...
    def drop(self, follower: Follower) -> None: ...
    def refuse(self, follower: Follower, error: RequestError) -> None: ...


@dataclass(slots=True, eq=False)
class Follower:
    """One subscription of one client. `announced`: its first `init` has been sent."""

    outlet: Outlet
    subscription: Subscription
    feed: Feed
    announced: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """Initial data to be read for a follower; worthless when the feed's epoch has moved on.

    `subscription` is what was asked for when the reading was ordered.
    """

    follower: Follower
    subscription: Subscription
    epoch: int

    @property
    def current(self) -> bool:
        return self.follower.feed.epoch == self.epoch


class Hub:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, held_bytes_max: int) -> None:
        self.catalog = Catalog()
        self._held_bytes_max = held_bytes_max
        self._index: Index[Follower] = Index()
        self._followers: dict[Follower, None] = {}
        self._meeting: dict[Follower, None] = {}
        self._encoders: dict[int, Encoders] = {}
        self._emptied_by: dict[int, int] = {}  # collection -> the xid that truncated it and wrote nothing since
        self._truncated: dict[int, int] = {}  # table -> the storage that TRUNCATE gave it since the last catalog
        self._orders: dict[int, TransactionOrder] = {}

    def __len__(self) -> int:
        return len(self._followers)

    # --- followers ---

    def follow(self, outlet: Outlet, subscription: Subscription) -> Reading:
        follower = Follower(outlet, subscription, Feed(self._held_bytes_max))
        self._followers[follower] = None
        self._index.add(subscription, follower)
        outlet.open(follower)
        return _reading(follower)

    def leave(self, follower: Follower) -> None:
        """End a subscription. Does nothing when it has ended already."""
        if follower not in self._followers:
            return
        del self._followers[follower]
        self._meeting.pop(follower, None)
        self._index.remove(follower.subscription, follower)
        follower.feed.hold()
        follower.outlet.drop(follower)

    def refuse(self, follower: Follower, error: RequestError) -> None:
        """End a subscription and say why."""
        if follower in self._followers:
            self.leave(follower)
            follower.outlet.refuse(follower, error)

    def begin(self, reading: Reading, snapshot: Snapshot, rows: tuple[bytes, ...], *, more: bool) -> Reading | None:
        """Send initial data and what came after it. A reading comes back when the data came too late."""
        follower = reading.follower
        if not reading.current:
            return None
        released = follower.feed.begin(snapshot)
        if released is None:
            return _reading(follower)
        follower.outlet.push(follower, _init(follower, rows, more=more))
        follower.announced = True
        self._meeting[follower] = None
        for events in released:
            self._push(follower, events)
        return None

    # --- the stream ---

    def apply(self, change: Change) -> list[Reading]:
        """Fan out one change. Its table must be in the catalog, or nobody can follow it."""
        collection = self.catalog.by_relation_id.get(change.relation_id)
        if collection is None:
            return []
        if change.operation is Operation.TRUNCATE:
            return self._truncate(change, collection)
        self._emptied_by.pop(collection.relation_id, None)
        return self._fan_out(change, collection)

    def _truncate(self, change: Change, collection: Collection) -> list[Reading]:
        self._truncated[change.relation_id] = change.filenode
        if change.relation_id == collection.relation_id:
            self._emptied_by[collection.relation_id] = change.xid
            return self._fan_out(change, collection)
        if self._emptied_by.get(collection.relation_id) == change.xid:
            return []  # TRUNCATE of a partitioned table fires its trigger first and then one for each partition
        return self.hold(collection.relation_id)  # a partition was emptied, the collection was not

    def _fan_out(self, change: Change, collection: Collection) -> list[Reading]:
        groups = self._index.find(collection.relation_id)
        if not groups:
            return []
        order = self._orders.get(collection.relation_id)
        if order is not None and not order.holds(change):
            return self.hold(collection.relation_id)
        rendering = Rendering(change, self._encoders[collection.relation_id])
        for group in groups:
            events = rendering.events(group.subscription)
            if events:
                for follower in group.members:
                    self._push(follower, follower.feed.offer(change.xid, events))
        return []

    def heard(self, snapshot: Snapshot) -> None:
        """A heartbeat: all that `snapshot` sees has been applied."""
        for follower in list(self._meeting):
            follower.feed.heard(snapshot)
            if follower.feed.phase is not Phase.MEETING:
                del self._meeting[follower]

    def hold(self, relation_id: int | None = None) -> list[Reading]:
        """After a gap: everybody, or the followers of one table, need fresh data."""
        followers = list(self._followers) if relation_id is None else self._index.members(relation_id)
        return [self._hold(follower) for follower in followers]

    # --- the catalog ---

    def adopt(self, catalog: Catalog, judge: Judge) -> list[Reading]:
        """Take over a new catalog; followers of what has changed are judged anew, and start anew or are refused."""
        before, self.catalog = self.catalog, catalog
        now = {collection.relation_id: collection for collection in catalog.by_name.values()}
        known = self._encoders
        self._encoders = {
            relation_id: known[relation_id]
            if relation_id in known and known[relation_id].collection.reads_as(collection)
            else Encoders(collection)
            for relation_id, collection in now.items()
        }
        self._orders = {
            relation_id: TransactionOrder(encoders.key)
            for relation_id, encoders in self._encoders.items()
            if encoders.key is not None
        }
        readings: list[Reading] = []
        for old in before.by_name.values():
            new = now.get(old.relation_id)
            if new is None or new.name != old.name:
                for follower in self._index.members(old.relation_id):
                    self.refuse(follower, forbidden_collection(old.name))
            elif not new.reads_as(old) or new.revision != old.revision or self._is_rewritten(old, new):
                readings += self._judge_anew(old, new, judge)
        self._truncated.clear()
        return readings

    def _is_rewritten(self, old: Collection, new: Collection) -> bool:
        """Whether rows may have changed that no change told of: other partitions, or other storage.

        ALTER COLUMN TYPE ... USING rewrites rows in silence. VACUUM FULL and CLUSTER look the same from here; what
        they cost is a reading too many. TRUNCATE was told of, if it has been heard already.
        """
        return any(
            old.filenodes.get(relation_id) != (filenode := new.filenodes.get(relation_id))
            and (filenode is None or self._truncated.get(relation_id) != filenode)
            for relation_id in old.filenodes.keys() | new.filenodes.keys()
        )

    def _judge_anew(self, old: Collection, new: Collection, judge: Judge) -> Iterator[Reading]:
        for follower in self._index.members(old.relation_id):
            try:
                subscription = judge(follower.subscription, new)
            except RequestError as error:
                self.refuse(follower, error)
                continue
            self._index.remove(follower.subscription, follower)
            follower.subscription = subscription
            self._index.add(subscription, follower)
            yield self._hold(follower)

    # --- inside ---

    def _push(self, follower: Follower, events: Iterable[Event]) -> None:
        for event in events:
            follower.outlet.push(follower, event)

    def _hold(self, follower: Follower) -> Reading:
        follower.feed.hold()
        self._meeting.pop(follower, None)
        return _reading(follower)


def _reading(follower: Follower) -> Reading:
    return Reading(follower, follower.subscription, follower.feed.epoch)


def _init(follower: Follower, rows: tuple[bytes, ...], *, more: bool) -> Event:
    reason = Reason.RESYNC if follower.announced else None
    if follower.subscription.event is not None:
        return Event(EventKind.INIT, None, reason)
    return Event(EventKind.INIT, rows, reason, more)
