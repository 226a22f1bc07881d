"""What keeps many that come and go, and gives back their place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.engine.compact_dict import CompactDict, ItemSet, with_item, without_item


@given(st.lists(st.integers(0, 50), max_size=200))
def test_a_compact_holds_what_a_dict_would(steps):
    """In the same order, also after it has shrunk."""
    compact: CompactDict[int, int] = CompactDict()
    plain: dict[int, int] = {}
    for number, key in enumerate(steps):
        if key in plain:
            compact.drop(key)
            del plain[key]
        else:
            compact.put(key, number)
            plain[key] = number
        assert list(compact.items()) == list(plain.items())


def test_a_compact_shrinks_to_what_is_left():
    """A dict would stay as large as it has ever been."""
    compact: CompactDict[int, None] = CompactDict()
    for key in range(10_000):
        compact.put(key, None)
    for key in range(9_990):
        compact.drop(key)
    assert list(compact) == list(range(9_990, 10_000))
    assert compact.__sizeof__() < 3_000


@given(st.lists(st.integers(0, 20), max_size=100))
def test_a_items_is_each_item_once(steps):
    """Few or many, whoever comes or goes."""
    items: ItemSet[int] = ()
    plain: dict[int, None] = {}
    for item in steps:
        if item in plain:
            items = without_item(items, item)
            del plain[item]
        else:
            items = with_item(items, item)
            plain[item] = None
        assert list(items) == list(plain)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_who_is_not_in_a_items_cannot_leave_it(count):
    """Or a mistake of ours would go unseen."""
    items: ItemSet[int] = ()
    for item in range(count):
        items = with_item(items, item)
    with pytest.raises(KeyError):
        without_item(items, -1)
