"""Items by their covers, and found by the images of rows.

There is a shelf for each aspect of a row that an atom is about, the value of a column for instance. An image is read
once per shelf, whatever stands on it. What memory cannot read could be anything: then all that stands there is found.
Nothing is kept of what has been removed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar, assert_never

from cdc_bridge.engine.cover import Atom, Cover, IsNull, OneOf, Within
from cdc_bridge.engine.intervals import Intervals
from cdc_bridge.engine.roster import Crew, Roster, joined, left
from cdc_bridge.query.row_version import UNSURE, Aspect, RowVersion

Item = TypeVar("Item", bound=Hashable)

# Of equal values it is known how many items share one, so they cost as much as that. What an interval costs depends on
# the rows to come. These guesses say from when on it is better than a value that too many share.
COST_OF_SHELF = 8  # one more that every row has to be read for
COST_OF_BOUNDED = 64
COST_OF_HALF_OPEN = 1024
COST_OF_NULL = 4096


class Values(Generic[Item]):
    """Items by any of some values."""

    def __init__(self) -> None:
        self._items: Roster[Hashable, Crew[Item]] = Roster()

    def __len__(self) -> int:
        """How many different values there are."""
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        for items in self._items.values():
            yield from items

    def add(self, values: Iterable[Hashable], item: Item) -> None:
        for value in values:
            self._items.put(value, joined(self._items.get(value, ()), item))

    def remove(self, values: Iterable[Hashable], item: Item) -> None:
        for value in values:
            items = left(self._items[value], item)
            if items:
                self._items[value] = items
            else:
                self._items.drop(value)

    def at(self, value: Hashable) -> Iterable[Item]:
        return self._items.get(value, ())

    def most(self, values: Iterable[Hashable]) -> int:
        """How many items share one of these values, at most."""
        return max((len(self._items.get(value, ())) for value in values), default=0)


class Shelf(Generic[Item]):
    """Items by atoms about one aspect."""

    def __init__(self) -> None:
        self._equal: Values[Item] = Values()
        self._ranges: Intervals[Item] = Intervals()
        self._nulls: Roster[Item, None] = Roster()

    @property
    def is_empty(self) -> bool:
        return not (self._equal or self._ranges or self._nulls)

    def put(self, atom: Atom, item: Item) -> None:
        match atom:
            case OneOf(_, values):
                self._equal.add(values, item)
            case Within(_, interval):
                self._ranges.add(interval, item)
            case IsNull():
                self._nulls.put(item, None)
            case _:
                assert_never(atom)

    def drop(self, atom: Atom, item: Item) -> None:
        match atom:
            case OneOf(_, values):
                self._equal.remove(values, item)
            case Within(_, interval):
                self._ranges.remove(interval, item)
            case IsNull():
                self._nulls.drop(item)
            case _:
                assert_never(atom)

    def sharing(self, values: Iterable[Hashable]) -> int:
        return self._equal.most(values)

    def at(self, value: Any) -> Iterator[Iterable[Item]]:
        """By what has been read: some items each time. May give an item more than once."""
        if value is None:
            yield self._nulls
        elif value is UNSURE:
            yield from (self._nulls, self._equal, self._ranges)
        else:
            if self._equal:
                yield self._equal.at(value)
            if self._ranges:
                yield self._ranges.at(value)


class Shelves(Generic[Item]):
    """All shelves of one table."""

    def __init__(self) -> None:
        self._shelves: dict[Aspect, Shelf[Item]] = {}

    def __len__(self) -> int:
        return len(self._shelves)

    def put(self, cover: Cover, item: Item) -> None:
        for atom in cover:
            shelf = self._shelves.get(atom.aspect)
            if shelf is None:
                shelf = self._shelves[atom.aspect] = Shelf()
            shelf.put(atom, item)

    def drop(self, cover: Cover, item: Item) -> None:
        """`cover` is the one that it was put with."""
        for atom in cover:
            shelf = self._shelves[atom.aspect]
            shelf.drop(atom, item)
            if shelf.is_empty:
                del self._shelves[atom.aspect]

    def cost(self, atom: Atom) -> int:
        """What it costs to find what would be put by this atom, in items that are found in vain."""
        shelf = self._shelves.get(atom.aspect)
        opening = COST_OF_SHELF if shelf is None else 0
        match atom:
            case OneOf(_, values):
                return opening + len(values).bit_length() + (0 if shelf is None else shelf.sharing(values))
            case Within(_, interval):
                return opening + (COST_OF_BOUNDED if interval.is_bounded else COST_OF_HALF_OPEN)
            case IsNull():
                return opening + COST_OF_NULL
        assert_never(atom)

    def find(self, image: RowVersion) -> Iterator[Iterable[Item]]:
        """Whatever has an atom that the image meets, some items each time. May give an item more than once."""
        for aspect, shelf in self._shelves.items():
            yield from shelf.at(image.read(aspect))
