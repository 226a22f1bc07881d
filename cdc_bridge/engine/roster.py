"""A dict that gives back what it no longer needs.

CPython's dict keeps the place of whatever was deleted until it grows again: after 100,000 have come and gone, the one
that is left still occupies the memory of all, and to walk over it takes as long. Many come and go here.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
Item = TypeVar("Item", bound=Hashable)

SHRINKS_FROM = 32
FEW_MAX = 8


class Roster(dict[Key, Value]):
    """Keeps the order of arrival. To be changed through `put` and `drop` only."""

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


Crew: TypeAlias = tuple[Item, ...] | Roster[Item, None]
"""Some items, of which there is mostly one: then a dict would take more memory than all the rest."""


def joined(crew: Crew[Item], item: Item) -> Crew[Item]:
    """With this one, which is not there."""
    if isinstance(crew, Roster):
        crew.put(item, None)
        return crew
    if len(crew) < FEW_MAX:
        return (*crew, item)
    many: Roster[Item, None] = Roster()
    for each in (*crew, item):
        many.put(each, None)
    return many


def left(crew: Crew[Item], item: Item) -> Crew[Item]:
    """Without this one. Raises `KeyError` when it is not there."""
    if isinstance(crew, Roster):
        crew.drop(item)
        return crew
    if item not in crew:
        raise KeyError(item)
    return tuple([each for each in crew if each != item])
