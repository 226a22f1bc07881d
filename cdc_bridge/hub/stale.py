"""What followers have to be shown again, since what it was worked out from has changed.

Rule: it collects until somebody takes it, so that a thousand changes cost as many readings as there is time for.

Bound: `FILTERS_MAX` filters of one follower. Policy: past it everything that it follows counts as stale.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

from cdc_bridge.catalog import Catalog
from cdc_bridge.change import Change
from cdc_bridge.filters.filter import EVERYTHING, Filter, disjunction
from cdc_bridge.hub.follower import Follower
from cdc_bridge.hub.relating import deciding, showing
from cdc_bridge.projection import Projection
from cdc_bridge.subscription import Subscription

FILTERS_MAX = 50


@dataclass(frozen=True, slots=True)
class Refresh:
    """The rows that this filter lets through, or all figures, for followers of equal subscriptions."""

    subscription: Subscription
    filter: Filter
    followers: tuple[Follower, ...]

    def still(self) -> Refresh:
        """For those who look with the same eyes as when it was taken. The others have got fresh data since."""
        asked = _asked(self.subscription)
        return replace(self, followers=tuple([each for each in self.followers if _asked(each.subscription) == asked]))


class Stale:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._filters: dict[Follower, dict[Filter, None]] = {}

    def __len__(self) -> int:
        return len(self._filters)

    def add(self, follower: Follower, filter_: Filter) -> None:
        filters = self._filters.setdefault(follower, {})
        if EVERYTHING not in filters:
            filters[filter_] = None
        if len(filters) > FILTERS_MAX:
            self._filters[follower] = {EVERYTHING: None}

    def discard(self, follower: Follower) -> None:
        """It has gone, or gets fresh data."""
        self._filters.pop(follower, None)

    def take(self) -> list[Refresh]:
        """All of it."""
        equal: dict[Hashable, list[Follower]] = {}
        for follower, filters in self._filters.items():
            equal.setdefault((_asked(follower.subscription), frozenset(filters)), []).append(follower)
        taken = [
            Refresh(followers[0].subscription, disjunction(*self._filters[followers[0]]), tuple(followers))
            for followers in equal.values()
        ]
        self._filters = {}
        return taken


def _asked(subscription: Subscription) -> Hashable:
    return subscription.collection.relation_id, subscription.query, subscription.key, subscription.sight


def rows_that_show(
    change: Change, followers: Iterable[Follower], catalog: Catalog
) -> Iterator[tuple[Follower, Filter | None]]:
    """For each follower of another table: which of its rows show what has changed. None: nobody can say which."""
    changed = catalog.by_relation_id[change.relation_id].relation_id
    known: dict[tuple[int, Projection], Filter | None] = {}
    for follower in followers:
        base, projection = follower.subscription.collection, follower.subscription.query.projection
        shows = base.relation_id, projection
        if changed in deciding(follower.subscription):
            yield follower, None  # any row may have entered its filter, or left it
            continue
        if shows not in known:
            known[shows] = showing(base, projection, change, catalog)
        yield follower, known[shows]
