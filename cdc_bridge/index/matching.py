"""Which subscriptions a change concerns.

Equal subscriptions, those that differ only in who asked, form one group: what a change means to them is
computed once. Groups are found by the table of the change, and among those of a table by the rows: a group stands
where its item or the cover of its filter (see `cover`) puts it, so that 100,000 of them cost a change what those few
do that stand where its rows lead. Groups with the same filter stand there together, and share what judges by it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeAlias, TypeVar

from cdc_bridge.filters.filter import Filter, of_the_past
from cdc_bridge.filters.image import Image, Judge
from cdc_bridge.filters.predicate import compile_filter
from cdc_bridge.index.cover import Cover, cover
from cdc_bridge.index.roster import Crew, Roster, joined, left
from cdc_bridge.index.shelf import Shelves, Values
from cdc_bridge.sight import Sight
from cdc_bridge.subscription import Subscription

Member = TypeVar("Member", bound=Hashable)
Found = TypeVar("Found", bound=Hashable)


@dataclass(slots=True, eq=False)
class Group(Generic[Member]):
    """`subscription` stands for all members; its `uid` is nobody's. Members keep their order of arrival.

    `predicate` says whether the filter lets a row through, None where the database has to; `former` says it of rows as
    they were (see `filter.of_the_past`). Equal filters of a table have the same ones.
    """

    subscription: Subscription
    predicate: Judge
    former: Judge
    members: Roster[Member, None] = field(default_factory=Roster)


class Index(Generic[Member]):
    """Adding, removing and finding cost the same, or O(log n), whatever the number of subscriptions."""

    def __init__(self) -> None:
        self._tables: dict[int, _Table[Member]] = {}

    def add(self, subscription: Subscription, member: Member) -> None:
        table = self._tables.setdefault(subscription.collection.relation_id, _Table())
        table.add(subscription, member)

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


_Question: TypeAlias = tuple[Filter, Sight]
"""What is asked of a row, and for whom."""


@dataclass(slots=True, eq=False)
class _Sieve(Generic[Member]):
    """The groups that have one filter, and for whom it is asked.

    `cover` is what the sieve is found by; None: it is found by every row.
    """

    predicate: Judge
    former: Judge
    cover: Cover | None
    groups: Crew[Group[Member]] = ()


class _Table(Generic[Member]):
    """The groups of one table by what they are, and by what they are found by."""

    def __init__(self) -> None:
        self.groups: Roster[tuple[_Sieve[Member], Hashable], Group[Member]] = Roster()
        self._sieves: Roster[_Question, _Sieve[Member]] = Roster()
        self._by_cover: Shelves[_Sieve[Member]] = Shelves()
        self._by_every_row: Roster[_Sieve[Member], None] = Roster()
        self._of_items: Roster[_Question, _Sieve[Member]] = Roster()
        self._by_item: Values[Group[Member]] = Values()

    def add(self, subscription: Subscription, member: Member) -> None:
        question = _question(subscription)
        sieve = self._sieves_like(subscription).get(question)
        if sieve is None:
            sieve = self._item_sieve(question) if subscription.item is not None else self._sieve(question)
        kind = sieve, _kind(subscription)
        group = self.groups.get(kind)
        if group is None:
            group = Group(
                replace(subscription, uid=None, key=None, request=None, cursor=False, rights=b""),
                sieve.predicate,
                sieve.former,
            )
            self.groups.put(kind, group)
            self._put(group, sieve)
        group.members.put(member, None)

    def remove(self, subscription: Subscription, member: Member) -> None:
        sieve = self._sieves_like(subscription)[_question(subscription)]
        kind = sieve, _kind(subscription)
        group = self.groups[kind]
        group.members.drop(member)
        if not group.members:
            self.groups.drop(kind)
            self._drop(group, sieve)

    def candidates(
        self, images: Sequence[Image], keys: Sequence[bytes] | None
    ) -> Mapping[Group[Member], Sequence[int]]:
        every = range(len(images))
        found: dict[Group[Member], Sequence[int]] = {}
        for sieve in self._by_every_row:
            found.update(dict.fromkeys(sieve.groups, every))
        for sieve, positions in self._sieves_at(images).items():
            found.update(dict.fromkeys(sieve.groups, positions))
        if self._by_item:
            found.update(dict.fromkeys(self._by_item, every) if keys is None else self._groups_at(keys))
        return found

    def _sieves_at(self, images: Sequence[Image]) -> Mapping[_Sieve[Member], Sequence[int]]:
        found: dict[_Sieve[Member], list[int]] = {}
        if self._by_cover:
            for position, image in enumerate(images):
                for sieves in self._by_cover.find(image):
                    _note(found, sieves, position)
        return found

    def _groups_at(self, keys: Sequence[bytes]) -> Mapping[Group[Member], Sequence[int]]:
        found: dict[Group[Member], list[int]] = {}
        for position, key in enumerate(keys):
            _note(found, self._by_item.at(key), position)
        return found

    def _sieves_like(self, subscription: Subscription) -> Roster[_Question, _Sieve[Member]]:
        """An item says more than any filter: who follows one does not stand where the filter would put it."""
        return self._sieves if subscription.item is None else self._of_items

    def _sieve(self, question: _Question) -> _Sieve[Member]:
        filter_, _ = question
        sieve: _Sieve[Member] = _Sieve(*judges(filter_), cover(filter_, self._by_cover.cost))
        self._sieves.put(question, sieve)
        if sieve.cover is None:
            self._by_every_row.put(sieve, None)
        else:
            self._by_cover.put(sieve.cover, sieve)
        return sieve

    def _item_sieve(self, question: _Question) -> _Sieve[Member]:
        filter_, _ = question
        sieve: _Sieve[Member] = _Sieve(*judges(filter_), None)
        self._of_items.put(question, sieve)
        return sieve

    def _put(self, group: Group[Member], sieve: _Sieve[Member]) -> None:
        sieve.groups = joined(sieve.groups, group)
        if group.subscription.item is not None:
            self._by_item.add((group.subscription.item,), group)

    def _drop(self, group: Group[Member], sieve: _Sieve[Member]) -> None:
        sieve.groups = left(sieve.groups, group)
        if group.subscription.item is not None:
            self._by_item.remove((group.subscription.item,), group)
        if not sieve.groups:
            self._sieves_like(group.subscription).drop(_question(group.subscription))
            if group.subscription.item is None:
                self._displace(sieve)

    def _displace(self, sieve: _Sieve[Member]) -> None:
        if sieve.cover is None:
            self._by_every_row.drop(sieve)
        else:
            self._by_cover.drop(sieve.cover, sieve)


def judges(filter_: Filter) -> tuple[Judge, Judge]:
    """Of rows as they are, and as they were."""
    predicate, past = compile_filter(filter_), of_the_past(filter_)
    return predicate, predicate if past is filter_ else compile_filter(past)


def _question(subscription: Subscription) -> _Question:
    return subscription.query.filter, subscription.asked_by


def _note(found: dict[Found, list[int]], things: Iterable[Found], position: int) -> None:
    """Once, however many times the position leads to the thing."""
    for thing in things:
        positions = found.get(thing)
        if positions is None:
            found[thing] = [position]
        elif positions[-1] != position:
            positions.append(position)


def _kind(subscription: Subscription) -> Hashable:
    """What the events of a subscription depend on besides the filter. Limit and offset shape its initial data
    only, unless there is nothing but that: figures, which are read anew.
    """
    query = subscription.query
    cut = query.aggregate and (query.limit, query.offset)
    read = query.projection, query.sort, query.aggregate, query.meta, cut
    shown = subscription.tx, subscription.old, subscription.changes_only, subscription.related
    seen = subscription.asked_by, subscription.collection.key, subscription.allowed
    return read, subscription.event, subscription.item, shown, seen
