"""Which subscribers follow what on this node, and the way of a change to all of them.

A hub is driven by calls and never waits: a change is fanned out between two awaits of its caller. It keeps three things
in step: the catalog, the index of topics, and each subscriber's state.

Guarantee: a subscriber gets one `init` first; after it, in their order, every event that concerns it and that the
`init` did not hold; and after a gap another `init`, never silence. A subscriber that resumes gets an `init` without
data and what it has missed (`replay.py`), while its topic keeps what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import TypeAlias

from cdc_bridge.engine.collection_registry import CollectionRegistry, Source
from cdc_bridge.engine.dependents import rows_that_show, tables_of
from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import by_context
from cdc_bridge.engine.match import Match, find_matches
from cdc_bridge.engine.registry import Judge, Judgement, SubscriberRegistry
from cdc_bridge.engine.subscriber import FOLLOWING, Anchor, CursorCiphers, Outlet, Reading, State, Step, Subscriber
from cdc_bridge.engine.topic import Events, Pending, Topic
from cdc_bridge.model.catalog import SHAPE_BYTES, Catalog, Collection
from cdc_bridge.model.change import NO_ERA, Change, Era, Operation, Position, Snapshot
from cdc_bridge.model.cursor import ClientPosition, Cursor, EventPosition
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import NOTHING, Filter
from cdc_bridge.model.subscription import Event, EventKind, Reason, Subscription
from cdc_bridge.model.table import Table
from cdc_bridge.ports import InitialData

Concerned: TypeAlias = Callable[[Subscription], bool]
"""Whether a subscription may show something else than its subscriber is sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Refresh:
    """The rows of a topic that this filter lets through, or all figures, have to be read again."""

    topic: Topic
    subscription: Subscription
    filter: Filter
    pending: Pending


@dataclass(slots=True, eq=False)
class Inquiry:
    """A change of which the database has to say what it means to some topics. They wait for it, and nobody else does.

    `arrangement`: what it asks holds as long as the hub's is the same.
    """

    change: Change
    matches: list[Match[Topic]]
    pending: dict[Topic, Pending]
    arrangement: object
    size_bytes: int

    @property
    def subject(self) -> int:
        """What is asked about, as a hash: it is as slow the next time."""
        return hash(frozenset([match.subject for match in self.matches]))


