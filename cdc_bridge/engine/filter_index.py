"""Finds the subscriptions that a change concerns.

Equal subscriptions, which differ only in the client, form one group: a change is evaluated for all of them once.
Groups with the same filter, which also follow the same item if any, share a `FilterGroup`: it is found by the item, or
by the keys of its filter (`index_keys`), and its filter is evaluated once.

Rows are looked up by distinct value: a column is read once for all rows of a change that have the same value there.
A value that memory cannot read could be any, so it finds every group that is kept by that column.

Bound: nothing is kept of what has been removed. Adding, removing and finding cost the same, or O(log n), whatever the
number of subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from cdc_bridge.engine.compact_dict import CompactDict, ItemSet, with_item, without_item
from cdc_bridge.engine.index_keys import IndexKeys, KeyIndex, ValueIndex, index_keys, is_decided
from cdc_bridge.model.filter import EVERYTHING, Filter, of_the_past
from cdc_bridge.model.row import Row
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import Overflow, Subscription
from cdc_bridge.query.operands import Judge, RowVersions
from cdc_bridge.query.predicate import compile_filter

PREDICATES_MAX = 64
"""Compiled filters that are kept for the next group with the same one."""

Member = TypeVar("Member", bound=Hashable)

Positions: TypeAlias = Sequence[int]
"""Rows of a change, in their order. A `range` is all of them."""


class Matches(NamedTuple):
    """The rows that a filter lets through, as they were and as they are now; and those of which memory is unsure."""

    old: Positions
    new: Positions
    unsure_old: Positions = ()
    unsure_new: Positions = ()


@dataclass(slots=True, eq=False)
class Group(Generic[Member]):
    """`subscription` stands for all members; its `uid` is not used. Members keep their order of arrival."""

    subscription: Subscription
    members: CompactDict[Member, None] = field(default_factory=CompactDict)

    @property
    def is_nested(self) -> bool:
        """Whether the database is asked what its rows show."""
        query = self.subscription.query
        return not (query.projection.is_flat or query.aggregate)


class FilterGroup(Generic[Member]):
    """The groups that have one filter, and follow the same item where they follow one.

    `predicate` says whether the filter matches a row, None where the database has to; `former` says it of rows as they
    were (see `filter.of_the_past`). Without `keys` the group is found by every row. `is_decided`: the keys alone say
    what the filter matches. `flat` and `nested` are its groups. For nested groups the database is asked for the fields
    of other tables.
    """

    __slots__ = (
        "_by_context",
        "filter",
        "flat",
        "former",
        "is_decided",
        "is_everything",
        "item",
        "keys",
        "nested",
        "predicate",
    )

    def __init__(self, filter_: Filter, item: bytes | None = None, keys: IndexKeys | None = None) -> None:
        self.filter = filter_
        self.is_everything = filter_ == EVERYTHING
        self.item = item
        self.keys = keys
        self.predicate, self.former = _predicates(filter_)
        self.is_decided = self.former is self.predicate and is_decided(filter_, keys)
        self.flat: ItemSet[Group[Member]] = ()
        self.nested: ItemSet[Group[Member]] = ()
        self._by_context: Mapping[SecurityContext, Sequence[Group[Member]]] | None = None

    @property
    def groups(self) -> list[Group[Member]]:
        return [*self.flat, *self.nested]

    @property
    def by_context(self) -> Mapping[SecurityContext, Sequence[Group[Member]]]:
        """The groups by the context on whose behalf the database is asked."""
        if self._by_context is None:
            self._by_context = by_context(self.groups)
        return self._by_context

    def put(self, group: Group[Member]) -> None:
        if group.is_nested:
            self.nested = with_item(self.nested, group)
        else:
            self.flat = with_item(self.flat, group)
        self._by_context = None

    def drop(self, group: Group[Member]) -> None:
        if group.is_nested:
            self.nested = without_item(self.nested, group)
        else:
            self.flat = without_item(self.flat, group)
        self._by_context = None

    def match(self, versions: RowVersions, positions: Positions, old_count: int) -> Matches | None:
        """Return what the filter does with these of a change's rows, of which the old ones come first.

        None: it lets none through, for sure.
        """
        old: list[int] = []
        new: list[int] = []
        unsure_old: list[int] = []
        unsure_new: list[int] = []
        for position in positions:
            if position < old_count:
                verdict = self.former(versions[position])
                if verdict is not False:
                    (unsure_old if verdict is None else old).append(position)
            else:
                verdict = self.predicate(versions[position])
                if verdict is not False:
                    (unsure_new if verdict is None else new).append(position - old_count)
        return Matches(old, new, unsure_old, unsure_new) if old or new or unsure_old or unsure_new else None


def by_context(groups: Iterable[Group[Member]]) -> Mapping[SecurityContext, Sequence[Group[Member]]]:
    """Return groups by the context on whose behalf the database is asked."""
    found: dict[SecurityContext, list[Group[Member]]] = {}
    for group in groups:
        found.setdefault(group.subscription.asked_by, []).append(group)
    return found


class FilterIndex(Generic[Member]):
    """See the module's docstring. `tables` are those that are followed, by `oid`."""

    def __init__(self) -> None:
        self.tables: dict[int, TableIndex[Member]] = {}

    def add(self, subscription: Subscription, member: Member) -> None:
        table = self.tables.setdefault(subscription.collection.relation_id, TableIndex())
        table.add(subscription, member)

    def remove(self, subscription: Subscription, member: Member) -> None:
        """Raises `KeyError` when it is not there."""
        relation_id = subscription.collection.relation_id
        table = self.tables[relation_id]
        table.remove(subscription, member)
        if not table.groups:
            del self.tables[relation_id]

    def groups(self, relation_id: int) -> Collection[Group[Member]]:
        """Return all groups of a table."""
        table = self.tables.get(relation_id)
        return () if table is None else table.groups.values()

    def members(self, relation_id: int) -> list[Member]:
        return [member for group in self.groups(relation_id) for member in group.members]


