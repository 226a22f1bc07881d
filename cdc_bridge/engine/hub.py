"""The subscribers of a bridge, with their rights and the catalog that they were parsed against.

Rule: a hub is driven by calls and never waits. It keeps three things in step: the catalog, the topics, and the state of
each subscriber. `publisher.py` sends the stream to the topics that are registered here.

Guarantee: a subscriber gets one `init` first; after it, in their order, every event that concerns it and that the
`init` did not hold; and after a gap another `init`, never silence. A subscriber that resumes gets an `init` without
data and what it has missed (`replay.py`), while its topic keeps what is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from cdc_bridge.engine.collection_registry import CollectionRegistry, Table
from cdc_bridge.engine.dependents import tables_of
from cdc_bridge.engine.registry import Judge, Judgement, SubscriberRegistry, reload_all
from cdc_bridge.engine.state import FOLLOWING, State, Step
from cdc_bridge.engine.subscriber import Anchor, CursorCiphers, Outlet, Reading, Subscriber
from cdc_bridge.engine.topic import Topic
from cdc_bridge.model.catalog import SHAPE_BYTES, Catalog
from cdc_bridge.model.change import NO_ERA, Era, Position, Snapshot
from cdc_bridge.model.cursor import ClientPosition, Cursor
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.subscription import Event, EventKind, Reason, Subscription
from cdc_bridge.ports import InitialData

Concerned: TypeAlias = Callable[[Subscription], bool]
"""Whether a subscription may show something else than its subscriber is sent."""


class Hub:
    """See the module's docstring. Methods that make readings necessary return them."""

    def __init__(self, held_bytes_max: int) -> None:
        self.era = NO_ERA
        """The era of the positions that come from the stream now."""
        self.collections = CollectionRegistry()
        self.tables: Mapping[int, Table] = self.collections.tables
        self.subscribers = SubscriberRegistry(held_bytes_max)
        self.cursors: Counter[str] = Counter()
        """Cursors that clients came back with, by what became of them, for metrics."""
        self._ciphers = CursorCiphers()
        self._is_concerned: Concerned = _nobody
        self._withheld: dict[Subscriber, None] = {}  # those that are WAITING, and some that no longer are

    def __len__(self) -> int:
        """Return the number of subscriptions."""
        return len(self.subscribers)

    @property
    def is_settled(self) -> bool:
        """Whether all subscribers have their data, and no topic waits for an answer or for rows."""
        if any(subscriber.state is State.LOADING for subscriber in self.subscribers):
            return False
        return not any(topic.is_pending for topic in self.subscribers.topics)

    # --- subscribers ---

    def is_followed(self, relation_id: int) -> bool:
        """Whether any topic follows or shows this collection."""
        return bool(self.subscribers.topics_concerned(relation_id))

    def follow(self, outlet: Outlet, subscription: Subscription, after: str | None = None) -> Reading:
        subscriber = Subscriber(outlet, subscription, self._ciphers, after)
        self.subscribers.add(subscriber)
        self._join(subscriber)
        outlet.open(subscriber)
        return subscriber.reading()

    def leave(self, subscriber: Subscriber) -> None:
        """End a subscription. Does nothing when it has ended already."""
        if subscriber.state is not State.ENDED:
            if subscriber.state is State.PAUSED:
                self.subscribers.unpause(subscriber)
            self.subscribers.remove(subscriber)
            subscriber.take(Step.LEFT)
            subscriber.forget()
            subscriber.outlet.drop(subscriber)

    def suspend(self, subscriber: Subscriber) -> None:
        """Send it nothing until it goes on, not even what waits for it."""
        if subscriber.state not in (State.PAUSED, State.ENDED):
            self.subscribers.pause(subscriber)
            subscriber.take(Step.PAUSED)
            subscriber.forget()

    def go_on_as(self, subscriber: Subscriber, subscription: Subscription) -> Reading | None:
        """The same request for another principal: fresh data. None for one that has ended, or sees the same."""
        known = subscriber.subscription
        if subscriber.state is State.PAUSED:
            self.subscribers.unpause(subscriber)
            subscriber.subscription = subscription
            subscriber.take(Step.RESUMED)
            self._join(subscriber)
            subscriber.after = None
            return subscriber.reading()
        if subscriber.state is State.ENDED or known == subscription:
            return None
        self.subscribers.rearrange()
        reading = self._move(subscriber, subscription)
        if reading is None and subscriber.state in FOLLOWING and not subscription.sees_as(known):
            reading = self.start_anew(subscriber)
        _forget_former_rights(subscriber, known)
        return reading

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        """End a subscription with an error."""
        if subscriber.state is not State.ENDED:
            self.leave(subscriber)
            subscriber.outlet.refuse(subscriber, error)

    def anchor(self, relation_id: int) -> Anchor:
        """Return the anchor of data of this collection. Call it before they are read."""
        collection = self.catalog.by_relation_id.get(relation_id)
        if collection is None or not collection.durable:
            return Anchor(NO_ERA, bytes(SHAPE_BYTES))
        return Anchor(self.era, collection.shape)

    def begin(self, reading: Reading, anchor: Anchor, data: InitialData) -> Reading | None:
        """Send initial data and what came after it. A reading comes back when the data came too late, or another one
        has to follow, since the events of something that came after it are unknown.
        """
        subscriber, topic = reading.subscriber, reading.subscriber.topic
        if not reading.is_current or topic is None:
            return None
        if topic.is_late(subscriber):
            return topic.reload(subscriber)
        era = anchor.era if anchor.era == self.era else NO_ERA
        subscriber.start = Position.of(era, data.snapshot)
        subscriber.after = None
        client_position = self.client_position(subscriber.subscription, Cursor(anchor.shape, era, (subscriber.start,)))
        subscriber.push(_init(subscriber, data), client_position)
        subscriber.has_data = True
        if subscriber.awaited is not reading:
            return None  # there was no room for so much
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
        """Return a reading of fresh data for a subscriber that cannot go on from where it is."""
        subscriber.after = None
        return subscriber.topic.reload(subscriber) if subscriber.topic else subscriber.reading()

    def catch_up(self, outlet: Outlet) -> list[Reading]:
        """A connection has room again: return a reading for the first of its subscribers that are BEHIND.

        The others have their turn after it, since there might not be room for all of their data.
        """
        behind = outlet.outbox.behind
        while behind:
            subscriber = next(iter(behind))
            del behind[subscriber]
            if subscriber.state is State.BEHIND:
                return [self.start_anew(subscriber)]
        return []

    def _start(self, topic: Topic, subscriber: Subscriber, snapshot: Snapshot) -> bool:
        if not topic.start(subscriber, snapshot):
            return False
        self.subscribers.catching_up[topic] = None
        subscriber.outbox.check(subscriber.outlet)
        subscriber.outlet.wake()
        return True

    def _join(self, subscriber: Subscriber) -> None:
        if self._is_concerned(subscriber.subscription):
            self._withhold(subscriber)
        else:
            self.subscribers.join(subscriber)

    def _move(self, subscriber: Subscriber, subscription: Subscription) -> Reading | None:
        """Let it follow something else. Return a reading if it may have missed what its old topic waited for."""
        topic = subscriber.topic
        if topic is None:
            subscriber.subscription = subscription
            return None
        if self.subscribers.move_topic(topic, {subscriber: subscription}):
            return None
        is_incomplete = topic.is_pending or topic in self.subscribers.stale or subscriber.state is State.LOADING
        is_incomplete = is_incomplete or subscriber.is_far_behind
        self.subscribers.part(subscriber)
        subscriber.subscription = subscription
        self._join(subscriber)
        if subscriber.topic is None:
            return None
        if subscriber.state is State.CATCHING_UP:
            self.subscribers.catching_up[subscriber.topic] = None
        is_incomplete = is_incomplete or subscriber.topic.is_pending  # of what it has been sent already
        return subscriber.topic.reload(subscriber) if is_incomplete else None

    # --- what clients have been sent ---

    def client_position(self, subscription: Subscription, cursor: Cursor) -> ClientPosition | None:
        """Return the client position of a cursor; None if the client did not ask for cursors."""
        return ClientPosition(self._ciphers.under(subscription.rights), cursor) if subscription.cursor else None

    def open(self, subscription: Subscription, text: str) -> ClientPosition | None:
        """Open a cursor. Return None if it was not given by us under the rights of this subscription."""
        cipher = self._ciphers.under(subscription.rights)
        cursor = cipher.open(text)
        return None if cursor is None else ClientPosition(cipher, cursor, text)

    # --- the era of the stream, and gaps in it ---

    def listening(self, era: Era, secret: bytes | None) -> None:
        """Cursors are sealed with this secret from now on; without one, with ours alone."""
        self.era = era
        if secret is not None:
            self._ciphers.take(secret)

    def hold_not_durable(self) -> list[Reading]:
        """Return readings for subscribers whose changes are not in the log, after it has filled a gap in listening."""
        return reload_all(topic for topic in self.subscribers.topics if not self._is_logged(topic.subscription))

    def _is_logged(self, subscription: Subscription) -> bool:
        """Whether the log has all changes that a subscriber is sent."""
        shown = tables_of(subscription) if subscription.related else ()
        others = [self.catalog.by_relation_id.get(relation_id) for relation_id in shown]
        followed = self.collections.newest(subscription.collection)
        return followed.durable and all(each is None or each.durable for each in others)

    def hold(self, relation_id: int | None = None) -> list[Reading]:
        """Return readings for all subscribers, or those that follow or show one table, after a gap."""
        if relation_id is None:
            return reload_all(self.subscribers.topics)
        return reload_all(self.subscribers.topics_concerned(relation_id))

    # --- subscribers that wait for an answer about their rights, or for their collection ---

    @property
    def missing(self) -> list[Subscriber]:
        """Return the subscribers that wait because no collection has the name that they follow."""
        return [each for each in self._waiting() if each.subscription.collection.name not in self.catalog.by_name]

    @property
    def held_back_count(self) -> int:
        return len(self._waiting())

    def _waiting(self) -> list[Subscriber]:
        if self._withheld:  # each request asks, and there can be thousands of subscribers
            self._withheld = {each: None for each in self._withheld if each.state is State.WAITING}
        return list(self._withheld)

    def hold_back(self, is_concerned: Concerned) -> None:
        """Send nothing to subscribers that are concerned, newcomers included, until `adopt` or `release`."""
        self._is_concerned = is_concerned
        self._withhold_all(is_concerned)

    def _withhold_all(self, is_concerned: Concerned) -> None:
        for subscriber in self.subscribers:
            if subscriber.topic is not None and is_concerned(subscriber.subscription):
                self.subscribers.part(subscriber)
                self._withhold(subscriber)

    def _withhold(self, subscriber: Subscriber) -> None:
        subscriber.take(Step.WITHHELD)
        subscriber.forget()
        self._withheld[subscriber] = None

    def release(self) -> list[Reading]:
        """Let subscribers that were held back go on, with fresh data, since they were not sent what came meanwhile."""
        self._is_concerned = _nobody
        missing = frozenset(self.missing)
        waiting = [each for each in self._waiting() if each not in missing]
        for subscriber in waiting:
            subscriber.take(Step.RELEASED)
            self.subscribers.join(subscriber)
        return [subscriber.reading() for subscriber in waiting]

    # --- the catalog ---

    @property
    def catalog(self) -> Catalog:
        return self.collections.catalog

    def adopt(self, catalog: Catalog, judge: Judge, *, rights_changed: bool = False) -> list[Reading]:
        """Take over a new catalog; subscribers of changed tables are judged anew, and start anew or are refused.
        Those that have been held back start anew in any case. Those of a name that is gone wait for it (`missing`).

        `rights_changed`: any subscriber may see something else. What `judge` raises besides `RequestError` comes in one
        group, before anything has changed.
        """
        differences = self.collections.compare(catalog)
        if rights_changed:
            everything = frozenset(collection.relation_id for collection in catalog.by_name.values())
            differences = replace(differences, rights=everything)
        judged = self.subscribers.judged_anew(catalog, differences, judge)
        self.collections.adopt(catalog)
        self.subscribers.rearrange()
        if differences.gone:
            self._withhold_all(lambda subscription: subscription.collection.name not in catalog.by_name)
        known = [(subscriber, judgement, subscriber.subscription) for subscriber, judgement in judged]
        self._judge_topics(judged)
        readings = [reading for each in known if (reading := self._begin_anew(*each)) is not None]
        altered = [t for t in self.subscribers.topics if not tables_of(t.subscription).isdisjoint(differences.anew)]
        readings += reload_all(altered)
        return [reading for reading in [*readings, *self.release()] if reading.is_current]

    def _judge_topics(self, judged: Iterable[tuple[Subscriber, Judgement]]) -> None:
        """Move topics whose subscribers all stay equal, with what waits for them."""
        found: dict[Topic, dict[Subscriber, Subscription]] = {}
        for subscriber, judgement in judged:
            if subscriber.topic is not None and not isinstance(judgement, RequestError):
                found.setdefault(subscriber.topic, {})[subscriber] = judgement
        for topic, subscriptions in found.items():
            self.subscribers.move_topic(topic, subscriptions)

    def _begin_anew(self, subscriber: Subscriber, judgement: Judgement, known: Subscription) -> Reading | None:
        """Return a reading of fresh data, or None if nothing has changed for this subscriber."""
        if isinstance(judgement, RequestError):
            self.refuse(subscriber, judgement)
            return None
        reading = None if subscriber.subscription is judgement else self._move(subscriber, judgement)
        if reading is None and subscriber.topic is not None and not judgement.sees_as(known):
            reading = subscriber.topic.reload(subscriber)
        _forget_former_rights(subscriber, known)
        return reading


def _forget_former_rights(subscriber: Subscriber, known: Subscription) -> None:
    """Drop what waits if it was meant for other rights: fresh data follow."""
    if subscriber.subscription.rights != known.rights:
        subscriber.forget()


def _nobody(_: Subscription) -> bool:
    return False


def _init(subscriber: Subscriber, data: InitialData) -> Event:
    reason = Reason.RESYNC if subscriber.has_data else None
    if subscriber.subscription.event is not None:
        return Event(EventKind.INIT, None, reason)
    return Event(EventKind.INIT, data.rows, reason, data.more, meta=data.meta)
