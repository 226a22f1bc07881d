"""A dict that gives back the memory of what was deleted.

CPython's dict keeps the place of deleted entries until it grows again: after 100,000 subscriptions have come and gone,
the one that is left still occupies the memory of all, and to walk over it takes as long.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
Item = TypeVar("Item", bound=Hashable)

SHRINKS_FROM = 32
FEW_MAX = 8


class CompactDict(dict[Key, Value]):
    """A dict in order of insertion. Change it through `put` and `drop` only."""

    __slots__ = ("_most",)

    def __init__(self) -> None:
        self._most = SHRINKS_FROM

    def put(self, key: Key, value: Value) -> None:
        self[key] = value
        self._most = max(self._most, len(self))

    def drop(self, key: Key) -> None:
        """Raises `KeyError` when it is not there."""
        del self[key]
        if len(self) * 4 < self._most and self._most > SHRINKS_FROM:
            self._shrink()

    def _shrink(self) -> None:
        """Costs as much as is left, after three times as many have gone."""
        left = dict(self)
        self.clear()
        self.update(left)
        self._most = max(SHRINKS_FROM, len(left))


ItemSet: TypeAlias = tuple[Item, ...] | CompactDict[Item, None]
"""A set in order of insertion. Most have one item, and a dict would take more memory than all the rest."""


def with_item(items: ItemSet[Item], item: Item) -> ItemSet[Item]:
    """Return the set with an item that is not in it. A large set is changed in place."""
    if isinstance(items, CompactDict):
        items.put(item, None)
        return items
    if len(items) < FEW_MAX:
        return (*items, item)
    many: CompactDict[Item, None] = CompactDict()
    for each in (*items, item):
        many.put(each, None)
    return many


def without_item(items: ItemSet[Item], item: Item) -> ItemSet[Item]:
    """Return the set without an item. Raises `KeyError` when it is not in it. A large set is changed in place."""
    if isinstance(items, CompactDict):
        items.drop(item)
        return items
    if item not in items:
        raise KeyError(item)
    return tuple([each for each in items if each != item])
