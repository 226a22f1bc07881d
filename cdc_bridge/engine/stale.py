"""What subscribers have to be shown again, since what it was worked out from has changed.

Rule: it collects until somebody takes it, so that a thousand changes cost as many readings as there is time for.

Bound: `FILTERS_MAX` filters of one subscriber. Policy: past it everything that it follows counts as stale.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

from cdc_bridge.engine.relating import deciding, showing
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.change import Change
from cdc_bridge.model.filter import EVERYTHING, Filter, disjunction
from cdc_bridge.model.projection import Projection
from cdc_bridge.model.subscription import Subscription

FILTERS_MAX = 50


@dataclass(frozen=True, slots=True)
class Refresh:
    """The rows that this filter lets through, or all figures, for subscribers of equal subscriptions."""

    subscription: Subscription
    filter: Filter
    subscribers: tuple[Subscriber, ...]

    def still(self) -> Refresh:
        """For those who look with the same eyes as when it was taken. The others have got fresh data since."""
        asked = _asked(self.subscription)
        return replace(
            self, subscribers=tuple([each for each in self.subscribers if _asked(each.subscription) == asked])
        )


class Stale:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._filters: dict[Subscriber, dict[Filter, None]] = {}

    def __len__(self) -> int:
        return len(self._filters)

    def add(self, subscriber: Subscriber, filter_: Filter) -> None:
        filters = self._filters.setdefault(subscriber, {})
        if EVERYTHING not in filters:
            filters[filter_] = None
        if len(filters) > FILTERS_MAX:
            self._filters[subscriber] = {EVERYTHING: None}

    def discard(self, subscriber: Subscriber) -> None:
        """It has gone, or gets fresh data."""
        self._filters.pop(subscriber, None)

    def take(self) -> list[Refresh]:
        """All of it."""
        equal: dict[Hashable, list[Subscriber]] = {}
        for subscriber, filters in self._filters.items():
            equal.setdefault((_asked(subscriber.subscription), frozenset(filters)), []).append(subscriber)
        taken = [
            Refresh(subscribers[0].subscription, disjunction(*self._filters[subscribers[0]]), tuple(subscribers))
            for subscribers in equal.values()
        ]
        self._filters = {}
        return taken


def _asked(subscription: Subscription) -> Hashable:
    return subscription.collection.relation_id, subscription.query, subscription.key, subscription.context


def rows_that_show(
    change: Change, subscribers: Iterable[Subscriber], catalog: Catalog
) -> Iterator[tuple[Subscriber, Filter | None]]:
    """For each subscriber of another table: which of its rows show what has changed. None: nobody can say which."""
    changed = catalog.by_relation_id[change.relation_id].relation_id
    known: dict[tuple[int, Projection], Filter | None] = {}
    for subscriber in subscribers:
        base, projection = subscriber.subscription.collection, subscriber.subscription.query.projection
        shows = base.relation_id, projection
        if changed in deciding(subscriber.subscription):
            yield subscriber, None  # any row may have entered its filter, or left it
            continue
        if shows not in known:
            known[shows] = showing(base, projection, change, catalog)
        yield subscriber, known[shows]
