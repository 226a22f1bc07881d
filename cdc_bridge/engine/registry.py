"""All subscribers, and their topics by followed table, by rows, and by the tables whose rows they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeAlias

from cdc_bridge.engine.collection_registry import Differences
from cdc_bridge.engine.dependents import deciding, tables_of, targets
from cdc_bridge.engine.filter_index import FilterIndex, topic_key
from cdc_bridge.engine.state import State
from cdc_bridge.engine.subscriber import Outlet, Reading, Subscriber
from cdc_bridge.engine.topic import Topic
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.subscription import EventKind, Subscription

Judge: TypeAlias = Callable[[Subscription, Collection], Subscription]
"""Parses the same request against a changed table. Raises `RequestError` if it can no longer be served."""

Judgement: TypeAlias = Subscription | RequestError


class SubscriberRegistry:
    """See the module's docstring. Iteration goes over a copy."""

    def __init__(self, bytes_max: int) -> None:
        self.index: FilterIndex[Topic] = FilterIndex()
        self.woken: dict[Outlet, None] = {}
        """Connections that have something to send since they were last woken."""
        self.catching_up: dict[Topic, None] = {}
        """Topics that call for a heartbeat, since a subscriber of theirs may be CATCHING_UP."""
        self.stale: dict[Topic, None] = {}
        """Topics of which rows or figures may have to be read again."""
        self.arrangement = object()
        """Replaced whenever subscribers have left topics in which an inquiry may have found them."""
        self.paused: Counter[int] = Counter()
        """How many subscribers of each collection are PAUSED, if any is."""
        self.make_topic: Callable[[Subscription, int, dict[Outlet, None]], Topic] = Topic
        self._bytes_max = bytes_max
        self._subscribers: dict[Subscriber, None] = {}
        self._topics: dict[Hashable, Topic] = {}
        self.showing: dict[int, dict[Topic, None]] = {}
        """Topics by tables that they show, or to which their filters lead, besides the one that they follow."""

    def __len__(self) -> int:
        return len(self._subscribers)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(list(self._subscribers))

    def rearrange(self) -> None:
        """Make pending inquiries invalid, so that they are asked again."""
        self.arrangement = object()

    def add(self, subscriber: Subscriber) -> None:
        self._subscribers[subscriber] = None

    def remove(self, subscriber: Subscriber) -> None:
        self.part(subscriber)
        self._subscribers.pop(subscriber, None)

    def pause(self, subscriber: Subscriber) -> None:
        self.part(subscriber)
        self.paused[subscriber.subscription.collection.relation_id] += 1

    def unpause(self, subscriber: Subscriber) -> None:
        """Forget that it was paused. Call it before its subscription is replaced."""
        relation_id = subscriber.subscription.collection.relation_id
        self.paused[relation_id] -= 1
        if not self.paused[relation_id]:
            del self.paused[relation_id]

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber to its topic."""
        subscription = subscriber.subscription
        key = topic_key(subscription)
        topic = self._topics.get(key)
        if topic is None:
            topic = self.make_topic(subscription, self._bytes_max, self.woken)
            self._register(topic, key)
        topic.join(subscriber)

    def part(self, subscriber: Subscriber) -> None:
        """Take a subscriber out of its topic, if it has one."""
        topic = subscriber.topic
        if topic is None:
            return
        topic.leave(subscriber)
        if not topic.subscribers:
            self._unregister(topic)
            self.catching_up.pop(topic, None)
            self.stale.pop(topic, None)

    def move_topic(self, topic: Topic, subscriptions: Mapping[Subscriber, Subscription]) -> bool:
        """Give a topic another subscription, and keep what waits for its subscribers.

        Return False, and do nothing, if they do not stay equal or if that subscription has a topic already.
        """
        keys = {topic_key(subscription) for subscription in subscriptions.values()}
        key = next(iter(keys))
        if (
            len(keys) > 1
            or subscriptions.keys() != topic.subscribers.keys()
            or self._topics.get(key, topic) is not topic
        ):
            return False
        self._unregister(topic)
        for subscriber, topic.subscription in subscriptions.items():
            subscriber.subscription = topic.subscription
        self._register(topic, key)
        return True

    def _register(self, topic: Topic, key: Hashable) -> None:
        self._topics[key] = topic
        self.index.add(topic.subscription, topic)
        for relation_id in _shown(topic.subscription):
            self.showing.setdefault(relation_id, {})[topic] = None

    def _unregister(self, topic: Topic) -> None:
        del self._topics[topic_key(topic.subscription)]
        self.index.remove(topic.subscription, topic)
        for relation_id in _shown(topic.subscription):
            del self.showing[relation_id][topic]
            if not self.showing[relation_id]:
                del self.showing[relation_id]

    @property
    def topics(self) -> list[Topic]:
        return list(self._topics.values())

    def latest_topics(self, count: int) -> list[Topic]:
        """Return the topics with subscribers for which something waits, those with the longest logs first."""
        late = [topic for topic in self._topics.values() if topic.late]
        return sorted(late, key=lambda topic: -topic.log.size_bytes)[:count]

    def topics_of(self, relation_id: int) -> list[Topic]:
        """Return the topics that follow this table."""
        return self.index.members(relation_id)

    def topics_showing(self, relation_id: int) -> list[Topic]:
        return list(self.showing.get(relation_id, ()))

    def topics_concerned(self, relation_id: int) -> list[Topic]:
        """Return the topics that follow or show this table."""
        return list(dict.fromkeys([*self.topics_of(relation_id), *self.topics_showing(relation_id)]))

    def judged_anew(
        self, catalog: Catalog, differences: Differences, judge: Judge
    ) -> list[tuple[Subscriber, Judgement]]:
        """Return what a new catalog means to the subscribers that it affects, or that wait for it.

        Each follows the table that has the name of its collection now. Nothing is changed here. All that `judge` raises
        besides `RequestError` is raised at the end, in one group.
        """
        found: list[tuple[Subscriber, Judgement]] = []
        failures: list[Exception] = []
        for subscriber in self._subscribers:
            if subscriber.state is State.PAUSED:
                continue  # it is parsed again when it resumes
            collection = catalog.by_name.get(subscriber.subscription.collection.name)
            is_affected = not tables_of(subscriber.subscription).isdisjoint(differences.all)
            if collection is not None and (is_affected or subscriber.topic is None):
                try:
                    found.append((subscriber, _judged(subscriber.subscription, collection, judge)))
                except Exception as failure:  # all are reported, but only one traceback
                    failures.append(failure.with_traceback(None) if failures else failure)
        if failures:
            raise ExceptionGroup("not all can be judged", failures)
        return found


def reload_all(topics: Iterable[Topic]) -> list[Reading]:
    """Return readings of fresh data for all subscribers of these topics."""
    return [reading for topic in topics for reading in topic.reload_all()]


def _shown(subscription: Subscription) -> frozenset[int]:
    if not (subscription.related and subscription.wants(EventKind.UPDATE)):
        return frozenset()
    return targets(subscription.query.projection) | deciding(subscription)


def _judged(subscription: Subscription, collection: Collection, judge: Judge) -> Judgement:
    try:
        return judge(subscription, collection)
    except RequestError as error:
        return error