class Hub:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, held_bytes_max: int) -> None:
        self.era = NO_ERA
        self._collections = CollectionRegistry()
        self.sources: Mapping[int, Source] = self._collections.sources
        """What changes of each table belong to by the newest catalog, by `oid`."""
        self._subscribers = SubscriberRegistry(held_bytes_max)
        self._ciphers = CursorCiphers()
        self._touched: dict[Topic, None] = {}
        self._catching_up: dict[Topic, None] = {}
        self._stale: dict[Topic, None] = {}
        self._is_concerned: Concerned = _nobody
        self.arrangement = object()
        """Another one when subscribers have been taken from where an inquiry may have found them."""
        self.inquiries: list[Inquiry] = []
        self._emptied_by: dict[int, int] = {}  # collection -> the xid that truncated it and wrote nothing since

    def __len__(self) -> int:
        """The number of subscriptions."""
        return len(self._subscribers)

    @property
    def is_settled(self) -> bool:
        """Whether everything that came has been sent, and nothing has to be read."""
        if self.has_stale or any(subscriber.state is State.LOADING for subscriber in self._subscribers):
            return False
        return not any(topic.is_pending for topic in self._subscribers.topics)

    # --- subscribers ---

    def follow(self, outlet: Outlet, subscription: Subscription, after: str | None = None) -> Reading:
        subscriber = Subscriber(outlet, subscription, self._ciphers, after)
        self._subscribers.add(subscriber)
        self._join(subscriber)
        outlet.open(subscriber)
        return subscriber.reading()

    def leave(self, subscriber: Subscriber) -> None:
        """End a subscription. Does nothing when it has ended already."""
        if subscriber.state is not State.ENDED:
            self._subscribers.remove(subscriber)
            subscriber.take(Step.LEFT)
            subscriber.forget()
            subscriber.outlet.drop(subscriber)

    def suspend(self, subscriber: Subscriber) -> None:
        """Tell it nothing more until it goes on, not even what waits for it."""
        if subscriber.state not in (State.PAUSED, State.ENDED):
            self._subscribers.part(subscriber)
            subscriber.take(Step.PAUSED)
            subscriber.forget()

    def go_on_as(self, subscriber: Subscriber, subscription: Subscription) -> Reading | None:
        """The same request for another principal: fresh data. None for one that has ended, or sees the same."""
        known = subscriber.subscription
        if subscriber.state is State.PAUSED:
            subscriber.subscription = subscription
            subscriber.take(Step.RESUMED)
            self._join(subscriber)
            subscriber.after = None
            return subscriber.reading()
        if subscriber.state is State.ENDED or known == subscription:
            return None
        self.arrangement = object()
        reading = self._move(subscriber, subscription)
        if reading is None and subscriber.state in FOLLOWING and not subscription.sees_as(known):
            reading = self.start_anew(subscriber)
        _forget_former_rights(subscriber, known)
        return reading

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        """End a subscription and say why."""
        if subscriber.state is not State.ENDED:
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
        has to follow, since the events of something that came after it are unknown.
        """
        subscriber, topic = reading.subscriber, reading.subscriber.topic
        if not reading.current or topic is None:
            return None
        if topic.is_late(subscriber):
            return topic.reload(subscriber)
        era = anchor.era if anchor.era == self.era else NO_ERA
        subscriber.start = Position.of(era, data.snapshot)
        subscriber.after = None
        client_position = self.client_position(subscriber, Cursor(anchor.shape, era, (subscriber.start,)))
        subscriber.push(_init(subscriber, data), client_position)
        subscriber.has_data = True
        return None if self._start(topic, subscriber, data.snapshot) else topic.reload(subscriber)

    def go_on(self, subscriber: Subscriber, start: Position) -> bool:
        """The client has all that `start` has: send what came after it. False when too much came to be kept, or
        something of which the events are unknown: then a new reading is awaited.
        """
        topic = subscriber.topic
        if topic is None or subscriber.state is not State.LOADING:
            return False
        if not self._start(topic, subscriber, start.seen):
            topic.reload(subscriber)
            return False
        subscriber.start = start
        return True

    def start_anew(self, subscriber: Subscriber) -> Reading:
        """The subscriber cannot go on from where it is: fresh data."""
        subscriber.after = None
        return self._reload(subscriber)

    def _start(self, topic: Topic, subscriber: Subscriber, snapshot: Snapshot) -> bool:
        if not topic.start(subscriber, snapshot):
            return False
        self._catching_up[topic] = None
        subscriber.outbox.check(subscriber.outlet)
        subscriber.outlet.wake()
        return True

    def _join(self, subscriber: Subscriber) -> None:
        if self._is_concerned(subscriber.subscription):
            subscriber.take(Step.WITHHELD)
            subscriber.forget()
        else:
            self._subscribers.join(subscriber)

    def _reload(self, subscriber: Subscriber) -> Reading:
        return subscriber.topic.reload(subscriber) if subscriber.topic else subscriber.reading()

    def _move(self, subscriber: Subscriber, subscription: Subscription) -> Reading | None:
        """From here on it follows something else. A reading when it may have missed what its old topic waited for."""
        topic = subscriber.topic
        if topic is None:
            subscriber.subscription = subscription
            return None
        if self._subscribers.move_topic(topic, {subscriber: subscription}):
            return None
        is_incomplete = topic.is_pending or topic in self._stale or subscriber.state is State.LOADING
        self._subscribers.part(subscriber)
        subscriber.subscription = subscription
        self._join(subscriber)
        if subscriber.topic is None:
            return None
        if subscriber.state is State.CATCHING_UP:
            self._catching_up[subscriber.topic] = None
        is_incomplete = is_incomplete or subscriber.topic.is_pending  # of what it has been sent already
        return subscriber.topic.reload(subscriber) if is_incomplete else None

    # --- what clients have been sent ---

    def client_position(self, subscriber: Subscriber, cursor: Cursor) -> ClientPosition | None:
        """None for those who did not ask for cursors."""
        rights = subscriber.subscription.rights
        return ClientPosition(self._ciphers.under(rights), cursor) if subscriber.subscription.cursor else None

    def open(self, subscriber: Subscriber, text: str) -> Cursor | None:
        """None for whatever is not a cursor that we gave under the rights that this one has."""
        return self._ciphers.under(subscriber.subscription.rights).open(text)

    # --- the stream ---

    def apply(self, change: Change, now_us: int = 0) -> list[Reading]:
        """Send one change to all that follow its table, or show it. Where memory cannot tell what it means, an inquiry
        takes its place (`inquiries`). `now_us` is the moment of `$NOW`, in microseconds since 1970.
        """
        source = self.sources.get(change.relation_id)
        if source is None:
            return []
        if change.operation is Operation.TRUNCATE:
            return self._truncate(change, source.collection)
        relation_id = source.collection.relation_id
        if self._emptied_by:
            self._emptied_by.pop(relation_id, None)
        readings = self._fan_out(change, source, now_us) if relation_id in self._subscribers.index.tables else []
        if relation_id in self._subscribers.showing:
            readings += self._make_stale(change, source.collection)
        return readings

    def flush(self) -> None:
        """Wake every connection that has something to send, once. To be called at the end of each batch."""
        for topic in self._touched:
            topic.announce()
        self._touched.clear()
        woken = self._subscribers.woken
        while woken:
            outlet, _ = woken.popitem()
            outlet.outbox.check(outlet)
            outlet.wake()

    def _publish(self, topic: Topic, change: Change, events: Events | None) -> list[Reading]:
        if events and events[0].stale is not None:
            topic.make_stale(events[0].stale, change.xid)
            self._stale[topic] = None
            return []
        self._touched[topic] = None
        return topic.publish(change.xid, events)

    def _truncate(self, change: Change, collection: Collection) -> list[Reading]:
        self._collections.truncate(change)
        if change.relation_id == collection.relation_id:
            self._emptied_by[collection.relation_id] = change.xid
            readings = self._empty(change, collection)
            return readings + _reload_all(self._subscribers.topics_showing(collection.relation_id))
        if self._emptied_by.get(collection.relation_id) == change.xid:
            return []  # TRUNCATE of a partitioned table fires its trigger first and then one for each partition
        return self.hold(collection.relation_id)  # a partition was emptied, the collection was not

    def _empty(self, change: Change, collection: Collection) -> list[Reading]:
        encoder = EventEncoder(change, self.table(collection.relation_id), _event_position(change, collection))
        readings: list[Reading] = []
        for topic in self._subscribers.topics_of(collection.relation_id):
            if events := encoder.events(topic.subscription):
                readings += self._publish(topic, change, events)
        return readings

    def _fan_out(self, change: Change, source: Source, now_us: int) -> list[Reading]:
        readings: list[Reading] = []
        collection, table, _, _, orders = source
        if orders is not None and not orders.holds(change):
            for topic in self._subscribers.topics_concerned(collection.relation_id):
                readings += self._publish(topic, change, None)
            return readings
        encoder = EventEncoder(change, table, _event_position(change, collection))
        for filters, matches in find_matches(
            self._subscribers.index.tables.get(source.collection.relation_id), change, source.table, now_us
        ):
            is_unsure = matches is not None and (matches.unsure_old or matches.unsure_new)
            for group in () if is_unsure else filters.flat:
                if events := encoder.events(group.subscription, matches):
                    for topic in group.members:
                        readings += self._publish(topic, change, events)
            if is_unsure or filters.nested:
                groups = filters.by_context if is_unsure else by_context(filters.nested)
                self._inquire(
                    Match(change, source, self.catalog, now_us, filters.filter, groups=groups, matches=matches)
                )
        return readings

    # --- what has to be asked ---

    def _inquire(self, match: Match[Topic]) -> None:
        change = match.change
        pending = {topic: topic.wait(change.xid) for group in match.groups for topic in group.members}
        self.inquiries.append(Inquiry(change, [match], pending, self.arrangement, size_bytes(change)))

    def is_current(self, inquiry: Inquiry) -> bool:
        """Whether its answer still means what was asked."""
        return inquiry.arrangement is self.arrangement

    def ask_again(self, inquiry: Inquiry, now_us: int) -> bool:
        """Rights or the catalog have changed since it was asked. False when nobody can be asked any more."""
        inquiry.arrangement = self.arrangement
        change, waiting = inquiry.change, inquiry.pending.keys()
        source = self.sources.get(change.relation_id)
        if source is None:
            return False
        inquiry.matches = []
        for filters, matches in find_matches(
            self._subscribers.index.tables.get(source.collection.relation_id), change, source.table, now_us
        ):
            if groups := by_context(group for group in filters.groups if not waiting.isdisjoint(group.members)):
                inquiry.matches.append(
                    Match(change, source, self.catalog, now_us, filters.filter, groups=groups, matches=matches)
                )
        return True

    def settle(self, inquiry: Inquiry) -> list[Reading]:
        """The answer is there: its topics go on."""
        change = inquiry.change
        found: dict[Topic, Events | None] = dict.fromkeys(inquiry.pending, ())
        for match in inquiry.matches:
            for group, events in match.events(_event_position(change, match.collection)):
                found.update(dict.fromkeys(group.members, events))
        readings: list[Reading] = []
        for topic, pending in inquiry.pending.items():
            events = found[topic]
            if events and events[0].stale is not None:
                self._publish(topic, change, events)
                events = ()
            self._touched[topic] = None
            readings += topic.settle(pending, events)
        return readings

    def drop(self, inquiry: Inquiry) -> list[Reading]:
        """It cannot be answered: fresh data for those who wait for it."""
        readings: list[Reading] = []
        for topic, pending in inquiry.pending.items():
            self._touched[topic] = None
            readings += topic.settle(pending, None)
        return readings

    def _make_stale(self, change: Change, collection: Collection) -> list[Reading]:
        """Rows of other tables that show what has changed have to be shown again."""
        readings: list[Reading] = []
        for topic, rows in rows_that_show(
            change, self._subscribers.topics_showing(collection.relation_id), self.catalog
        ):
            if rows is None:
                readings += self._publish(topic, change, None)
            elif rows != NOTHING:
                self._publish(topic, change, (Event(EventKind.UPDATE, stale=rows),))
        return readings

    # --- what has to be read again ---

    @property
    def has_stale(self) -> bool:
        """Whether rows or figures have to be read again."""
        return bool(self._stale) and any(topic.needs_refresh for topic in self._stale)

    def take_stale(self) -> list[Refresh]:
        """What has to be read again. Its topics are sent nothing else until it is shown, or cannot be."""
        ready = [topic for topic in self._stale if topic.needs_refresh]
        refreshes = [Refresh(topic, topic.subscription, topic.stale, topic.refresh()) for topic in ready]
        self._stale = {topic: None for topic in self._stale if topic.subscribers and topic.stale != NOTHING}
        return refreshes

    def show(self, refresh: Refresh, rows: tuple[bytes, ...], seen: Snapshot) -> list[Reading]:
        """What was stale has been read, in a snapshot. It is shown to nobody who might see something else by now."""
        subscription = refresh.topic.subscription
        if not subscription.sees_as(refresh.subscription) or subscription.context != refresh.subscription.context:
            return self.give_up(refresh)
        readings = refresh.topic.show(refresh.pending, rows, seen)
        self._touched[refresh.topic] = None
        self.flush()
        return readings

    def give_up(self, refresh: Refresh) -> list[Reading]:
        """It cannot be shown: fresh data for those who still wait for it."""
        return refresh.topic.reload_all() if refresh.topic.refreshing is refresh.pending else []

    def take_heartbeat(self, snapshot: Snapshot, lagging: Set[int] = frozenset()) -> None:
        """A heartbeat: all that `snapshot` sees has been applied, but for the tables that lag."""
        for topic in list(self._catching_up):
            if lagging.isdisjoint(self.collection(topic.subscription).filenodes):
                topic.take_heartbeat(snapshot)
            if not topic.catching_up:
                del self._catching_up[topic]

    def is_congested(self, relation_ids: Iterable[int]) -> bool:
        """Whether nobody who follows these tables has room. Who has much to tell may wait for the quickest of them."""
        topics = [topic for each in relation_ids for topic in self._subscribers.topics_of(each)]
        subscribers = [subscriber for topic in topics for subscriber in topic.subscribers]
        return bool(subscribers) and not any(subscriber.outlet.has_room for subscriber in subscribers)

    def is_followed(self, relation_id: int) -> bool:
        """Whether anybody is sent what happens in this collection."""
        return bool(self._subscribers.topics_concerned(relation_id))

    def collection(self, subscription: Subscription) -> Collection:
        """What it follows, as the newest catalog has it."""
        known = subscription.collection
        return self.catalog.by_relation_id.get(known.relation_id, known)

    def listening(self, era: Era, secret: bytes | None) -> None:
        """Positions are of this era now, and cursors are sealed with this secret; without one, by ours alone."""
        self.era = era
        if secret is not None:
            self._ciphers.take(secret)

    def turn(self, era: Era) -> None:
        self.era = era

    def hold_not_durable(self) -> list[Reading]:
        """After a gap in listening that the log has filled: those whose changes are not in it need fresh data."""
        return _reload_all(topic for topic in self._subscribers.topics if not self._is_logged(topic.subscription))

    def _is_logged(self, subscription: Subscription) -> bool:
        """Whether the log has all changes that it is sent."""
        shown = tables_of(subscription) if subscription.related else ()
        others = [self.catalog.by_relation_id.get(relation_id) for relation_id in shown]
        return self.collection(subscription).durable and all(each is None or each.durable for each in others)

    def hold(self, relation_id: int | None = None) -> list[Reading]:
        """After a gap: everybody, or those that follow or show one table, need fresh data."""
        if relation_id is None:
            return _reload_all(self._subscribers.topics)
        return _reload_all(self._subscribers.topics_concerned(relation_id))

    # --- whose rights are being asked about, or whose collection is missing ---

    @property
    def missing(self) -> list[Subscriber]:
        """Those that wait since no collection has the name that they follow."""
        waiting = [subscriber for subscriber in self._subscribers if subscriber.state is State.WAITING]
        return [each for each in waiting if each.subscription.collection.name not in self.catalog.by_name]

    @property
    def held_back_count(self) -> int:
        return sum(subscriber.state is State.WAITING for subscriber in self._subscribers)

    def hold_back(self, is_concerned: Concerned) -> None:
        """Tell those nothing who are concerned, nor who comes meanwhile and is: not before `adopt` or `release`."""
        self._is_concerned = is_concerned
        self._withhold(is_concerned)

    def _withhold(self, is_concerned: Concerned) -> None:
        for subscriber in self._subscribers:
            if subscriber.topic is not None and is_concerned(subscriber.subscription):
                self._subscribers.part(subscriber)
                subscriber.take(Step.WITHHELD)
                subscriber.forget()

    def release(self) -> list[Reading]:
        """Let those go on who were held back: with fresh data, since they have not been sent what came meanwhile."""
        self._is_concerned = _nobody
        missing = frozenset(self.missing)
        waiting = [each for each in self._subscribers if each.state is State.WAITING and each not in missing]
        for subscriber in waiting:
            subscriber.take(Step.RELEASED)
            self._subscribers.join(subscriber)
        return [subscriber.reading() for subscriber in waiting]

    # --- the catalog ---

    @property
    def catalog(self) -> Catalog:
        return self._collections.catalog

    def table(self, relation_id: int) -> Table:
        """Of a collection that is in the catalog."""
        return self._collections.table(relation_id)

    def adopt(self, catalog: Catalog, judge: Judge, *, rights_changed: bool = False) -> list[Reading]:
        """Take over a new catalog; subscribers of changed tables are judged anew, and start anew or are refused.
        Those who have been held back start anew in any case. Those of a name that is gone wait for it (`missing`).

        `rights_changed`: everybody may see something else. Whatever `judge` raises besides `RequestError` comes, in one
        group, before anything has changed.
        """
        differences = self._collections.compare(catalog)
        if rights_changed:
            everything = frozenset(collection.relation_id for collection in catalog.by_name.values())
            differences = replace(differences, rights=everything)
        judged = self._subscribers.judged_anew(catalog, differences, judge)
        self._collections.adopt(catalog)
        self.arrangement = object()
        if differences.gone:
            self._withhold(lambda subscription: subscription.collection.name not in catalog.by_name)
        known = [(subscriber, judgement, subscriber.subscription) for subscriber, judgement in judged]
        self._judge_topics(judged)
        readings = [reading for each in known if (reading := self._begin_anew(*each)) is not None]
        altered = [t for t in self._subscribers.topics if not tables_of(t.subscription).isdisjoint(differences.anew)]
        readings += _reload_all(altered)
        return [reading for reading in [*readings, *self.release()] if reading.current]

    def _judge_topics(self, judged: Iterable[tuple[Subscriber, Judgement]]) -> None:
        """Those who stay together after all keep what waits for them."""
        found: dict[Topic, dict[Subscriber, Subscription]] = {}
        for subscriber, judgement in judged:
            if subscriber.topic is not None and not isinstance(judgement, RequestError):
                found.setdefault(subscriber.topic, {})[subscriber] = judgement
        for topic, subscriptions in found.items():
            self._subscribers.move_topic(topic, subscriptions)

    def _begin_anew(self, subscriber: Subscriber, judgement: Judgement, known: Subscription) -> Reading | None:
        """None when nothing is new to this one."""
        if isinstance(judgement, RequestError):
            self.refuse(subscriber, judgement)
            return None
        reading = None if subscriber.subscription is judgement else self._move(subscriber, judgement)
        if reading is None and subscriber.topic is not None and not judgement.sees_as(known):
            reading = subscriber.topic.reload(subscriber)
        _forget_former_rights(subscriber, known)
        return reading


def size_bytes(change: Change) -> int:
    """What it takes while it waits."""
    return 100 + sum([len(row.raw) for row in (*change.old, *change.new)])


def _reload_all(topics: Iterable[Topic]) -> list[Reading]:
    return [reading for topic in topics for reading in topic.reload_all()]


def _forget_former_rights(subscriber: Subscriber, known: Subscription) -> None:
    """Send nothing of what waits, if it was meant for somebody who might see something else: fresh data follow."""
    if subscriber.subscription.rights != known.rights:
        subscriber.forget()


def _nobody(_: Subscription) -> bool:
    return False


def _event_position(change: Change, collection: Collection) -> EventPosition | None:
    return EventPosition(collection.shape, change.position) if change.position else None


def _init(subscriber: Subscriber, data: InitialData) -> Event:
    reason = Reason.RESYNC if subscriber.has_data else None
    if subscriber.subscription.event is not None:
        return Event(EventKind.INIT, None, reason)
    return Event(EventKind.INIT, data.rows, reason, data.more, meta=data.meta)
