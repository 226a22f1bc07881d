"""Who follows what on this node, and the way of a change to all of them.

A hub is driven by calls and never waits: a change is fanned out between two awaits of its caller. It keeps
three things in step: the catalog, the index of followers, and each follower's feed.

Guarantee: a follower gets one `init` first; after it, in their order, every event that concerns it and that
the `init` did not hold; and after a gap another `init`, never silence. A follower that resumes gets an `init`
without data and what it has missed (`catching.py`), while its feed keeps what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import replace
from typing import TypeAlias

from cdc_bridge.catalog import SHAPE_BYTES, Catalog, Collection
from cdc_bridge.change import NO_ERA, Change, Era, Operation, Position, Snapshot
from cdc_bridge.cursor import Cursor, Mark, Receipt
from cdc_bridge.errors import RequestError, forbidden_collection
from cdc_bridge.filters.filter import NOTHING
from cdc_bridge.hub.delivery import Delivery
from cdc_bridge.hub.feed import Feed
from cdc_bridge.hub.follower import Anchor, Follower, Outlet, Reading
from cdc_bridge.hub.register import Differences, Register
from cdc_bridge.hub.relating import tables_of
from cdc_bridge.hub.rendering import Encoders, Rendering
from cdc_bridge.hub.roll import Judge, Judgement, Roll
from cdc_bridge.hub.stale import Stale, rows_that_show
from cdc_bridge.hub.weighing import CannotTell, Weighing
from cdc_bridge.ports import InitialData
from cdc_bridge.subscription import Event, EventKind, Subscription

Concerned: TypeAlias = Callable[[Subscription], bool]
"""Whether a subscription may show something else than its follower is told by."""


class Hub:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, held_bytes_max: int) -> None:
        self.era = NO_ERA
        self._register = Register()
        self._held_bytes_max = held_bytes_max
        self._roll = Roll()
        self._delivery = Delivery()
        self._suspended: dict[Follower, None] = {}
        self._held_back: dict[Follower, None] = {}
        self._is_concerned: Concerned = _nobody
        self.arrangement = object()
        """Another one when followers have been taken from where a weighing may have found them."""
        self._emptied_by: dict[int, int] = {}  # collection -> the xid that truncated it and wrote nothing since

    def __len__(self) -> int:
        return len(self._roll)

    @property
    def stale(self) -> Stale:
        """What followers have to be shown again."""
        return self._delivery.stale

    # --- followers ---

    def follow(self, outlet: Outlet, subscription: Subscription, after: str | None = None) -> Reading:
        feed = Feed(self._held_bytes_max)
        follower = Follower(outlet, subscription, feed, after, has_data=after is not None)
        self._roll.add(follower)
        self._hold_back_if_concerned(follower)
        outlet.open(follower)
        return follower.reading()

    def leave(self, follower: Follower) -> None:
        """End a subscription. Does nothing when it has ended already."""
        if follower in self._suspended:
            del self._suspended[follower]
        elif follower in self._roll:
            self._detach(follower)
        else:
            return
        follower.outlet.drop(follower)

    def suspend(self, follower: Follower) -> None:
        """Tell it nothing more until it goes on, not even what waits for it."""
        if follower in self._roll:
            self._detach(follower)
            self._suspended[follower] = None
            follower.outlet.silence(follower)

    def go_on_as(self, follower: Follower, subscription: Subscription) -> Reading | None:
        """The same request, seen with other eyes: fresh data. None for one that has ended, or sees no different."""
        if follower in self._suspended:
            del self._suspended[follower]
            follower.subscription = subscription
            self._roll.add(follower)
            self._hold_back_if_concerned(follower)
            return self.start_anew(follower)
        known = follower.subscription
        if follower not in self._roll or known == subscription:
            return None
        self._roll.move(follower, subscription)
        self._hold_back_if_concerned(follower)
        self.arrangement = object()
        return None if subscription.sees_as(known) else self.start_anew(follower)

    def _detach(self, follower: Follower) -> None:
        self._roll.remove(follower)
        self._held_back.pop(follower, None)
        self._delivery.stop(follower)

    def refuse(self, follower: Follower, error: RequestError) -> None:
        """End a subscription and say why."""
        if follower in self._roll or follower in self._suspended:
            self.leave(follower)
            follower.outlet.refuse(follower, error)

    def anchor(self, relation_id: int) -> Anchor:
        """To be taken before data of this collection are read."""
        collection = self.catalog.by_relation_id.get(relation_id)
        if collection is None or not collection.durable:
            return Anchor(NO_ERA, bytes(SHAPE_BYTES))
        return Anchor(self.era, collection.shape)

    def begin(self, reading: Reading, anchor: Anchor, data: InitialData) -> Reading | None:
        """Send initial data and what came after it. A reading comes back when the data came too late, or another one
        has to follow, since something that came after it cannot be told. Who is held back is sent none.
        """
        if not reading.current or reading.follower in self._held_back:
            return None
        era = anchor.era if anchor.era == self.era else NO_ERA
        return self._delivery.begin(reading.follower, Anchor(era, anchor.shape), data)

    def go_on(self, follower: Follower, start: Position) -> bool:
        """The client has all that `start` has: send what came after it. False when too much came to be kept, or
        something that cannot be told.
        """
        return follower not in self._held_back and self._delivery.go_on(follower, start)

    def start_anew(self, follower: Follower) -> Reading:
        """The follower cannot go on from where it is: fresh data."""
        follower.after = None
        return self._delivery.hold(follower)

    # --- receipts of what clients have been told ---

    def receipt(self, follower: Follower, cursor: Cursor) -> Receipt | None:
        """None for those who did not ask for cursors."""
        return self._delivery.receipt(follower, cursor)

    def open(self, follower: Follower, text: str) -> Cursor | None:
        """None for whatever is not a cursor that we gave under the rights that this one has."""
        return self._delivery.open(follower, text)

    # --- the stream ---

    def weigh(self, change: Change, now_us: int) -> Weighing[Follower] | None:
        """What a change means, and what has to be asked to know it. None if it is no matter of rows that we know."""
        collection = self.catalog.by_relation_id.get(change.relation_id)
        if collection is None or change.operation is Operation.TRUNCATE:
            return None
        encoders = self.encoders(collection.relation_id)
        weighing: Weighing[Follower] = Weighing(change, collection, self.catalog, encoders, now_us)
        weighing.judge_all(self._roll.index)
        return weighing

    def apply(self, change: Change, weighing: Weighing[Follower] | None = None) -> list[Reading]:
        """Fan out one change, as it has been weighed. Its table must be in the catalog, or nobody can follow it.

        What has not been weighed yet, or not been asked, is told as far as memory can.
        """
        collection = self.catalog.by_relation_id.get(change.relation_id)
        if collection is None:
            return []
        if change.operation is Operation.TRUNCATE:
            return self._truncate(change, collection)
        self._emptied_by.pop(collection.relation_id, None)
        readings = self._fan_out(change, collection, weighing)
        return readings + self._make_stale(change, collection)

    def _truncate(self, change: Change, collection: Collection) -> list[Reading]:
        self._register.truncate(change)
        if change.relation_id == collection.relation_id:
            self._emptied_by[collection.relation_id] = change.xid
            self._empty(change, collection)
            return self.hold_these(self._roll.showing(collection.relation_id))
        if self._emptied_by.get(collection.relation_id) == change.xid:
            return []  # TRUNCATE of a partitioned table fires its trigger first and then one for each partition
        return self.hold(collection.relation_id)  # a partition was emptied, the collection was not

    def _empty(self, change: Change, collection: Collection) -> None:
        rendering = Rendering(change, self.encoders(collection.relation_id), _mark(change, collection))
        for group in self._roll.groups(collection.relation_id):
            self._delivery.offer(group.members, change, rendering.events(group.subscription))

    def _fan_out(self, change: Change, collection: Collection, weighing: Weighing[Follower] | None) -> list[Reading]:
        if not self._roll.groups(collection.relation_id):
            return []
        if not self._register.is_in_order(change, collection):
            return self._delivery.lack(self._told_of(collection.relation_id), change)
        readings: list[Reading] = []
        weighing = self.weigh(change, change.at) if weighing is None else weighing
        for group, told in weighing.told(_mark(change, collection)) if weighing else ():
            if isinstance(told, CannotTell):
                readings += self._delivery.lack(group.members, change)
            else:
                self._delivery.offer(group.members, change, told)
        return readings

    def _make_stale(self, change: Change, collection: Collection) -> list[Reading]:
        """Rows of other tables that show what has changed have to be shown again."""
        readings: list[Reading] = []
        for follower, rows in rows_that_show(change, self._roll.showing(collection.relation_id), self.catalog):
            if rows is None:
                readings += self._delivery.lack([follower], change)
            elif rows != NOTHING:
                event = Event(EventKind.UPDATE, stale=rows)
                self._delivery.offer([follower], change, (event,))
        return readings

    def await_rows(self, followers: Iterable[Follower]) -> None:
        """What is stale for these is about to be read: until it is shown, they are told nothing else."""
        for follower in followers:
            follower.feed.wait()

    def show(self, followers: Iterable[Follower], rows: tuple[bytes, ...], seen: Snapshot) -> list[Reading]:
        """What was stale has been read, in a snapshot. Who has been promised fresh data meanwhile needs none of it."""
        return self._delivery.show([follower for follower in followers if follower in self._roll], rows, seen)

    def heard(self, snapshot: Snapshot, lagging: Set[int] = frozenset()) -> None:
        """A heartbeat: all that `snapshot` sees has been applied, but for the tables that lag."""
        for follower in self._delivery.meeting():
            if lagging.isdisjoint(self.collection(follower).filenodes):
                self._delivery.heard(follower, snapshot)

    def is_congested(self, relation_ids: Iterable[int]) -> bool:
        """Whether nobody who follows these tables has room. Who has much to tell may wait for the quickest of them."""
        followers = [follower for each in relation_ids for follower in self._roll.following(each)]
        return bool(followers) and not any(follower.outlet.has_room for follower in followers)

    def collection(self, follower: Follower) -> Collection:
        """What it follows, as the newest catalog has it."""
        known = follower.subscription.collection
        return self.catalog.by_relation_id.get(known.relation_id, known)

    def listening(self, era: Era, secret: bytes | None) -> None:
        """Positions are of this era now, and cursors are sealed with this secret; without one, by ours alone."""
        self.era = era
        if secret is not None:
            self._delivery.seals.take(secret)

    def turn(self, era: Era) -> None:
        self.era = era

    def hold_not_durable(self) -> list[Reading]:
        """After a gap in listening that the log has filled: those whose changes are not in it need fresh data."""
        return [self._delivery.hold(follower) for follower in self._roll if not self._is_logged(follower)]

    def _is_logged(self, follower: Follower) -> bool:
        """Whether the log has all changes that it is told of."""
        shown = tables_of(follower.subscription) if follower.subscription.related else ()
        others = [self.catalog.by_relation_id.get(relation_id) for relation_id in shown]
        return self.collection(follower).durable and all(each is None or each.durable for each in others)

    def hold_these(self, followers: Iterable[Follower]) -> list[Reading]:
        """After a gap that concerns these, those of them that are still here."""
        return [self._delivery.hold(follower) for follower in followers if follower in self._roll]

    def hold(self, relation_id: int | None = None) -> list[Reading]:
        """After a gap: everybody, or those who are told of one table, need fresh data."""
        if relation_id is None:
            return [self._delivery.hold(follower) for follower in self._roll]
        return [self._delivery.hold(follower) for follower in self._told_of(relation_id)]

    # --- who is held back ---

    @property
    def held_back_count(self) -> int:
        return len(self._held_back)

    def is_held_back(self, follower: Follower) -> bool:
        return follower in self._held_back

    def hold_back(self, is_concerned: Concerned) -> None:
        """Tell those nothing who are concerned, nor who comes meanwhile and is: not before `adopt` or `release`."""
        self._is_concerned = is_concerned
        for follower in self._roll:
            self._hold_back_if_concerned(follower)

    def release(self) -> list[Reading]:
        """Whoever has been held back sees what it saw, after all; but it has not been told what came meanwhile."""
        held_back, self._held_back = self._held_back, {}
        self._is_concerned = _nobody
        return self.hold_these(held_back)

    def _hold_back_if_concerned(self, follower: Follower) -> None:
        if self._is_concerned(follower.subscription):
            self._delivery.stop(follower)
            follower.feed.keep_nothing()
            self._held_back[follower] = None

    # --- the catalog ---

    @property
    def catalog(self) -> Catalog:
        return self._register.catalog

    def encoders(self, relation_id: int) -> Encoders:
        """Of a collection that is in the catalog."""
        return self._register.encoders(relation_id)

    def adopt(self, catalog: Catalog, judge: Judge, *, rights_changed: bool = False) -> list[Reading]:
        """Take over a new catalog; followers of what has changed are judged anew, and start anew or are refused. Those
        who have been held back start anew in any case.

        `rights_changed`: everybody may see something else. Whatever `judge` raises besides `RequestError` comes, in one
        group, before anything has changed.
        """
        differences = self._register.compare(catalog)
        if rights_changed:
            everything = frozenset(collection.relation_id for collection in catalog.by_name.values())
            differences = replace(differences, rights=everything)
        judged = self._roll.judged_anew(catalog, differences, judge)
        self._register.adopt(catalog)
        self.arrangement = object()
        for collection in differences.gone:
            for follower in self._roll.following(collection.relation_id):
                self.refuse(follower, forbidden_collection(collection.name))
        begun = [self._begin_anew(follower, judgement, differences) for follower, judgement in judged]
        readings = {reading.follower: reading for reading in begun if reading is not None}
        readings.update({reading.follower: reading for reading in self.release()})
        return list(readings.values())

    def _begin_anew(self, follower: Follower, judgement: Judgement, differences: Differences) -> Reading | None:
        """None when nothing is new to this one."""
        if isinstance(judgement, RequestError):
            self.refuse(follower, judgement)
            return None
        known = follower.subscription
        self._roll.move(follower, judgement)
        is_affected = not judgement.sees_as(known) or not tables_of(judgement).isdisjoint(differences.anew)
        return self._delivery.hold(follower) if is_affected else None

    # --- inside ---

    def _told_of(self, relation_id: int) -> Iterable[Follower]:
        """Those who follow a table, or are told what happens there."""
        return dict.fromkeys([*self._roll.following(relation_id), *self._roll.showing(relation_id)])


def _nobody(_: Subscription) -> bool:
    return False


def _mark(change: Change, collection: Collection) -> Mark | None:
    return Mark(collection.shape, change.position) if change.position else None
