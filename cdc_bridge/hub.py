"""Who follows what on this node, and the way of a change to all of them.

A hub is driven by calls and never waits: a change is fanned out between two awaits of its caller. It keeps
three things in step: the catalog, the index of followers, and each follower's feed.

Guarantee: a follower gets one `init` first; after it, in their order, every event that concerns it and that
the `init` did not hold; and after a gap another `init`, never silence. A follower that resumes gets an `init`
without data and what it has missed (`catching.py`), while its feed keeps what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from typing import TypeAlias

from cdc_bridge.catalog import SHAPE_BYTES, Catalog, Collection
from cdc_bridge.change import NO_ERA, Change, Era, Operation, Position, Snapshot
from cdc_bridge.cursor import Claim, Cursor, Mark, Seal
from cdc_bridge.errors import RequestError, forbidden_collection
from cdc_bridge.feed import Feed, Phase
from cdc_bridge.follower import Anchor, Follower, Outlet, Reading
from cdc_bridge.matching import Index
from cdc_bridge.register import Register
from cdc_bridge.rendering import Encoders, Rendering
from cdc_bridge.subscription import Event, EventKind, Reason, Subscription

Judge: TypeAlias = Callable[[Subscription, Collection], Subscription]
"""The same request against a changed table. Raises `RequestError` when it can no longer be served."""


class Hub:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, held_bytes_max: int) -> None:
        self.era = NO_ERA
        self._register = Register()
        self._held_bytes_max = held_bytes_max
        self._index: Index[Follower] = Index()
        self._followers: dict[Follower, None] = {}
        self._meeting: dict[Follower, None] = {}
        self._emptied_by: dict[int, int] = {}  # collection -> the xid that truncated it and wrote nothing since
        self._seal = Seal()

    def __len__(self) -> int:
        return len(self._followers)

    # --- followers ---

    def follow(self, outlet: Outlet, subscription: Subscription, after: str | None = None) -> Reading:
        feed = Feed(self._held_bytes_max)
        follower = Follower(outlet, subscription, feed, after, has_data=after is not None)
        self._followers[follower] = None
        self._index.add(subscription, follower)
        outlet.open(follower)
        return follower.reading()

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

    def anchor(self, relation_id: int) -> Anchor:
        """To be taken before data of this collection are read."""
        collection = self.catalog.by_relation_id.get(relation_id)
        if collection is None or not collection.durable:
            return Anchor(NO_ERA, bytes(SHAPE_BYTES))
        return Anchor(self.era, collection.shape)

    def begin(
        self, reading: Reading, anchor: Anchor, snapshot: Snapshot, rows: tuple[bytes, ...], *, more: bool
    ) -> Reading | None:
        """Send initial data and what came after it. A reading comes back when the data came too late."""
        follower = reading.follower
        if not reading.current:
            return None
        released = follower.feed.begin(snapshot)
        if released is None:
            return follower.reading()
        era = anchor.era if anchor.era == self.era else NO_ERA
        follower.start = Position(era, snapshot)
        follower.after = None
        claim = self.claim(follower, Cursor(anchor.shape, era, (follower.start,)))
        follower.outlet.push(follower, _init(follower, rows, more=more), claim)
        follower.has_data = True
        self._release(follower, released)
        return None

    def go_on(self, follower: Follower, start: Position) -> bool:
        """The client has all that `start` has: send what came after it. False when too much came to be kept."""
        released = follower.feed.begin(start.seen)
        if released is None:
            return False
        follower.start = start
        self._release(follower, released)
        return True

    def start_anew(self, follower: Follower) -> Reading:
        """The follower cannot go on from where it is: fresh data."""
        follower.after = None
        return self._hold(follower)

    # --- what clients can claim to have been told ---

    def claim(self, follower: Follower, cursor: Cursor) -> Claim | None:
        """None for those who did not ask for cursors."""
        return Claim(self._seal, cursor) if follower.subscription.cursor else None

    def open(self, text: str) -> Cursor | None:
        """None for whatever is not a cursor of ours."""
        return self._seal.open(text)

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
        self._register.truncate(change)
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
        if not self._register.is_in_order(change, collection):
            return self.hold(collection.relation_id)
        mark = Mark(collection.shape, change.position) if change.position else None
        rendering = Rendering(change, self.encoders(collection.relation_id), mark)
        for group in groups:
            events = rendering.events(group.subscription)
            if events:
                for follower in group.members:
                    self._push(follower, follower.feed.offer(change.xid, events))
        return []

    def heard(self, snapshot: Snapshot, lagging: Set[int] = frozenset()) -> None:
        """A heartbeat: all that `snapshot` sees has been applied, but for the tables that lag."""
        for follower in list(self._meeting):
            if not lagging.isdisjoint(self.collection(follower).filenodes):
                continue
            follower.feed.heard(snapshot)
            if follower.feed.phase is not Phase.MEETING:
                del self._meeting[follower]

    def is_congested(self, relation_ids: Iterable[int]) -> bool:
        """Whether nobody who follows these tables has room. Who has much to tell may wait for the quickest of them."""
        followers = [follower for each in relation_ids for follower in self._index.members(each)]
        return bool(followers) and not any(follower.outlet.has_room for follower in followers)

    def collection(self, follower: Follower) -> Collection:
        """What it follows, as the newest catalog has it."""
        known = follower.subscription.collection
        return self.catalog.by_relation_id.get(known.relation_id, known)

    def listening(self, era: Era, secret: bytes | None) -> None:
        """Positions are of this era now, and cursors are sealed with this secret; without one, by ours alone."""
        self.era = era
        if secret is not None:
            self._seal = Seal(secret)

    def turn(self, era: Era) -> None:
        self.era = era

    def hold_not_durable(self) -> list[Reading]:
        """After a gap in listening that the log has filled: those whose changes are not in it need fresh data."""
        return [self._hold(f) for f in list(self._followers) if not self.collection(f).durable]

    def hold(self, relation_id: int | None = None) -> list[Reading]:
        """After a gap: everybody, or the followers of one table, need fresh data."""
        followers = list(self._followers) if relation_id is None else self._index.members(relation_id)
        return [self._hold(follower) for follower in followers]

    # --- the catalog ---

    @property
    def catalog(self) -> Catalog:
        return self._register.catalog

    def encoders(self, relation_id: int) -> Encoders:
        """Of a collection that is in the catalog."""
        return self._register.encoders(relation_id)

    def adopt(self, catalog: Catalog, judge: Judge) -> list[Reading]:
        """Take over a new catalog; followers of what has changed are judged anew, and start anew or are refused."""
        readings: list[Reading] = []
        for old, new in self._register.adopt(catalog):
            if new is None:
                for follower in self._index.members(old.relation_id):
                    self.refuse(follower, forbidden_collection(old.name))
            else:
                readings += self._judge_anew(old, new, judge)
        return readings

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

    def _release(self, follower: Follower, held: list[tuple[Event, ...]]) -> None:
        self._meeting[follower] = None
        for events in held:
            self._push(follower, events)

    def _push(self, follower: Follower, events: Iterable[Event]) -> None:
        for event in events:
            follower.outlet.push(follower, event, follower.claim(self._seal, event.mark))

    def _hold(self, follower: Follower) -> Reading:
        follower.feed.hold()
        self._meeting.pop(follower, None)
        return follower.reading()


def _init(follower: Follower, rows: tuple[bytes, ...], *, more: bool) -> Event:
    reason = Reason.RESYNC if follower.has_data else None
    if follower.subscription.event is not None:
        return Event(EventKind.INIT, None, reason)
    return Event(EventKind.INIT, rows, reason, more)
