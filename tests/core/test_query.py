"""A query is understood whole or refused by the name of what is wrong."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.model.catalog import Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import EVERYTHING, NOTHING, And, Comparison, Field, Function, Literal, Operator, Or
from cdc_bridge.model.subscription import (
    Aggregate,
    AggregateFunction,
    Item,
    Meta,
    Projection,
    Query,
    SortKey,
    scalar_text,
)
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals
from cdc_bridge.query.parser import KNOWN, compact, item_key, parse_query
from tests.core import shapes
from tests.core.facts import COMPOSITE, KEYLESS, MESSAGES

LIMITS = QueryLimits(limit_default=100, limit_max=1000)


def resolved(**raw: Any) -> Query:
    return parse_query(raw, MESSAGES, LIMITS)


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
        ({"version": "main"}, "INVALID_QUERY", "version"),
        ({"versionRaw": True}, "INVALID_QUERY", "versionRaw"),
        ({"backlink": True}, "INVALID_QUERY", "backlink"),
        ({"export": "csv"}, "INVALID_QUERY", "export"),
        ({"filter": {"id": {"_eq": "x"}}}, "INVALID_QUERY", "_eq"),
        ({"filter": {"nope": {"_eq": 1}}}, "FORBIDDEN", "nope"),
        ({"search": {"a": 1}}, "INVALID_QUERY", "search"),
        ({"search": True}, "INVALID_QUERY", "search"),
        ({"search": "\0"}, "INVALID_QUERY", "search"),
        ({"meta": "rows"}, "INVALID_QUERY", "rows"),
        ({"meta": True}, "INVALID_QUERY", "meta"),
        ({"limit": Decimal("1.5")}, "INVALID_QUERY", "limit"),
        ({"limit": Decimal("1e999999999")}, "INVALID_QUERY", "limit"),
        ({"limit": Decimal("1e-999999999")}, "INVALID_QUERY", "limit"),
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
        ({"fields": "author.name"}, "FORBIDDEN", "author"),
        ({"fields": "year(at)"}, "FORBIDDEN", "at"),
        ({"fields": "nope"}, "FORBIDDEN", "nope"),
        ({"sort": 5}, "INVALID_QUERY", "sort"),
        ({"sort": "nope"}, "FORBIDDEN", "nope"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(raw: dict[str, Any], code: str, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_query(raw, MESSAGES, LIMITS)
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


# --- sort ---


def asked(of: Collection = shapes.MESSAGES, **raw: Any) -> Query:
    return parse_query(raw, of, LIMITS, shapes.CATALOG)


def refusal(of: Collection = shapes.MESSAGES, **raw: Any) -> str:
    with pytest.raises(RequestError) as refused:
        asked(of, **raw)
    return refused.value.message


def test_sort_follows_foreign_keys_and_knows_functions() -> None:
    author = shapes.MESSAGES.by_reference["author"]
    team = shapes.AUTHORS.by_reference["team"]
    assert asked(sort="-author.name,author.team.id,-year(ts)").sort == (
        SortKey(Field(shapes.AUTHORS.by_name["name"]), True, (author,)),
        SortKey(Field(shapes.TEAMS.by_name["id"]), False, (author, team)),
        SortKey(Field(shapes.MESSAGES.by_name["ts"], Function.YEAR), True),
    )


def test_sort_counts_rows_along_a_relation() -> None:
    """The step to many rows ends the path. The column that they refer to stands for the field."""
    author, messages = shapes.MESSAGES.by_reference["author"], shapes.AUTHORS.by_reference["messages"]
    assert asked(sort="-author.count(messages)").sort == (
        SortKey(Field(shapes.AUTHORS.by_name["id"]), True, (author, messages)),
    )


def test_second_direction_of_a_field_is_not_looked_at() -> None:
    assert asked(sort="id,-id").sort == asked(sort="id").sort


@pytest.mark.parametrize(
    ("sort", "words"),
    [
        ("author.nope", ['"nope" in collection "authors"', 'Queried in "author"']),
        ("nope.id", ['"nope"', "Queried in root"]),
        ("text.id", ['"text" is not a relation']),
        ("replies.id", ["replies", "many"]),
        ("replies", ['"replies"']),
        ("lost.id", ['"lost"']),
        ("count(nope)", ['"nope"']),
        ("count(replies).id", ['"count(replies).id"']),
        ("year(id)", ['"year"', '"id"']),
        (".".join(["reply_to"] * 11), ["deeper than 10"]),
        ([f"{'reply_to.' * depth}{name}" for depth in range(10) for name in shapes.MESSAGES.by_name if name != "tags"]
         + [f"{'reply_to.' * depth}year(ts)" for depth in range(10)]
         + [f"{'reply_to.' * depth}month(ts)" for depth in range(10)]
         + [f"{'reply_to.' * depth}day(ts)" for depth in range(10)],
         ["more than 100"]),
    ],
)  # fmt: skip
def test_sort_that_is_not_there_is_refused(sort: Any, words: list[str]) -> None:
    message = refusal(sort=sort)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["j", "p", "x", "g", "points", "odd"])
def test_what_has_no_order_is_not_sorted_by(name: str) -> None:
    message = refusal(shapes.THINGS, sort=name)
    assert f'"sort" names "{name}"' in message
    assert "no order" in message


# --- keys ---


def by_keys(*items: Item, of: Collection = MESSAGES, **raw: Any) -> Query:
    return parse_query(raw, of, LIMITS, items=items)


def test_rows_are_asked_for_by_their_keys() -> None:
    """Besides what else is asked. Their number is the usual limit."""
    field = Field(MESSAGES.by_name["id"])
    query = by_keys(7, "5", 7.0, filter={"text": "x"})
    assert query.filter == resolved(filter={"id": {"_in": [5, 7]}, "text": "x"}).filter
    assert query.limit == 3
    assert by_keys(5).filter == Comparison(field, Operator.EQ, (Literal(b"5"),))
    assert by_keys(5, 6, limit=1).limit == 1
    assert by_keys().filter == NOTHING


def test_rows_are_asked_for_by_composite_keys() -> None:
    query = by_keys({"a": 1, "b": 2}, {"b": "4", "a": 3}, of=COMPOSITE)
    pairs = {"_or": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}
    assert query.filter == parse_query({"filter": pairs}, COMPOSITE, LIMITS).filter


@pytest.mark.parametrize(
    ("items", "of", "code"),
    [
        ((1, "junk"), MESSAGES, "FORBIDDEN"),
        ((1, {"a": 1}), MESSAGES, "FORBIDDEN"),
        ((1,), COMPOSITE, "FORBIDDEN"),
        ((1,), KEYLESS, "INVALID_PAYLOAD"),
        (tuple(range(10_001)), MESSAGES, "INVALID_QUERY"),
    ],
)
def test_what_can_be_no_key_is_refused(items: tuple[Any, ...], of: Collection, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        by_keys(*items, of=of)
    assert refused.value.code == code


# --- search ---


def contains(name: str, term: str) -> Comparison:
    field = Field(shapes.THINGS.by_name[name])
    return Comparison(field, Operator.ICONTAINS, (Literal(msgspec.json.encode(term)),))


def equals(name: str, raw: str) -> Comparison:
    return Comparison(Field(shapes.THINGS.by_name[name]), Operator.EQ, (Literal(raw.encode()),))


def found(term: Any) -> list[Any]:
    """PostgreSQL, which is asked for the text form of a float, would answer with the term itself."""
    known = {(shapes.TYPES["f"], f'"{term}"'): str(term).encode()}
    searched = parse_query({"search": term}, shapes.THINGS, LIMITS, literals=Literals(known)).filter
    assert isinstance(searched, Or)
    return list(searched.parts)


TEXTS = ("t", "v", "c", "ci")


def test_search_looks_into_texts() -> None:
    assert found("50%_") == [contains(name, "50%_") for name in TEXTS]


def test_search_for_a_number_looks_at_numbers_too() -> None:
    numbers = [equals(name, "7") for name in ("id", "i", "big", "n", "f")]
    assert set(found("7")) == {*numbers, *(contains(name, "7") for name in TEXTS)}
    assert found(7) == found("7")
    assert equals("n", "1.50") in found("1.50")
    assert equals("i", "1") not in found("1.50")
    assert not {equals("i", str(2**40)), equals("id", str(2**40))} & set(found(str(2**40)))
    assert equals("big", str(2**40)) in found(str(2**40))
    assert len(found("nan")) == len(TEXTS)


def test_search_for_a_uuid_looks_at_uuids_too() -> None:
    uuid = "8506B1CD-0000-0000-0000-000000000000"
    assert equals("u", f'"{uuid.lower()}"') in found(uuid)


@pytest.mark.parametrize("term", [None, "", "  "])
def test_empty_search_is_none(term: Any) -> None:
    assert asked(search=term).filter == EVERYTHING


def test_search_finds_nothing_where_nothing_can_hold_the_term() -> None:
    assert asked(shapes.PAIRS, search="x").filter == NOTHING


def test_search_and_filter_have_to_agree() -> None:
    room = Comparison(Field(shapes.MESSAGES.by_name["room"]), Operator.EQ, (Literal(b"1"),))
    text = Comparison(Field(shapes.MESSAGES.by_name["text"]), Operator.ICONTAINS, (Literal(b'"x"'),))
    assert asked(filter={"room": 1}, search="x").filter == And((text, room))
    assert asked(search="x").filter == text


# --- meta and figures ---


@pytest.mark.parametrize(
    ("raw", "meta"),
    [
        (None, set()),
        ([], set()),
        ("*", set(Meta)),
        ("total_count", {Meta.TOTAL_COUNT}),
        ("total_count,filter_count", set(Meta)),
        (["filter_count"], {Meta.FILTER_COUNT}),
    ],
)
def test_meta_counts(raw: Any, meta: set[Meta]) -> None:
    assert asked(meta=raw).meta == meta


def of(name: str, function: Function | None = None) -> Field:
    return Field(shapes.MESSAGES.by_name[name], function)


@pytest.mark.parametrize(
    ("raw", "functions"),
    [
        ({"count": "*"}, [(AggregateFunction.COUNT, None)]),
        ({"countAll": "*"}, [(AggregateFunction.COUNT_ALL, None)]),
        ('{"count":["*","id"]}', [(AggregateFunction.COUNT, None), (AggregateFunction.COUNT, of("id"))]),
        ({"sum": "score,id"}, [(AggregateFunction.SUM, of("score")), (AggregateFunction.SUM, of("id"))]),
        (
            {"avg": ["score"], "min": "text"},
            [(AggregateFunction.AVG, of("score")), (AggregateFunction.MIN, of("text"))],
        ),
        ({"countDistinct": "text"}, [(AggregateFunction.COUNT_DISTINCT, of("text"))]),
        ({"max": "year(ts)"}, [(AggregateFunction.MAX, of("ts", Function.YEAR))]),
        ({"sumDistinct": "count(tags)"}, [(AggregateFunction.SUM_DISTINCT, of("tags", Function.COUNT))]),
    ],
)
def test_aggregate_asks_for_figures(raw: Any, functions: list[Any]) -> None:
    query = asked(aggregate=raw)
    assert query.aggregate == Aggregate(tuple(functions))
    assert query.projection == Projection(())


def test_figures_of_groups() -> None:
    query = asked(aggregate={"count": "*"}, groupBy="room,year(ts)", sort="-room", filter={"room": {"_gt": 1}}, limit=5)
    assert query.aggregate == Aggregate(((AggregateFunction.COUNT, None),), (of("room"), of("ts", Function.YEAR)))
    assert query.sort == (SortKey(of("room"), descending=True),)
    assert asked(groupBy=["room"]).aggregate == Aggregate((), (of("room"),))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"aggregate": 5}, ["aggregate", "object"]),
        ({"aggregate": {"bogus": "*"}}, ['"bogus"']),
        ({"aggregate": {"count": []}}, ['"count"']),
        ({"aggregate": {"count": 5}}, ["aggregate.count"]),
        ({"aggregate": {"count": "nope"}}, ['"nope"']),
        ({"aggregate": {"sum": "*"}}, ['"sum"', "*"]),
        ({"aggregate": {"countAll": "id"}}, ['"countAll"', "*"]),
        ({"aggregate": {"sum": "text"}}, ['"text" field type does not have the "sum" function (field "text")']),
        ({"aggregate": {"avg": "ts"}}, ['"avg"', '"ts"']),
        ({"aggregate": {"min": "tags"}}, ['"min"', '"tags"']),
        ({"aggregate": {"count": "author.name"}}, ["author.name"]),
        ({"groupBy": 5}, ["groupBy"]),
        ({"groupBy": "nope"}, ['"nope"']),
        ({"groupBy": ["year(id)"]}, ['"year"']),
        ({"aggregate": {"count": "*"}, "fields": "id"}, ["fields", "aggregate"]),
        ({"aggregate": {"count": "*"}, "alias": {"a": "id"}}, ["alias", "aggregate"]),
        ({"aggregate": {"count": "*"}, "deep": {"a": {}}}, ["deep", "aggregate"]),
        ({"aggregate": {"count": "*"}, "sort": "id"}, ['"id"', "groupBy"]),
        ({"groupBy": "room", "sort": "author.id"}, ['"id"', "groupBy"]),
    ],
)
def test_figures_that_there_are_not_are_refused(raw: dict[str, Any], words: list[str]) -> None:
    message = refusal(**raw)
    assert all(word in message for word in words), message


def test_json_is_not_grouped_by_and_not_counted_distinctly() -> None:
    assert '"groupBy" names "j"' in refusal(shapes.THINGS, groupBy="j")
    assert '"countDistinct"' in refusal(shapes.THINGS, aggregate={"countDistinct": "j"})
    assert asked(shapes.THINGS, aggregate={"count": "j"}).aggregate


@pytest.mark.parametrize("raw", [{}, None, "{}"])
def test_empty_aggregate_is_none(raw: Any) -> None:
    assert asked(aggregate=raw, groupBy=[]).aggregate is None


# --- what is kept ---

REQUESTS: list[dict[str, Any]] = [
    {"fields": "id, id,text", "sort": ["-id", "-id"], "limit": "5", "page": 2, "meta": "*", "search": "x"},
    {"filter": {"score": {"_in": [Decimal("1.50"), 1]}}, "deep": {"author": {}}, "fields": "author.w,body",
     "alias": {"body": "text"}},
    {"filter": '{"room":{"_eq":1}}', "fields": None, "alias": None},
    {"aggregate": {"count": "*"}, "groupBy": "room"},
]  # fmt: skip
REQUESTS[1]["deep"]["author"]["_alias"] = {"w": "name"}


@pytest.mark.parametrize("raw", REQUESTS)
def test_frugal_request_means_the_same(raw: dict[str, Any]) -> None:
    kept = compact(raw)
    assert asked(**kept) == asked(**raw)
    assert compact(kept) == kept


def test_frugal_request_is_flat() -> None:
    assert compact({"filter": {"a": [Decimal("1.50")]}, "fields": "a,a", "search": None}) == {
        "filter": '{"a":[1.50]}',
        "fields": ["a"],
    }


def test_values_for_all_parts_are_asked_for_at_once() -> None:
    """Of `filter` and of `deep` alike."""
    raw = {
        "filter": {"born": {"_gt": "Jan 2 2000"}},
        "fields": "messages.id",
        "deep": {"messages": {"_filter": {"ts": {"_lt": "Jan 3 2000"}}}},
    }
    literals = Literals()
    parse_query(raw, shapes.AUTHORS, LIMITS, shapes.CATALOG, literals=literals)
    assert [text for _, text in literals.missing] == ['"Jan 3 2000"', '"Jan 2 2000"']
    known = Literals(dict.fromkeys(literals.missing, b'"2000-01-02"'))
    assert parse_query(raw, shapes.AUTHORS, LIMITS, shapes.CATALOG, literals=known)
    assert not known.missing


scalars = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=4)
    | st.sampled_from(["*", "id", "-id", "author.name", "count", "room", "{}", "{", "total_count", "1", Decimal("2.0")])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["count", "sum", "messages", "author", "_limit", "id", "_eq"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*sorted(KNOWN), "bogus"]), values, max_size=4))
def test_whatever_is_asked_is_a_query_or_a_refusal(raw: dict[str, Any]) -> None:
    with suppress(RequestError):
        query = asked(**raw)
        assert asked(**compact(raw)) == query
        assert hash(query) is not None
