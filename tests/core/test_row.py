"""JSON is taken apart alike by the fast way and by the one that takes over when nesting is too deep."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.model import row as rows

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
DEEP = "[" * 5000 + "]" * 5000


@given(st.lists(VALUES, max_size=5))
def test_scanner_splits_arrays_as_the_parser_does(values: list[Any]) -> None:
    text = msgspec.json.encode(values)
    assert list(rows._items(text)) == [bytes(item) for item in rows.split_array(text)]


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_scanner_splits_objects_as_the_parser_does(values: dict[str, Any]) -> None:
    text = msgspec.json.encode(values)
    scanned = {name: bytes(value) for name, value in rows._members(text).items()}
    assert scanned == {name: bytes(value) for name, value in rows.split_object(text).items()}


def test_deep_values_pass_as_they_are() -> None:
    (row,) = rows.split_rows('[{"id":1,"deep":' + DEEP + "}]")
    assert {name: bytes(value) for name, value in row.items()} == {"id": b"1", "deep": DEEP.encode()}
    assert [bytes(item) for item in rows.split_array(f"[1,{DEEP}]".encode())] == [b"1", DEEP.encode()]
    assert bytes(rows.split_object('{"a,b":' + DEEP + "}")["a,b"]) == DEEP.encode()


@pytest.mark.parametrize("text", ["[" * 5000, '{"a"' + DEEP + "}"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        rows.split_object(text)
