"""Which subscriptions a change concerns.

Equal subscriptions, those that differ only in who asked, form one group: what a change means to them is
computed once. Groups are found by the table of the change.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from cdc_bridge.subscription import Subscription

Member = TypeVar("Member", bound=Hashable)


@dataclass(slots=True)
class Group(Generic[Member]):
    """`subscription` stands for all members; its `uid` is nobody's. Members keep their order of arrival."""

    subscription: Subscription
    members: dict[Member, None] = field(default_factory=dict)


class Index(Generic[Member]):
    """Adding, removing and finding cost the same whatever the number of subscriptions."""

    def __init__(self) -> None:
        self._by_relation: dict[int, dict[Hashable, Group[Member]]] = {}

    def add(self, subscription: Subscription, member: Member) -> None:
        groups = self._by_relation.setdefault(subscription.collection.relation_id, {})
        kind = _kind(subscription)
        group = groups.get(kind)
        if group is None:
            group = groups[kind] = Group(replace(subscription, uid=None, key=None, request=None, cursor=False))
        group.members[member] = None

    def remove(self, subscription: Subscription, member: Member) -> None:
        """Raises `KeyError` when it is not there."""
        relation_id = subscription.collection.relation_id
        groups = self._by_relation[relation_id]
        kind = _kind(subscription)
        del groups[kind].members[member]
        if not groups[kind].members:
            del groups[kind]
        if not groups:
            del self._by_relation[relation_id]

    def find(self, relation_id: int) -> Collection[Group[Member]]:
        return self._by_relation.get(relation_id, {}).values()

    def members(self, relation_id: int) -> list[Member]:
        return [member for group in self.find(relation_id) for member in group.members]


def _kind(subscription: Subscription) -> Hashable:
    """What the events of a subscription depend on. Limit and offset shape its initial data only."""
    query = subscription.query
    shown = subscription.tx, subscription.old, subscription.changes_only
    return query.projection, query.sort, subscription.event, subscription.item, shown
