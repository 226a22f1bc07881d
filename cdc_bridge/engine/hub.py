"""Who follows what on this node, and the way of a change to all of them.

A hub is driven by calls and never waits: a change is fanned out between two awaits of its caller. It keeps
three things in step: the catalog, the index of subscribers, and each subscriber's feed.

Guarantee: a subscriber gets one `init` first; after it, in their order, every event that concerns it and that
the `init` did not hold; and after a gap another `init`, never silence. A subscriber that resumes gets an `init`
without data and what it has missed (`catching.py`), while its feed keeps what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import replace
from typing import TypeAlias

from cdc_bridge.engine.delivery import Delivery
from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.feed import Feed
from cdc_bridge.engine.register import Differences, Register
from cdc_bridge.engine.relating import tables_of
from cdc_bridge.engine.roll import Judge, Judgement, Roll
from cdc_bridge.engine.stale import Stale, rows_that_show
from cdc_bridge.engine.subscriber import Anchor, Outlet, Reading, Subscriber
from cdc_bridge.engine.weighing import CannotTell, Weighing
from cdc_bridge.model.catalog import SHAPE_BYTES, Catalog, Collection
from cdc_bridge.model.change import NO_ERA, Change, Era, Operation, Position, Snapshot
from cdc_bridge.model.cursor import Cursor, Mark, Receipt
from cdc_bridge.model.errors import RequestError, forbidden_collection
from cdc_bridge.model.filter import NOTHING
from cdc_bridge.model.subscription import Event, EventKind, Subscription
from cdc_bridge.model.table import Table
from cdc_bridge.ports import InitialData

Concerned: TypeAlias = Callable[[Subscription], bool]
"""Whether a subscription may show something else than its subscriber is told by."""


class Hub:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, held_bytes_max: int) -> None:
        self.era = NO_ERA
        self._register = Register()
        self._held_bytes_max = held_bytes_max
        self._roll = Roll()
        self._delivery = Delivery()
        self._suspended: dict[Subscriber, None] = {}
        self._held_back: dict[Subscriber, None] = {}
        self._is_concerned: Concerned = _nobody
        self.arrangement = object()
        """Another one when subscribers have been taken from where a weighing may have found them."""
        self._emptied_by: dict[int, int] = {}  # collection -> the xid that truncated it and wrote nothing since

    def __len__(self) -> int:
        """The number of subscriptions."""
        return len(self._roll) + len(self._suspended)

    @property
    def stale(self) -> Stale:
        """What subscribers have to be shown again."""
        return self._delivery.stale

    # --- subscribers ---

    def follow(self, outlet: Outlet, subscription: Subscription, after: str | None = None) -> Reading:
        feed = Feed(self._held_bytes_max)
        subscriber = Subscriber(outlet, subscription, feed, after, has_data=after is not None)
        self._roll.add(subscriber)
        self._hold_back_if_concerned(subscriber)
        outlet.open(subscriber)
        return subscriber.reading()

    def leave(self, subscriber: Subscriber) -> None:
        """End a subscription. Does nothing when it has ended already."""
        if subscriber in self._suspended:
            del self._suspended[subscriber]
        elif subscriber in self._roll:
            self._detach(subscriber)
        else:
            return
        subscriber.outlet.drop(subscriber)

    def suspend(self, subscriber: Subscriber) -> None:
        """Tell it nothing more until it goes on, not even what waits for it."""
        if subscriber in self._roll:
            self._detach(subscriber)
            self._suspended[subscriber] = None
            subscriber.outlet.silence(subscriber)

    def go_on_as(self, subscriber: Subscriber, subscription: Subscription) -> Reading | None:
        """The same request, seen with other eyes: fresh data. None for one that has ended, or sees no different."""
        if subscriber in self._suspended:
            del self._suspended[subscriber]
            subscriber.subscription = subscription
            self._roll.add(subscriber)
            self._hold_back_if_concerned(subscriber)
            return self.start_anew(subscriber)
        known = subscriber.subscription
        if subscriber not in self._roll or known == subscription:
            return None
        self._roll.move(subscriber, subscription)
        self._hold_back_if_concerned(subscriber)
        self.arrangement = object()
        return None if subscription.sees_as(known) else self.start_anew(subscriber)

    def _detach(self, subscriber: Subscriber) -> None:
        self._roll.remove(subscriber)
        self._held_back.pop(subscriber, None)
        self._delivery.stop(subscriber)

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        """End a subscription and say why."""
        if subscriber in self._roll or subscriber in self._suspended:
            self.leave(subscriber)
            subscriber.outlet.refuse(subscriber, error)

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
        if not reading.current or reading.subscriber in self._held_back:
            return None
        era = anchor.era if anchor.era == self.era else NO_ERA
        return self._delivery.begin(reading.subscriber, Anchor(era, anchor.shape), data)

    def go_on(self, subscriber: Subscriber, start: Position) -> bool:
        """The client has all that `start` has: send what came after it. False when too much came to be kept, or
        something that cannot be told.
        """
        return subscriber not in self._held_back and self._delivery.go_on(subscriber, start)

    def start_anew(self, subscriber: Subscriber) -> Reading:
        """The subscriber cannot go on from where it is: fresh data."""
        subscriber.after = None
        return self._delivery.hold(subscriber)

    # --- receipts of what clients have been told ---

    def receipt(self, subscriber: Subscriber, cursor: Cursor) -> Receipt | None:
        """None for those who did not ask for cursors."""
        return self._delivery.receipt(subscriber, cursor)

    def open(self, subscriber: Subscriber, text: str) -> Cursor | None:
        """None for whatever is not a cursor that we gave under the rights that this one has."""
        return self._delivery.open(subscriber, text)

    # --- the stream ---

    def weigh(self, change: Change, now_us: int) -> Weighing[Subscriber] | None:
        """What a change means, and what has to be asked to know it. None if it is no matter of rows that we know."""
        collection = self.catalog.by_relation_id.get(change.relation_id)
        if collection is None or change.operation is Operation.TRUNCATE:
            return None
        table = self.table(collection.relation_id)
        weighing: Weighing[Subscriber] = Weighing(change, collection, self.catalog, table, now_us)
        weighing.judge_all(self._roll.index)
        return weighing

    def apply(self, change: Change, weighing: Weighing[Subscriber] | None = None) -> list[Reading]:
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
        rendering = EventEncoder(change, self.table(collection.relation_id), _mark(change, collection))
        for group in self._roll.groups(collection.relation_id):
            self._delivery.offer(group.members, change, rendering.events(group.subscription))

    def _fan_out(self, change: Change, collection: Collection, weighing: Weighing[Subscriber] | None) -> list[Reading]:
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
        for subscriber, rows in rows_that_show(change, self._roll.showing(collection.relation_id), self.catalog):
            if rows is None:
                readings += self._delivery.lack([subscriber], change)
            elif rows != NOTHING:
                event = Event(EventKind.UPDATE, stale=rows)
                self._delivery.offer([subscriber], change, (event,))
        return readings

    def await_rows(self, subscribers: Iterable[Subscriber]) -> None:
        """What is stale for these is about to be read: until it is shown, they are told nothing else."""
        for subscriber in subscribers:
            subscriber.feed.wait()

    def show(self, subscribers: Iterable[Subscriber], rows: tuple[bytes, ...], seen: Snapshot) -> list[Reading]:
        """What was stale has been read, in a snapshot. Who has been promised fresh data meanwhile needs none of it."""
        return self._delivery.show([subscriber for subscriber in subscribers if subscriber in self._roll], rows, seen)

    def heard(self, snapshot: Snapshot, lagging: Set[int] = frozenset()) -> None:
        """A heartbeat: all that `snapshot` sees has been applied, but for the tables that lag."""
        for subscriber in self._delivery.meeting():
            if lagging.isdisjoint(self.collection(subscriber).filenodes):
                self._delivery.heard(subscriber, snapshot)

    def is_congested(self, relation_ids: Iterable[int]) -> bool:
        """Whether nobody who follows these tables has room. Who has much to tell may wait for the quickest of them."""
        subscribers = [subscriber for each in relation_ids for subscriber in self._roll.following(each)]
        return bool(subscribers) and not any(subscriber.outlet.has_room for subscriber in subscribers)

    def collection(self, subscriber: Subscriber) -> Collection:
        """What it follows, as the newest catalog has it."""
        known = subscriber.subscription.collection
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
        return [self._delivery.hold(subscriber) for subscriber in self._roll if not self._is_logged(subscriber)]

    def _is_logged(self, subscriber: Subscriber) -> bool:
        """Whether the log has all changes that it is told of."""
        shown = tables_of(subscriber.subscription) if subscriber.subscription.related else ()
        others = [self.catalog.by_relation_id.get(relation_id) for relation_id in shown]
        return self.collection(subscriber).durable and all(each is None or each.durable for each in others)

    def hold_these(self, subscribers: Iterable[Subscriber]) -> list[Reading]:
        """After a gap that concerns these, those of them that are still here."""
        return [self._delivery.hold(subscriber) for subscriber in subscribers if subscriber in self._roll]

    def hold(self, relation_id: int | None = None) -> list[Reading]:
        """After a gap: everybody, or those who are told of one table, need fresh data."""
        if relation_id is None:
            return [self._delivery.hold(subscriber) for subscriber in self._roll]
        return [self._delivery.hold(subscriber) for subscriber in self._told_of(relation_id)]

    # --- who is held back ---

    @property
    def held_back_count(self) -> int:
        return len(self._held_back)

    def is_held_back(self, subscriber: Subscriber) -> bool:
        return subscriber in self._held_back

    def hold_back(self, is_concerned: Concerned) -> None:
        """Tell those nothing who are concerned, nor who comes meanwhile and is: not before `adopt` or `release`."""
        self._is_concerned = is_concerned
        for subscriber in self._roll:
            self._hold_back_if_concerned(subscriber)

    def release(self) -> list[Reading]:
        """Whoever has been held back sees what it saw, after all; but it has not been told what came meanwhile."""
        held_back, self._held_back = self._held_back, {}
        self._is_concerned = _nobody
        return self.hold_these(held_back)

    def _hold_back_if_concerned(self, subscriber: Subscriber) -> None:
        if self._is_concerned(subscriber.subscription):
            self._delivery.stop(subscriber)
            subscriber.feed.keep_nothing()
            self._held_back[subscriber] = None

    # --- the catalog ---

    @property
    def catalog(self) -> Catalog:
        return self._register.catalog

    def table(self, relation_id: int) -> Table:
        """Of a collection that is in the catalog."""
        return self._register.table(relation_id)

    def adopt(self, catalog: Catalog, judge: Judge, *, rights_changed: bool = False) -> list[Reading]:
        """Take over a new catalog; subscribers of changed tables are judged anew, and start anew or are refused.
        Those who have been held back start anew in any case.

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
            for subscriber in self._roll.following(collection.relation_id):
                self.refuse(subscriber, forbidden_collection(collection.name))
        begun = [self._begin_anew(subscriber, judgement, differences) for subscriber, judgement in judged]
        readings = {reading.subscriber: reading for reading in begun if reading is not None}
        readings.update({reading.subscriber: reading for reading in self.release()})
        return list(readings.values())

    def _begin_anew(self, subscriber: Subscriber, judgement: Judgement, differences: Differences) -> Reading | None:
        """None when nothing is new to this one."""
        if isinstance(judgement, RequestError):
            self.refuse(subscriber, judgement)
            return None
        known = subscriber.subscription
        self._roll.move(subscriber, judgement)
        is_affected = not judgement.sees_as(known) or not tables_of(judgement).isdisjoint(differences.anew)
        return self._delivery.hold(subscriber) if is_affected else None

    # --- inside ---

    def _told_of(self, relation_id: int) -> Iterable[Subscriber]:
        """Those who follow a table, or are told what happens there."""
        return dict.fromkeys([*self._roll.following(relation_id), *self._roll.showing(relation_id)])


def _nobody(_: Subscription) -> bool:
    return False


def _mark(change: Change, collection: Collection) -> Mark | None:
    return Mark(collection.shape, change.position) if change.position else None
