"""Who follows what: all followers, found by the table that they follow, by its rows, and by tables that they show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Collection as Many
from typing import TypeAlias

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.errors import RequestError
from cdc_bridge.hub.follower import Follower
from cdc_bridge.hub.register import Differences
from cdc_bridge.hub.relating import deciding, tables_of, targets
from cdc_bridge.index.matching import Group, Index
from cdc_bridge.subscription import EventKind, Subscription

Judge: TypeAlias = Callable[[Subscription, Collection], Subscription]
"""The same request against a changed table. Raises `RequestError` when it can no longer be served."""

Judgement: TypeAlias = Subscription | RequestError


class Roll:
    """See the module's docstring. It is walked over as it was at the beginning of the walk."""

    def __init__(self) -> None:
        self.index: Index[Follower] = Index()
        self._followers: dict[Follower, None] = {}
        self._showing: dict[int, dict[Follower, None]] = {}

    def __len__(self) -> int:
        return len(self._followers)

    def __iter__(self) -> Iterator[Follower]:
        return iter(list(self._followers))

    def __contains__(self, follower: Follower) -> bool:
        return follower in self._followers

    def add(self, follower: Follower) -> None:
        self._followers[follower] = None
        self._place(follower)

    def remove(self, follower: Follower) -> None:
        del self._followers[follower]
        self._displace(follower)

    def move(self, follower: Follower, subscription: Subscription) -> None:
        """From here on it follows something else."""
        self._displace(follower)
        follower.subscription = subscription
        self._place(follower)

    def groups(self, relation_id: int) -> Many[Group[Follower]]:
        """Of those who follow this table."""
        return self.index.find(relation_id)

    def following(self, relation_id: int) -> list[Follower]:
        return self.index.members(relation_id)

    def showing(self, relation_id: int) -> list[Follower]:
        """Those who asked to be told what happens here, although they follow another table, since it shows rows of this
        one, or its filter leads here.
        """
        return list(self._showing.get(relation_id, ()))

    def judged_anew(self, catalog: Catalog, differences: Differences, judge: Judge) -> list[tuple[Follower, Judgement]]:
        """What becomes of those who follow, or are led to, what a new catalog changes. Nothing is changed here.

        Whatever `judge` raises besides `RequestError`, for however many, is raised at the end, in one group.
        """
        gone = {collection.relation_id for collection in differences.gone}
        now = {c.relation_id: c for c in catalog.by_name.values() if c.relation_id not in gone}
        found: list[tuple[Follower, Judgement]] = []
        failures: list[Exception] = []
        for follower in self._followers:
            collection = now.get(follower.subscription.collection.relation_id)
            if collection is not None and not tables_of(follower.subscription).isdisjoint(differences.all):
                try:
                    found.append((follower, _judged(follower.subscription, collection, judge)))
                except Exception as failure:  # all are of interest, the frames that they came from once at the most
                    failures.append(failure.with_traceback(None) if failures else failure)
        if failures:
            raise ExceptionGroup("not all can be judged", failures)
        return found

    def _place(self, follower: Follower) -> None:
        self.index.add(follower.subscription, follower)
        for relation_id in _shown(follower.subscription):
            self._showing.setdefault(relation_id, {})[follower] = None

    def _displace(self, follower: Follower) -> None:
        self.index.remove(follower.subscription, follower)
        for relation_id in _shown(follower.subscription):
            del self._showing[relation_id][follower]
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
