"""What keeps many that come and go, and gives back their place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.engine.roster import Crew, Roster, joined, left


@given(st.lists(st.integers(0, 50), max_size=200))
def test_a_roster_holds_what_a_dict_would(steps):
    """In the same order, also after it has shrunk."""
    roster: Roster[int, int] = Roster()
    plain: dict[int, int] = {}
    for number, key in enumerate(steps):
        if key in plain:
            roster.drop(key)
            del plain[key]
        else:
            roster.put(key, number)
            plain[key] = number
        assert list(roster.items()) == list(plain.items())


def test_a_roster_shrinks_to_what_is_left():
    """A dict would stay as large as it has ever been."""
    roster: Roster[int, None] = Roster()
    for key in range(10_000):
        roster.put(key, None)
    for key in range(9_990):
        roster.drop(key)
    assert list(roster) == list(range(9_990, 10_000))
    assert roster.__sizeof__() < 3_000


@given(st.lists(st.integers(0, 20), max_size=100))
def test_a_crew_is_each_item_once(steps):
    """Few or many, whoever comes or goes."""
    crew: Crew[int] = ()
    plain: dict[int, None] = {}
    for item in steps:
        if item in plain:
            crew = left(crew, item)
            del plain[item]
        else:
            crew = joined(crew, item)
            plain[item] = None
        assert list(crew) == list(plain)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_who_is_not_in_a_crew_cannot_leave_it(count):
    """Or a mistake of ours would go unseen."""
    crew: Crew[int] = ()
    for item in range(count):
        crew = joined(crew, item)
    with pytest.raises(KeyError):
        left(crew, -1)
