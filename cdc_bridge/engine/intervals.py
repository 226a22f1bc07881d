"""Find the intervals that contain a value.

The tree is a treap: a search tree by the intervals' low ends that is a heap by random priorities. So it is as shallow
as a shuffled tree whatever the order of insertion, and never has to be rebuilt. Each node knows how far the intervals
below it reach, so that a search skips what ends before the value. Equal intervals share a node.

Adding and removing cost O(log n). Finding k intervals visits at most O(log n) nodes for each of them, in the worst case
every node once. Nothing here is recursive.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeAlias, TypeVar

from cdc_bridge.engine.compact_dict import CompactDict, ItemSet, with_item, without_item

Item = TypeVar("Item", bound=Hashable)

End: TypeAlias = tuple[Any, ...]
"""An end of an interval: `low <= point <= high` says that the interval contains the point.

A value is `(1, value, 1)`. An end that does not belong to its interval lies a little further in, with 2 for a low end
and 0 for a high one. An open end is before or after every value.
"""

LOWEST: End = (0,)
HIGHEST: End = (2,)


def point(value: Hashable) -> End:
    return 1, value, 1


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of values that compare with each other. Make one with the methods below."""

    low: End = LOWEST
    high: End = HIGHEST

    @classmethod
    def at_least(cls, value: Hashable) -> Interval:
        return cls(low=point(value))

    @classmethod
    def more_than(cls, value: Hashable) -> Interval:
        return cls(low=(1, value, 2))

    @classmethod
    def at_most(cls, value: Hashable) -> Interval:
        return cls(high=point(value))

    @classmethod
    def less_than(cls, value: Hashable) -> Interval:
        return cls(high=(1, value, 0))

    def __and__(self, other: Interval) -> Interval:
        """Return what both contain."""
        return Interval(max(self.low, other.low), min(self.high, other.high))

    def __contains__(self, value: Hashable) -> bool:
        return self.low <= point(value) <= self.high

    @property
    def is_empty(self) -> bool:
        return self.high < self.low

    @property
    def is_bounded(self) -> bool:
        return self.low != LOWEST and self.high != HIGHEST


class _Node(Generic[Item]):
    """A node of the tree. `reach` is the furthest high end of this node and those below it."""

    __slots__ = ("high", "items", "left", "low", "priority", "reach", "right")

    def __init__(self, interval: Interval, priority: float) -> None:
        self.low = interval.low
        self.high = self.reach = interval.high
        self.priority = priority
        self.items: ItemSet[Item] = ()
        self.left: _Node[Item] | None = None
        self.right: _Node[Item] | None = None

    def comes_after(self, low: End, high: End) -> bool:
        return low < self.low or (low == self.low and high < self.high)

    def refresh(self) -> None:
        reach = self.high
        if self.left is not None and self.left.reach > reach:
            reach = self.left.reach
        if self.right is not None and self.right.reach > reach:
            reach = self.right.reach
        self.reach = reach


class IntervalTree(Generic[Item]):
    """Items by intervals. An item can be added with several intervals, with each of them once."""

    def __init__(self) -> None:
        self.nodes: CompactDict[Interval, _Node[Item]] = CompactDict()
        self._root: _Node[Item] | None = None
        self._random = Random(0)  # noqa: S311  # priorities need to be unrelated to the intervals, not secret

    def __len__(self) -> int:
        """Return how many different intervals there are."""
        return len(self.nodes)

    def __iter__(self) -> Iterator[Item]:
        for node in self.nodes.values():
            yield from node.items

    def add(self, interval: Interval, item: Item) -> None:
        node = self.nodes.get(interval)
        if node is None:
            node = _Node(interval, self._random.random())
            self.nodes.put(interval, node)
            self._insert(node)
        node.items = with_item(node.items, item)

    def remove(self, interval: Interval, item: Item) -> None:
        """Raises `KeyError` when it is not there."""
        node = self.nodes[interval]
        node.items = without_item(node.items, item)
        if not node.items:
            self.nodes.drop(interval)
            self._delete(node)

    def at(self, value: Hashable) -> list[Item]:
        """Return the items whose intervals contain the value."""
        where = point(value)
        found: list[Item] = []
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            if node is None or node.reach < where:
                continue
            waiting.append(node.left)
            if node.low <= where:
                waiting.append(node.right)
                if where <= node.high:
                    found.extend(node.items)
        return found

    def _insert(self, node: _Node[Item]) -> None:
        """Put the node where its priority belongs, and split what is there to its left and right."""
        path: list[_Node[Item]] = []
        below = self._root
        while below is not None and below.priority >= node.priority:
            path.append(below)
            below = below.left if below.comes_after(node.low, node.high) else below.right
        node.left, node.right = _split(below, node)
        node.refresh()
        self._hang(path, node, node)

    def _delete(self, node: _Node[Item]) -> None:
        """Take the node out, and put what is below it into its place."""
        path: list[_Node[Item]] = []
        below = self._root
        while below is not node:
            assert below is not None
            path.append(below)
            below = below.left if below.comes_after(node.low, node.high) else below.right
        self._hang(path, node, _merge(node.left, node.right))

    def _hang(self, path: list[_Node[Item]], at: _Node[Item], node: _Node[Item] | None) -> None:
        """Put a tree at the end of the path, on the side where `at` belongs, and refresh the nodes above."""
        if not path:
            self._root = node
        elif path[-1].comes_after(at.low, at.high):
            path[-1].left = node
        else:
            path[-1].right = node
        for above in reversed(path):
            above.refresh()


def _split(tree: _Node[Item] | None, node: _Node[Item]) -> tuple[_Node[Item] | None, _Node[Item] | None]:
    """Return what comes before the node, and what comes after it."""
    path: list[tuple[_Node[Item], bool]] = []
    while tree is not None:
        is_after = tree.comes_after(node.low, node.high)
        path.append((tree, is_after))
        tree = tree.left if is_after else tree.right
    before: _Node[Item] | None = None
    after: _Node[Item] | None = None
    for each, is_after in reversed(path):
        if is_after:
            each.left, after = after, each
        else:
            each.right, before = before, each
        each.refresh()
    return before, after


def _merge(left: _Node[Item] | None, right: _Node[Item] | None) -> _Node[Item] | None:
    """Return one tree of two; all of `left` comes before all of `right`."""
    path: list[tuple[_Node[Item], bool]] = []
    while left is not None and right is not None:
        is_left = left.priority > right.priority
        path.append((left if is_left else right, is_left))
        if is_left:
            left = left.right
        else:
            right = right.left
    tree = right if left is None else left
    for each, is_left in reversed(path):
        if is_left:
            each.right = tree
        else:
            each.left = tree
        each.refresh()
        tree = each
    return tree
