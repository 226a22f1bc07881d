"""A query is understood whole or refused by the name of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_bridge.errors import RequestError
from cdc_bridge.filter import Field
from cdc_bridge.projection import SortKey
from cdc_bridge.query import QueryLimits, item_key, resolve
from cdc_bridge.subscription import Query, scalar_text
from tests.core.facts import COMPOSITE, KEYLESS, MESSAGES

LIMITS = QueryLimits(limit_default=100, limit_max=1000)


def resolved(**raw: Any) -> Query:
    return resolve(raw, MESSAGES, LIMITS)


def fields(**raw: Any) -> list[str]:
    return [output.name for output in resolved(**raw).projection.outputs]


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (None, ["id", "text"]),
        ([], ["id", "text"]),
        ("*", ["id", "text"]),
        (["text", "*"], ["text", "id"]),
        ("text,id", ["text", "id"]),
        ("text, text", ["text"]),
        (["id"], ["id"]),
    ],
)
def test_fields_choose_columns_in_their_order(raw: Any, names: list[str]) -> None:
    assert fields(fields=raw) == names


def test_sdk_strings_mean_the_same_as_json() -> None:
    assert resolved(fields="id,text", sort="-id,text", limit="2", offset="4") == resolved(
        fields=["id", "text"], sort=["-id", "text"], limit=2, offset=4
    )


def test_sort_names_columns_and_directions() -> None:
    assert resolved(sort="-id,text").sort == (
        SortKey(Field(MESSAGES.by_name["id"]), descending=True),
        SortKey(Field(MESSAGES.by_name["text"])),
    )


def test_limit_minus_one_means_the_maximum_and_a_cut_is_ours() -> None:
    assert (resolved(limit=-1).limit, resolved(limit=-1).limit_is_ours) == (1000, True)
    assert (resolved().limit, resolved().limit_is_ours) == (100, True)
    assert (resolved(limit=5).limit, resolved(limit=5).limit_is_ours) == (5, False)
    assert resolved(limit=0).limit == 0


def test_page_counts_from_one() -> None:
    assert resolved(limit=2, page=2).offset == 2
    assert resolved(limit=2, page=1, offset=7).offset == 0
    assert resolved(limit=2, page=0, offset=7).offset == 7


@pytest.mark.parametrize(
    ("raw", "code", "name"),
    [
        ({"filter": {"id": {"_eq": 1}}}, "INVALID_QUERY", "filter"),
        ({"search": "x"}, "INVALID_QUERY", "search"),
        ({"aggregate": {"count": "*"}}, "INVALID_QUERY", "aggregate"),
        ({"bogus": 1}, "INVALID_QUERY", "bogus"),
        ({"limit": -2}, "INVALID_QUERY", "limit"),
        ({"limit": 1001}, "INVALID_QUERY", "limit"),
        ({"limit": "many"}, "INVALID_QUERY", "limit"),
        ({"limit": True}, "INVALID_QUERY", "limit"),
        ({"limit": 1.5}, "INVALID_QUERY", "limit"),
        ({"limit": [1]}, "INVALID_QUERY", "limit"),
        ({"limit": "\u0661"}, "INVALID_QUERY", "limit"),
        ({"limit": "1_000"}, "INVALID_QUERY", "limit"),
        ({"limit": "9" * 5000}, "INVALID_QUERY", "limit"),
        ({"offset": -1}, "INVALID_QUERY", "offset"),
        ({"offset": 2**70}, "INVALID_QUERY", "offset"),
        ({"page": 2**62, "limit": 1000}, "INVALID_QUERY", "page"),
        ({"page": "x"}, "INVALID_QUERY", "page"),
        ({"fields": 5}, "INVALID_QUERY", "fields"),
        ({"fields": ["id", 5]}, "INVALID_QUERY", "fields"),
        ({"fields": "author.name"}, "INVALID_QUERY", "author.name"),
        ({"fields": "year(at)"}, "INVALID_QUERY", "year(at)"),
        ({"fields": "nope"}, "FORBIDDEN", "nope"),
        ({"sort": 5}, "INVALID_QUERY", "sort"),
        ({"sort": "nope"}, "FORBIDDEN", "nope"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(raw: dict[str, Any], code: str, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        resolve(raw, MESSAGES, LIMITS)
    assert refused.value.code == code
    assert name in refused.value.message


@pytest.mark.parametrize(("item", "key"), [(26, ("26",)), ("26", ("26",)), (26.0, ("26",))])
def test_item_is_compared_by_value(item: Any, key: tuple[str, ...]) -> None:
    assert item_key(item, MESSAGES) == key


def test_item_of_a_composite_key_names_its_columns() -> None:
    assert item_key({"b": "2", "a": 1}, COMPOSITE) == ("1", "2")


@pytest.mark.parametrize("item", [1, "1", {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": None}, {"a": 1, "b": [2]}])
def test_item_that_is_no_composite_key_is_forbidden(item: Any) -> None:
    with pytest.raises(RequestError, match="FORBIDDEN"):
        item_key(item, COMPOSITE)


def test_item_of_a_table_without_a_key_is_refused() -> None:
    with pytest.raises(RequestError, match="no key"):
        item_key(1, KEYLESS)


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (7.0, "7"), (1.5, "1.5"), (0.0, "0"), (-0.25, "-0.25"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
     (1e-6, "0.000001"), (1e-7, "1e-7"), (1.25e-9, "1.25e-9"), (123456789012345680.0, "123456789012345680")],
)  # fmt: skip
def test_numbers_read_as_javascript_writes_them(number: float, text: str) -> None:
    assert scalar_text(number) == text