class TableIndex(Generic[Member]):
    """The groups of one table by what they are, and by what they are found by."""

    def __init__(self) -> None:
        self.groups: CompactDict[tuple[FilterGroup[Member], Hashable], Group[Member]] = CompactDict()
        self._filters: CompactDict[tuple[Filter, bytes | None], FilterGroup[Member]] = CompactDict()
        self._by_every_row: CompactDict[FilterGroup[Member], None] = CompactDict()
        self._by_item: ValueIndex[FilterGroup[Member]] = ValueIndex()
        self._by_key: KeyIndex[FilterGroup[Member]] = KeyIndex()
        self.unfiltered: Sequence[tuple[FilterGroup[Member], None]] = ()
        """The groups of `find_matches` where it finds the same for every change: every row of every group."""

    def add(self, subscription: Subscription, member: Member) -> None:
        filter_, item = subscription.query.filter, subscription.item
        filter_group = self._filters.get((filter_, item))
        if filter_group is None:
            filter_group = self._put(filter_, item)
        kind = filter_group, _kind(subscription)
        group = self.groups.get(kind)
        if group is None:
            group = Group(replace(subscription, uid=None, key=None, request=None, cursor=False, rights=b""))
            self.groups.put(kind, group)
            filter_group.put(group)
        group.members.put(member, None)

    def remove(self, subscription: Subscription, member: Member) -> None:
        filter_group = self._filters[subscription.query.filter, subscription.item]
        kind = filter_group, _kind(subscription)
        group = self.groups[kind]
        group.members.drop(member)
        if not group.members:
            self.groups.drop(kind)
            filter_group.drop(group)
            if not (filter_group.flat or filter_group.nested):
                self._drop(filter_group)

    def find(
        self, rows: Sequence[Row], key: Callable[[Row], bytes] | None
    ) -> tuple[Mapping[FilterGroup[Member], Sequence[int]], bool]:
        """Return the groups that these rows may concern, each with the positions of the rows in question, in order.
        And whether those with `is_decided` match these for certain.

        The filter of a group matches no other row. `rows` of an UPDATE are the old ones and the new ones. `key` encodes
        the key of a row; without it all groups that follow one item are found.
        """
        every = range(len(rows))
        found, is_certain = self._by_key.find(rows) if self._by_key.readers else ({}, True)
        if self._by_every_row:
            found.update(dict.fromkeys(self._by_every_row, every))
        if self._by_item:
            found.update(
                dict.fromkeys(self._by_item.items_of_all(), every) if key is None else self._by_keys(rows, key)
            )
        return found, is_certain

    def _by_keys(self, rows: Sequence[Row], key: Callable[[Row], bytes]) -> Mapping[FilterGroup[Member], Sequence[int]]:
        found: dict[FilterGroup[Member], list[int]] = {}
        for position, row in enumerate(rows):
            for group in self._by_item.get(key(row), ()):
                found.setdefault(group, []).append(position)
        return found

    def _put(self, filter_: Filter, item: bytes | None) -> FilterGroup[Member]:
        """An item says more than any filter, so a group that follows one is found by it alone."""
        keys = index_keys(filter_, self._by_key.cost) if item is None else None
        group: FilterGroup[Member] = FilterGroup(filter_, item, keys)
        self._filters.put((filter_, item), group)
        if item is not None:
            self._by_item.add((item,), group)
        elif keys is None:
            self._by_every_row.put(group, None)
        else:
            self._by_key.add(keys, group)
        self._note_unfiltered()
        return group

    def _drop(self, group: FilterGroup[Member]) -> None:
        self._filters.drop((group.filter, group.item))
        if group.item is not None:
            self._by_item.remove((group.item,), group)
        elif group.keys is None:
            self._by_every_row.drop(group)
        else:
            self._by_key.remove(group.keys, group)
        self._note_unfiltered()

    def _note_unfiltered(self) -> None:
        is_everything = len(self._filters) == 1 and all(group.is_everything for group in self._by_every_row)
        self.unfiltered = [(group, None) for group in self._by_every_row] if is_everything else ()


@lru_cache(PREDICATES_MAX)
def _predicates(filter_: Filter) -> tuple[Judge, Judge]:
    """Return the predicates of rows as they are, and as they were."""
    predicate, past = compile_filter(filter_), of_the_past(filter_)
    return predicate, predicate if past is filter_ else compile_filter(past)


def topic_key(subscription: Subscription) -> Hashable:
    """Return what is equal for subscriptions that are sent the same. What is read again, is read for one principal."""
    is_read_again = subscription.related or subscription.query.aggregate is not None
    read_by = (subscription.context, subscription.query, subscription.key) if is_read_again else None
    is_compacted = subscription.overflow is Overflow.LATEST  # then their log is, too
    return subscription.collection.relation_id, subscription.query.filter, _kind(subscription), read_by, is_compacted


def _kind(subscription: Subscription) -> Hashable:
    """Return what the events of a subscription depend on besides the filter. Limit and offset shape its initial data
    only, unless there is nothing but that: figures, which are read anew.
    """
    query = subscription.query
    cut = query.aggregate and (query.limit, query.offset)
    read = query.projection, query.sort, query.aggregate, query.meta, cut
    shown = subscription.tx, subscription.old, subscription.changes_only, subscription.related
    hides_old = subscription.old and subscription.is_guarded
    seen = subscription.asked_by, subscription.collection.key, subscription.allowed, hides_old
    return read, subscription.event, subscription.item, shown, seen
