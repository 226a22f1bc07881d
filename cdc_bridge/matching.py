"""Which subscriptions a change concerns.

Equal subscriptions, those that differ only in who asked, form one group: what a change means to them is
computed once. Groups are found by the table of the change, and among those of a table by the rows: a group stands
where its item or the cover of its filter (see `cover`) puts it, so that 100,000 of them cost a change what those few
do that stand where its rows lead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from cdc_bridge.cover import Cover, cover
from cdc_bridge.image import Image
from cdc_bridge.predicate import compile_filter
from cdc_bridge.roster import Roster
from cdc_bridge.shelf import Shelves, Values
from cdc_bridge.subscription import Subscription

Member = TypeVar("Member", bound=Hashable)


@dataclass(slots=True, eq=False)
class Group(Generic[Member]):
    """`subscription` stands for all members; its `uid` is nobody's. Members keep their order of arrival.

    `predicate` says whether the filter lets a row through, None where the database has to. `cover` is what the group
    is found by, unless it is by its item; None: it is found by every row.
    """

    subscription: Subscription
    predicate: Callable[[Image], bool | None]
    cover: Cover | None = None
    members: Roster[Member, None] = field(default_factory=Roster)


class Index(Generic[Member]):
    """Adding, removing and finding cost the same, or O(log n), whatever the number of subscriptions."""

    def __init__(self) -> None:
        self._tables: dict[int, _Table[Member]] = {}

    def add(self, subscription: Subscription, member: Member) -> None:
        table = self._tables.setdefault(subscription.collection.relation_id, _Table())
        table.group(subscription).members.put(member, None)

    def remove(self, subscription: Subscription, member: Member) -> None:
        """Raises `KeyError` when it is not there."""
        relation_id = subscription.collection.relation_id
        table = self._tables[relation_id]
        table.remove(subscription, member)
        if not table.groups:
            del self._tables[relation_id]

    def find(self, relation_id: int) -> Collection[Group[Member]]:
        """All groups of a table."""
        table = self._tables.get(relation_id)
        return () if table is None else table.groups.values()

    def candidates(
        self, relation_id: int, images: Sequence[Image], keys: Sequence[bytes] | None = None
    ) -> Mapping[Group[Member], Sequence[int]]:
        """The groups that these rows may concern, each with the positions of the rows in question, in their order.

        The filter of a group lets no other row through, and does not have to be asked about any. Of an UPDATE, `images`
        are the old ones and the new ones. `keys` are the rows' encoded keys; without them every group that follows one
        item is found.
        """
        table = self._tables.get(relation_id)
        return {} if table is None else table.candidates(images, keys)

    def members(self, relation_id: int) -> list[Member]:
        return [member for group in self.find(relation_id) for member in group.members]


class _Table(Generic[Member]):
    """The groups of one table by what they are, and by what they are found by."""

    def __init__(self) -> None:
        self.groups: Roster[Hashable, Group[Member]] = Roster()
        self._by_item: Values[Group[Member]] = Values()
        self._by_cover: Shelves[Group[Member]] = Shelves()
        self._by_every_row: Roster[Group[Member], None] = Roster()

    def group(self, subscription: Subscription) -> Group[Member]:
        """The one that the subscription belongs to."""
        kind = _kind(subscription)
        group = self.groups.get(kind)
        if group is None:
            group = self._place(replace(subscription, uid=None, key=None, request=None, cursor=False))
            self.groups.put(kind, group)
        return group

    def remove(self, subscription: Subscription, member: Member) -> None:
        kind = _kind(subscription)
        group = self.groups[kind]
        group.members.drop(member)
        if not group.members:
            self.groups.drop(kind)
            self._displace(group)

    def candidates(
        self, images: Sequence[Image], keys: Sequence[bytes] | None
    ) -> Mapping[Group[Member], Sequence[int]]:
        every = range(len(images))
        found: dict[Group[Member], Sequence[int]] = dict.fromkeys(self._by_every_row, every)
        some: dict[Group[Member], list[int]] = {}
        if self._by_item and keys is None:
            found.update(dict.fromkeys(self._by_item, every))
        elif self._by_item and keys is not None:
            for position, key in enumerate(keys):
                _note(some, (self._by_item.at(key),), position)
        if self._by_cover:
            for position, image in enumerate(images):
                _note(some, self._by_cover.find(image), position)
        found.update(some)
        return found

    def _place(self, subscription: Subscription) -> Group[Member]:
        group: Group[Member] = Group(subscription, compile_filter(subscription.query.filter))
        if subscription.item is not None:
            self._by_item.add((subscription.item,), group)
            return group
        group.cover = cover(subscription.query.filter, self._by_cover.cost)
        if group.cover is None:
            self._by_every_row.put(group, None)
        else:
            self._by_cover.put(group.cover, group)
        return group

    def _displace(self, group: Group[Member]) -> None:
        if group.subscription.item is not None:
            self._by_item.remove((group.subscription.item,), group)
        elif group.cover is None:
            self._by_every_row.drop(group)
        else:
            self._by_cover.drop(group.cover, group)


def _note(found: dict[Group[Member], list[int]], groups: Iterable[Iterable[Group[Member]]], position: int) -> None:
    """Once, however many times the position leads to the group."""
    for some in groups:
        for group in some:
            positions = found.get(group)
            if positions is None:
                found[group] = [position]
            elif positions[-1] != position:
                positions.append(position)


def _kind(subscription: Subscription) -> Hashable:
    """What the events of a subscription depend on. Limit and offset shape its initial data only, unless there is
    nothing but that: figures, which are read anew.
    """
    query = subscription.query
    cut = query.aggregate and (query.limit, query.offset)
    read = query.filter, query.projection, query.sort, query.aggregate, query.meta, cut
    shown = subscription.tx, subscription.old, subscription.changes_only, subscription.related
    return read, subscription.event, subscription.item, shown
