"""Who follows what: all subscribers, found by the table that they follow, by its rows, and by tables that they show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Collection as Many
from typing import TypeAlias

from cdc_bridge.engine.filter_index import FilterIndex, Group
from cdc_bridge.engine.register import Differences
from cdc_bridge.engine.relating import deciding, tables_of, targets
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.subscription import EventKind, Subscription

Judge: TypeAlias = Callable[[Subscription, Collection], Subscription]
"""The same request against a changed table. Raises `RequestError` when it can no longer be served."""

Judgement: TypeAlias = Subscription | RequestError


class Roll:
    """See the module's docstring. It is walked over as it was at the beginning of the walk."""

    def __init__(self) -> None:
        self.index: FilterIndex[Subscriber] = FilterIndex()
        self._subscribers: dict[Subscriber, None] = {}
        self._showing: dict[int, dict[Subscriber, None]] = {}

    def __len__(self) -> int:
        return len(self._subscribers)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(list(self._subscribers))

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._subscribers

    def add(self, subscriber: Subscriber) -> None:
        self._subscribers[subscriber] = None
        self._place(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        del self._subscribers[subscriber]
        self._displace(subscriber)

    def move(self, subscriber: Subscriber, subscription: Subscription) -> None:
        """From here on it follows something else."""
        self._displace(subscriber)
        subscriber.subscription = subscription
        self._place(subscriber)

    def groups(self, relation_id: int) -> Many[Group[Subscriber]]:
        """Of those who follow this table."""
        return self.index.groups(relation_id)

    def following(self, relation_id: int) -> list[Subscriber]:
        return self.index.members(relation_id)

    def showing(self, relation_id: int) -> list[Subscriber]:
        """Those who asked to be told what happens here, although they follow another table, since it shows rows of this
        one, or its filter leads here.
        """
        return list(self._showing.get(relation_id, ()))

    def judged_anew(
        self, catalog: Catalog, differences: Differences, judge: Judge
    ) -> list[tuple[Subscriber, Judgement]]:
        """What becomes of those who follow, or are led to, what a new catalog changes. Nothing is changed here.

        Whatever `judge` raises besides `RequestError`, for however many, is raised at the end, in one group.
        """
        gone = {collection.relation_id for collection in differences.gone}
        now = {c.relation_id: c for c in catalog.by_name.values() if c.relation_id not in gone}
        found: list[tuple[Subscriber, Judgement]] = []
        failures: list[Exception] = []
        for subscriber in self._subscribers:
            collection = now.get(subscriber.subscription.collection.relation_id)
            if collection is not None and not tables_of(subscriber.subscription).isdisjoint(differences.all):
                try:
                    found.append((subscriber, _judged(subscriber.subscription, collection, judge)))
                except Exception as failure:  # all are of interest, the frames that they came from once at the most
                    failures.append(failure.with_traceback(None) if failures else failure)
        if failures:
            raise ExceptionGroup("not all can be judged", failures)
        return found

    def _place(self, subscriber: Subscriber) -> None:
        self.index.add(subscriber.subscription, subscriber)
        for relation_id in _shown(subscriber.subscription):
            self._showing.setdefault(relation_id, {})[subscriber] = None

    def _displace(self, subscriber: Subscriber) -> None:
        self.index.remove(subscriber.subscription, subscriber)
        for relation_id in _shown(subscriber.subscription):
            del self._showing[relation_id][subscriber]
            if not self._showing[relation_id]:
                del self._showing[relation_id]


def _shown(subscription: Subscription) -> Iterable[int]:
    if not (subscription.related and subscription.wants(EventKind.UPDATE)):
        return ()
    return targets(subscription.query.projection) | deciding(subscription)


def _judged(subscription: Subscription, collection: Collection, judge: Judge) -> Judgement:
    try:
        return judge(subscription, collection)
    except RequestError as error:
        return error
