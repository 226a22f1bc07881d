"""Which subscriptions a change concerns.

Equal subscriptions, those that differ only in who asked, form one group: what a change means to them is
computed once. Groups are found by the table of the change, and among those of a table by the rows: a group stands
where its item or the cover of its filter (see `cover`) puts it, so that 100,000 of them cost a change what those few
do that stand where its rows lead. Groups with the same filter stand there together, and share what judges by it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Generic, TypeAlias, TypeVar

from cdc_bridge.engine.cover import Cover, cover
from cdc_bridge.engine.roster import Crew, Roster, joined, left
from cdc_bridge.engine.shelf import Shelves, Values
from cdc_bridge.model.filter import Filter, of_the_past
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import Subscription
from cdc_bridge.query.predicate import compile_filter
from cdc_bridge.query.row_version import Judge, RowVersion

JUDGES_MAX = 64
"""Of different filters, that are kept at hand for the next one who has the same."""

Member = TypeVar("Member", bound=Hashable)
Found = TypeVar("Found", bound=Hashable)
_Place: TypeAlias = tuple[Filter, bytes | None]
"""A filter, and the item that is followed."""


@dataclass(slots=True, eq=False)
class Group(Generic[Member]):
    """`subscription` stands for all members; its `uid` is nobody's. Members keep their order of arrival."""

    subscription: Subscription
    members: Roster[Member, None] = field(default_factory=Roster)


class Sieve(Generic[Member]):
    """The groups that have one filter, and follow the same item where they follow one.

    `predicate` says whether the filter lets a row through, None where the database has to; `former` says it of rows as
    they were (see `filter.of_the_past`). `cover` is what the sieve is found by; None: by every row.
    """

    __slots__ = ("_by_sight", "cover", "filter", "former", "groups", "item", "predicate")

    def __init__(self, filter_: Filter, item: bytes | None = None, cover: Cover | None = None) -> None:
        self.filter = filter_
        self.item = item
        self.cover = cover
        self.predicate, self.former = judges(filter_)
        self.groups: Crew[Group[Member]] = ()
        self._by_sight: Mapping[SecurityContext, Sequence[Group[Member]]] | None = None

    @property
    def by_context(self) -> Mapping[SecurityContext, Sequence[Group[Member]]]:
        """The groups by whom the database is asked for."""
        if self._by_sight is None:
            found: dict[SecurityContext, list[Group[Member]]] = {}
            for group in self.groups:
                found.setdefault(group.subscription.asked_by, []).append(group)
            self._by_sight = found
        return self._by_sight

    def put(self, group: Group[Member]) -> None:
        self.groups = joined(self.groups, group)
        self._by_sight = None

    def drop(self, group: Group[Member]) -> None:
        self.groups = left(self.groups, group)
        self._by_sight = None


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
        self, relation_id: int, images: Sequence[RowVersion], keys: Sequence[bytes] | None = None
    ) -> Mapping[Sieve[Member], Sequence[int]]:
        """The sieves that these rows may concern, each with the positions of the rows in question, in their order.

        The filter of a sieve lets no other row through, and does not have to be asked about any. Of an UPDATE, `images`
        are the old ones and the new ones. `keys` are the rows' encoded keys; without them everybody who follows one
        item is found.
        """
        table = self._tables.get(relation_id)
        return {} if table is None else table.candidates(images, keys)

    def has_items(self, relation_id: int) -> bool:
        """Whether anybody follows a single row of the table."""
        table = self._tables.get(relation_id)
        return table is not None and table.has_items

    def members(self, relation_id: int) -> list[Member]:
        return [member for group in self.find(relation_id) for member in group.members]


class _Table(Generic[Member]):
    """The groups of one table by what they are, and by what they are found by."""

    def __init__(self) -> None:
        self.groups: Roster[tuple[Sieve[Member], Hashable], Group[Member]] = Roster()
        self._sieves: Roster[_Place, Sieve[Member]] = Roster()
        self._by_cover: Shelves[Sieve[Member]] = Shelves()
        self._by_every_row: Roster[Sieve[Member], None] = Roster()
        self._by_item: Values[Sieve[Member]] = Values()

    @property
    def has_items(self) -> bool:
        return bool(self._by_item)

    def add(self, subscription: Subscription, member: Member) -> None:
        place = _place(subscription)
        sieve = self._sieves.get(place)
        if sieve is None:
            sieve = self._sieve(*place)
        kind = sieve, _kind(subscription)
        group = self.groups.get(kind)
        if group is None:
            group = Group(replace(subscription, uid=None, key=None, request=None, cursor=False, rights=b""))
            self.groups.put(kind, group)
            sieve.put(group)
        group.members.put(member, None)

    def remove(self, subscription: Subscription, member: Member) -> None:
        place = _place(subscription)
        sieve = self._sieves[place]
        kind = sieve, _kind(subscription)
        group = self.groups[kind]
        group.members.drop(member)
        if not group.members:
            self.groups.drop(kind)
            sieve.drop(group)
            if not sieve.groups:
                self._sieves.drop(place)
                self._displace(sieve)

    def candidates(
        self, images: Sequence[RowVersion], keys: Sequence[bytes] | None
    ) -> Mapping[Sieve[Member], Sequence[int]]:
        every = range(len(images))
        found: dict[Sieve[Member], Sequence[int]] = dict.fromkeys(self._by_every_row, every)
        found.update(self._by_rows(images))
        if self._by_item:
            found.update(dict.fromkeys(self._by_item, every) if keys is None else self._by_keys(keys))
        return found

    def _by_rows(self, images: Sequence[RowVersion]) -> Mapping[Sieve[Member], Sequence[int]]:
        found: dict[Sieve[Member], list[int]] = {}
        if self._by_cover:
            for position, image in enumerate(images):
                for sieves in self._by_cover.find(image):
                    _note(found, sieves, position)
        return found

    def _by_keys(self, keys: Sequence[bytes]) -> Mapping[Sieve[Member], Sequence[int]]:
        found: dict[Sieve[Member], list[int]] = {}
        for position, key in enumerate(keys):
            _note(found, self._by_item.at(key), position)
        return found

    def _sieve(self, filter_: Filter, item: bytes | None) -> Sieve[Member]:
        """An item says more than any filter: who follows one does not stand where the filter would put it."""
        sieve: Sieve[Member] = Sieve(filter_, item, cover(filter_, self._by_cover.cost) if item is None else None)
        self._sieves.put((filter_, item), sieve)
        if item is not None:
            self._by_item.add((item,), sieve)
        elif sieve.cover is None:
            self._by_every_row.put(sieve, None)
        else:
            self._by_cover.put(sieve.cover, sieve)
        return sieve

    def _displace(self, sieve: Sieve[Member]) -> None:
        if sieve.item is not None:
            self._by_item.remove((sieve.item,), sieve)
        elif sieve.cover is None:
            self._by_every_row.drop(sieve)
        else:
            self._by_cover.drop(sieve.cover, sieve)


@lru_cache(JUDGES_MAX)
def judges(filter_: Filter) -> tuple[Judge, Judge]:
    """Of rows as they are, and as they were."""
    predicate, past = compile_filter(filter_), of_the_past(filter_)
    return predicate, predicate if past is filter_ else compile_filter(past)


def _place(subscription: Subscription) -> _Place:
    return subscription.query.filter, subscription.item


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
    hides_old = subscription.old and subscription.is_guarded
    seen = subscription.asked_by, subscription.collection.key, subscription.allowed, hides_old
    return read, subscription.event, subscription.item, shown, seen
