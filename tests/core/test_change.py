"""A snapshot knows which transactions it saw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.model.change import Snapshot


def test_snapshot_sees_what_had_ended_and_nothing_else() -> None:
    taken = Snapshot.parse("10:15:10,12")
    assert [xid for xid in range(5, 20) if taken.sees(xid)] == [5, 6, 7, 8, 9, 11, 13, 14]


@pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "1:2:3:4", "1:2:x"])
def test_text_that_is_no_snapshot_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Snapshot.parse(text)


@given(st.integers(1, 2**63), st.sets(st.integers(0, 20)), st.integers(0, 21))
def test_parsing_keeps_every_transaction(xmin: int, offsets: set[int], width: int) -> None:
    in_progress = sorted(xmin + offset for offset in offsets if offset < width)
    text = f"{xmin}:{xmin + width}:{','.join(map(str, in_progress))}"
    assert Snapshot.parse(text) == Snapshot(xmin, xmin + width, frozenset(in_progress))
