"""IntervalTree found by a value, against a plain list of them."""

from __future__ import annotations

import gc
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.engine.intervals import Interval, IntervalTree, _Node

VALUES = st.integers(0, 12)


@st.composite
def intervals(draw) -> Interval:
    low = draw(st.sampled_from([None, Interval.at_least, Interval.more_than]))
    high = draw(st.sampled_from([None, Interval.at_most, Interval.less_than]))
    return (low(draw(VALUES)) if low else Interval()) & (high(draw(VALUES)) if high else Interval())


def test_ends_belong_to_the_interval_or_do_not():
    """What `_gte` and `_gt`, `_lte` and `_lt` differ in."""
    assert 5 in Interval.at_least(5)
    assert 5 not in Interval.more_than(5)
    assert 5 in Interval.at_most(5)
    assert 5 not in Interval.less_than(5)
    assert Decimal("5.01") in Interval.more_than(5) & Interval.less_than(Decimal("5.02"))


@given(intervals(), VALUES)
def test_an_empty_interval_contains_nothing(interval, value):
    """And of one that is not empty the ends meet at least."""
    assert not (interval.is_empty and value in interval)


def test_an_interval_of_one_value_is_not_empty():
    """`_between: [5, 5]` is `_eq: 5`; with an end that does not belong to it nothing is left."""
    assert not (Interval.at_least(5) & Interval.at_most(5)).is_empty
    assert (Interval.more_than(5) & Interval.at_most(5)).is_empty
    assert (Interval.at_least(5) & Interval.less_than(5)).is_empty
    assert (Interval.at_least(6) & Interval.at_most(5)).is_empty


@settings(max_examples=200)
@given(st.lists(st.tuples(intervals(), st.booleans()), max_size=60), st.randoms(use_true_random=False))
def test_finds_what_a_list_would(steps, random):
    """IntervalTree come and go in any order; after each step every value finds what contains it."""
    index: IntervalTree[int] = IntervalTree()
    listed: dict[int, Interval] = {}
    for number, (interval, goes) in enumerate(steps):
        index.add(interval, number)
        listed[number] = interval
        if goes:
            gone = random.choice(list(listed))
            index.remove(listed.pop(gone), gone)
        for value in range(13):
            assert sorted(index.at(value)) == [each for each, of in listed.items() if value in of]
    assert sorted(index) == sorted(listed)
    assert len(index) == len(set(listed.values()))


def _depth(index: IntervalTree[int]) -> int:
    level = [index._root] if index._root else []
    depth = 0
    while level:
        depth += 1
        level = [child for node in level for child in (node.left, node.right) if child]
    return depth


def test_intervals_in_order_make_no_deep_tree():
    """Sorted arrivals are the usual ones, think of times; a plain search tree would become a list."""
    index: IntervalTree[int] = IntervalTree()
    for low in range(10_000):
        index.add(Interval.at_least(low) & Interval.at_most(low + 10), low)
    assert _depth(index) < 50
    assert sorted(index.at(5_000)) == list(range(4_990, 5_001))


def _nodes_alive() -> int:
    gc.collect()
    return sum(isinstance(each, _Node) for each in gc.get_objects())


def test_what_is_removed_leaves_nothing_behind():
    """Not the nodes, nor the place that they took."""
    before = _nodes_alive()
    index: IntervalTree[int] = IntervalTree()
    for low in range(2_000):
        index.add(Interval.at_least(low), low)
    for low in range(2_000):
        index.remove(Interval.at_least(low), low)
    assert (len(index), index._root, list(index)) == (0, None, [])
    assert index.nodes.__sizeof__() < 5_000
    assert _nodes_alive() == before
