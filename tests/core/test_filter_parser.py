"""A client's filter becomes a value, or is refused by the names of the field and the operator."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.model.catalog import Collection, PgType
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    And,
    Comparison,
    Field,
    Filter,
    Function,
    Literal,
    Now,
    Operator,
    Or,
    Path,
    Quantifier,
    Related,
    Value,
)
from cdc_bridge.query import operators
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals
from cdc_bridge.query.parser import parse_query
from tests.core.shapes import AUTHORS, CATALOG, MESSAGES, THINGS, TYPES
from tests.support.server import Database

LIMITS = QueryLimits(filter_depth_max=5, filter_nodes_max=12, in_values_max=6)
ANN: dict[str, Any] = {
    "sub": "7",
    "role": "editor",
    "teams": [3, 1],
    "address": {"city": "Ulm"},
    "https://x.y/z": 4,
    "none": None,
}


def parsed(raw: Any, of: Collection = THINGS, claims: dict[str, Any] | None = None, **known: Any) -> Filter:
    return parse_query({"filter": raw}, of, LIMITS, CATALOG, claims=claims, **known).filter


def refusal(raw: Any, of: Collection = THINGS, claims: dict[str, Any] | None = None) -> str:
    with pytest.raises(RequestError) as refused:
        parsed(raw, of, claims)
    assert refused.value.code in ("INVALID_QUERY", "FORBIDDEN")
    return refused.value.message


def field(name: str, of: Collection = THINGS, function: Function | None = None) -> Field:
    return Field(of.by_name[name], function)


def path(name: str, *members: str, type_: PgType = operators.TEXT) -> Path:
    return Path(THINGS.by_name[name], members, type_)


def literals(*raw: str) -> tuple[Value, ...]:
    return tuple(Literal(each.encode()) for each in raw)


def compared(name: str, operator: Operator, *raw: str, of: Collection = THINGS) -> Comparison:
    return Comparison(field(name, of), operator, literals(*raw))


def eq(name: str, raw: str, of: Collection = MESSAGES) -> Comparison:
    return compared(name, Operator.EQ, raw, of=of)


NULLS = {"_null", "_nnull"}
EQUAL = {"_eq", "_neq", "_in", "_nin"}
ORDER = {"_lt", "_lte", "_gt", "_gte", "_between", "_nbetween"}
CONTAIN = {"_contains", "_ncontains"}
LIKE = {
    f"_{i}{word}" if not n else f"_n{i}{word}"
    for n in (False, True)
    for i in ("", "i")
    for word in ("contains", "starts_with", "ends_with")
}
TEXTUAL = {"_empty", "_nempty", "_ieq", "_nieq", "_regex", *LIKE}
GEO = {"_intersects", "_nintersects", "_intersects_bbox", "_nintersects_bbox"}

SCALAR = NULLS | EQUAL | ORDER
BY_TYPE = {
    **dict.fromkeys(("i", "big", "n", "f", "b", "u", "d", "ts", "tm", "iv", "mood", "pair", "by", "net", "r"), SCALAR),
    **dict.fromkeys(("t", "v", "c", "ci"), SCALAR | TEXTUAL),
    **dict.fromkeys(("j", "p", "x", "points"), NULLS),
    **dict.fromkeys(("jb", "ints", "texts"), SCALAR | CONTAIN),
    "g": NULLS | {"_eq", "_neq"} | GEO,
    "odd": NULLS | EQUAL,
}


@pytest.mark.parametrize("name", TYPES)
def test_each_type_has_the_operators_that_postgresql_has(name: str) -> None:
    """What it has not is refused in Directus's words, with the field."""
    allowed = {operator.value for operator in operators.allowed(TYPES[name])}
    assert allowed == BY_TYPE[name]
    for operator in {each.value for each in Operator} - allowed:
        word = TYPES[name].name.removeprefix("public.")
        expected = f'"{word}" field type does not contain the "{operator}" filter operator (field "{name}")'
        assert expected in refusal({name: {operator: 1}})


@pytest.mark.parametrize(
    ("name", "operator", "value", "raw"),
    [
        ("i", "_eq", 7, ["7"]),
        ("i", "_neq", "7", ["7"]),
        ("i", "_lt", Decimal("7.0"), ["7"]),
        ("big", "_lte", 2**53 + 1, ["9007199254740993"]),
        ("n", "_gt", Decimal("1.50"), ["1.50"]),
        ("n", "_gte", "0.1000000000000000000001", ["0.1000000000000000000001"]),
        ("b", "_eq", True, ["true"]),
        ("b", "_eq", "false", ["false"]),
        ("t", "_eq", "x", ['"x"']),
        ("t", "_eq", "", ['""']),
        ("t", "_eq", "null", ['"null"']),
        ("t", "_eq", "true", ['"true"']),
        ("t", "_eq", 5, ['"5"']),
        ("t", "_eq", True, ['"true"']),
        ("t", "_lt", "x", ['"x"']),
        ("t", "_contains", "50%_", ['"50%_"']),
        ("t", "_icontains", 5, ['"5"']),
        ("c", "_starts_with", "a ", ['"a "']),
        ("ci", "_nicontains", "X", ['"X"']),
        ("v", "_ieq", "ABC", ['"ABC"']),
        ("u", "_gt", "8506B1CD-0000-0000-0000-000000000000", ['"8506b1cd-0000-0000-0000-000000000000"']),
        ("d", "_eq", "2026-11-24", ['"2026-11-24"']),
        ("mood", "_gt", "sad", ['"sad"']),
        ("ints", "_contains", [1, 2], ["[1,2]"]),
        ("ints", "_contains", 1, ["[1]"]),
        ("ints", "_ncontains", "1", ["[1]"]),
        ("texts", "_contains", "a,b", ['["a,b"]']),
        ("ints", "_eq", [], ["[]"]),
        ("i", "_between", [1, 5], ["1", "5"]),
        ("i", "_nbetween", "1, 5", ["1", "5"]),
        ("d", "_between", "2026-01-01,2026-02-01", ['"2026-01-01"', '"2026-02-01"']),
        ("i", "_in", [3, "1", 2, 1], ["1", "2", "3"]),
        ("i", "_nin", "3, 1", ["1", "3"]),
        ("t", "_in", "a, b", ['" b"', '"a"']),
        ("i", "_in", [2, None, 1], ["1", "2"]),
        ("ints", "_in", [[1], [2]], ["[1]", "[2]"]),
    ],
)
def test_values_are_spelled_as_rows_have_them(name: str, operator: str, value: Any, raw: list[str]) -> None:
    assert parsed({name: {operator: value}}) == compared(name, Operator(operator), *raw)


@pytest.mark.parametrize(
    ("raw", "same"),
    [
        ({"i": 7}, {"i": {"_eq": 7}}),
        ({"i": None}, {"i": {"_null": True}}),
        ({"i": {"_eq": None}}, {"i": {"_null": True}}),
        ({"i": {"_eq": "null"}}, {"i": {"_null": "true"}}),
        ({"i": {"_neq": None}}, {"i": {"_nnull": True}}),
        ({"i": {"_null": False}}, {"i": {"_nnull": True}}),
        ({"i": {"_nnull": "false"}}, {"i": {"_null": True}}),
        ({"t": {"_empty": False}}, {"t": {"_nempty": True}}),
        ({"jb": {"_eq": None}}, {"jb": {"_null": True}}),
        ({"i": {"_in": 7}}, {"i": 7}),
        ({"i": {"_in": "7"}}, {"i": 7}),
        ({"i": {"_in": [7, 7, "7"]}}, {"i": 7}),
        ({"i": {"_nin": [7]}}, {"i": {"_neq": 7}}),
        ('{"i":{"_eq":7}}', {"i": 7}),
        ('{"n":1.50}', {"n": Decimal("1.50")}),
        ({"i": 1, "t": "a"}, {"t": "a", "i": 1}),
        ({"_and": [{"t": "a"}, {"i": 1}]}, {"i": 1, "t": "a"}),
        ({"_and": [{"_and": [{"t": "a"}]}, {"i": 1}, {"i": 1}]}, {"i": 1, "t": "a"}),
        ({"_or": [{"t": "a"}, {"i": 1}]}, {"_or": [{"i": 1}, {"_or": [{"t": "a"}]}]}),
        ({"_or": [{"i": 1}, {"i": 2}]}, {"i": {"_in": [2, 1]}}),
        ({"_or": [{"i": 1}, {"i": {"_in": [2, 1]}}]}, {"i": {"_in": "1,2"}}),
        ({"_or": [{"i": 1}, {"i": 1}]}, {"i": 1}),
        ({"i": {"_or": [{"_eq": 1}, {"_gt": 5}]}}, {"_or": [{"i": {"_gt": 5}}, {"i": 1}]}),
        ({"i": {"_or": [1, 2]}}, {"i": {"_in": [1, 2]}}),
        ({"i": {"_gt": 1, "_lt": 5}}, {"_and": [{"i": {"_lt": 5}}, {"i": {"_gt": 1}}]}),
        ({"_or": [{"_and": [{"i": 1}, {"b": True}]}, {"t": "a"}]}, {"_or": [{"t": "a"}, {"b": True, "i": 1}]}),
    ],
)
def test_equal_meanings_are_equal_values(raw: Any, same: Any) -> None:
    assert parsed(raw) == parsed(same)
    assert hash(parsed(raw)) == hash(parsed(same))


@pytest.mark.parametrize(
    "raw",
    [None, {}, "{}", {"_and": []}, {"_or": []}, {"i": {}}, {"_or": [{"i": 1}, {}]}, {"_and": [{}, {"_or": []}]},
     {"i": {"_or": []}}, {"jb": {"_json": {}}}],
)  # fmt: skip
def test_what_asks_for_nothing_lets_everything_through(raw: Any) -> None:
    assert parsed(raw) == EVERYTHING


@pytest.mark.parametrize("raw", [{"i": {"_in": [None]}}, {"i": 1, "t": {"_in": [None]}}])
def test_what_cannot_be_true_is_nothing(raw: Any) -> None:
    """`x IN (NULL)` is not true of any row."""
    assert parsed(raw) == NOTHING


def test_functions_compare_as_integers() -> None:
    assert parsed({"year(ts)": {"_eq": "2026"}}) == Comparison(
        field("ts", function=Function.YEAR), Operator.EQ, literals("2026")
    )
    assert parsed({"count(jb)": {"_gt": 2}}) == Comparison(
        field("jb", function=Function.COUNT), Operator.GT, literals("2")
    )
    assert parsed({"count(ints)": 2}) == Comparison(field("ints", function=Function.COUNT), Operator.EQ, literals("2"))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("d", {"year", "month", "week", "day", "weekday"}),
        ("ts", {"year", "month", "week", "day", "weekday", "hour", "minute", "second"}),
        ("tm", {"hour", "minute", "second"}),
        ("j", {"count"}),
        ("texts", {"count"}),
        ("i", set()),
    ],
)
def test_functions_are_those_that_the_type_has(name: str, known: set[str]) -> None:
    for function in Function:
        raw = {f"{function.value}({name})": 1}
        if function.value in known:
            parsed(raw)
        else:
            assert f'"{TYPES[name].name}" field type of "{name}" does not have the "{function.value}"' in refusal(raw)


# --- inside of JSON ---


@pytest.mark.parametrize("name", ["j", "jb"])
def test_json_paths_compare_text_and_numbers(name: str) -> None:
    numeric = path(name, "a", "b", type_=operators.NUMERIC)
    assert parsed({name: {"_json": {"a.b": {"_eq": 1}}}}) == Comparison(numeric, Operator.EQ, literals("1"))
    text = path(name, "a", "0")
    assert parsed({name: {"_json": {"a.0": "1"}}}) == Comparison(text, Operator.EQ, literals('"1"'))
    assert parsed({name: {"_json": {"a.0": True}}}) == Comparison(text, Operator.EQ, literals('"true"'))
    assert parsed({name: {"_json": {"a.0": {"_in": [1, "x"]}}}}) == Comparison(
        text, Operator.IN, literals('"1"', '"x"')
    )
    assert parsed({name: {"_json": {"a.0": {"_contains": 1}}}}) == Comparison(text, Operator.CONTAINS, literals('"1"'))
    assert parsed({name: {"_json": {"a.0": {"_null": True}}}}) == Comparison(text, Operator.NULL)


@pytest.mark.parametrize(
    ("raw", "same"),
    [
        ({"a": {"b": {"_gt": 1}}}, {"a.b": {"_gt": 1}}),
        ({"_or": [{"a": 1}, {"b": 2}]}, {"_or": [{"b": {"_eq": 2}}, {"a": {"_eq": 1}}]}),
        ({"a": {"_or": [{"_gt": 5}, {"_lt": 1}]}}, {"_or": [{"a": {"_lt": 1}}, {"a": {"_gt": 5}}]}),
        ({"a": {"_and": [{"b": 1}, {"c": 2}]}}, {"a.b": 1, "a.c": 2}),
        ({"a": {"_null": True, "b": 1}}, {"_and": [{"a": {"_null": True}}, {"a.b": 1}]}),
    ],
)
def test_json_paths_group_like_fields(raw: Any, same: Any) -> None:
    assert parsed({"jb": {"_json": raw}}) == parsed({"jb": {"_json": same}})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"i": {"_json": {"a": 1}}}, ['"integer" field type does not contain the "_json" filter operator', '"i"']),
        ({"count(jb)": {"_json": {"a": 1}}}, ["_json", "count(jb)"]),
        ({"jb": {"_json": 5}}, ["_json", '"jb"']),
        ({"jb": {"_json": {"_or": [5]}}}, ["_json", '"jb"']),
        ({"jb": {"_json": {"a..b": 1}}}, ["a..b", '"jb"']),
        ({"jb": {"_json": {"": 1}}}, ["path", '"jb"']),
        ({"jb": {"_json": {".".join("a" * 51): 1}}}, ["path", '"jb"']),
        ({"jb": {"_json": {"a": {"_foo": 1}}}}, ["_foo", "jb.a"]),
        ({"jb": {"_json": {"a": {"_eq": {}}}}}, ["_eq", "jb.a", "text or number"]),
        ({"jb": {"_json": {"a": {"_eq": [1]}}}}, ["_eq", "jb.a"]),
        ({"jb": {"_json": {"a": {"_intersects": 1}}}}, ["_intersects", "jb.a"]),
        ({"jb": {"_json": {"a": {"b": {"c": {"d": {"e": 1}}}}}}}, ["deeper than 5"]),
    ],
)
def test_json_paths_that_make_no_sense_are_refused(raw: Any, words: list[str]) -> None:
    message = refusal(raw)
    assert all(word in message for word in words), message


# --- relations ---


def reference(of: Collection, name: str) -> Any:
    return of.by_reference[name]


def joined(filter_: Filter, name: str = "author", of: Collection = MESSAGES) -> Related:
    return Related(reference(of, name), Quantifier.JOINED, filter_)


def test_foreign_key_leads_to_its_row_and_is_a_column() -> None:
    named = eq("name", '"Ann"', AUTHORS)
    assert parsed({"author": {"name": {"_eq": "Ann"}}}, MESSAGES) == joined(named)
    assert parsed({"author": {"name": "Ann"}}, MESSAGES) == joined(named)
    assert parsed({"author": 1}, MESSAGES) == eq("author", "1")
    assert parsed({"author": {"_eq": 1}}, MESSAGES) == eq("author", "1")
    assert parsed({"author": {"_null": True}}, MESSAGES) == compared("author", Operator.NULL, of=MESSAGES)
    assert parsed({"author": {"_nin": [1], "name": "Ann"}}, MESSAGES) == And(
        (compared("author", Operator.NEQ, "1", of=MESSAGES), joined(named))
    )
    assert parsed({"author": {"_or": [{"_null": True}, {"name": "Ann"}]}}, MESSAGES) == Or(
        (compared("author", Operator.NULL, of=MESSAGES), joined(named))
    )


def test_relations_lead_on() -> None:
    team = joined(compared("name", Operator.CONTAINS, '"x"', of=CATALOG.by_name["teams"]), "team", AUTHORS)
    assert parsed({"author": {"team": {"name": {"_contains": "x"}}}}, MESSAGES) == joined(team)
    year = Comparison(field("born", AUTHORS, Function.YEAR), Operator.LT, literals("2000"))
    assert parsed({"author": {"year(born)": {"_lt": 2000}}}, MESSAGES) == joined(year)


def test_many_rows_are_asked_for_some_or_none() -> None:
    some = Related(reference(AUTHORS, "messages"), Quantifier.SOME, eq("room", "1"))
    none = Related(reference(AUTHORS, "messages"), Quantifier.NONE, eq("room", "1"))
    assert parsed({"messages": {"room": 1}}, AUTHORS) == some
    assert parsed({"messages": {"_some": {"room": 1}}}, AUTHORS) == some
    assert parsed({"messages": {"_none": {"room": 1}}}, AUTHORS) == none
    assert parsed({"messages": {"_some": {}}}, AUTHORS) == Related(
        reference(AUTHORS, "messages"), Quantifier.SOME, EVERYTHING
    )
    assert parsed({"messages": {"_or": [{"_some": {"room": 1}}, {"_none": {"room": 1}}]}}, AUTHORS) == Or((none, some))


def test_groups_inside_of_many_rows_are_about_one_of_them() -> None:
    both = And((eq("text", '"x"'), eq("room", "1")))
    assert parsed({"messages": {"_and": [{"room": 1}, {"text": "x"}]}}, AUTHORS) == Related(
        reference(AUTHORS, "messages"), Quantifier.SOME, both
    )


@pytest.mark.parametrize(
    ("raw", "of", "decided"),
    [
        ({"author": {}}, MESSAGES, EVERYTHING),
        ({"author": {"name": {}}}, MESSAGES, EVERYTHING),
        ({"messages": {}}, AUTHORS, EVERYTHING),
        ({"messages": {"room": {}}}, AUTHORS, EVERYTHING),
        ({"author": {"name": {"_in": [None]}}}, MESSAGES, NOTHING),
        ({"messages": {"_some": {"room": {"_in": [None]}}}}, AUTHORS, NOTHING),
        ({"messages": {"_none": {"room": {"_in": [None]}}}}, AUTHORS, EVERYTHING),
    ],
)
def test_relation_that_decides_nothing_is_left_out(raw: Any, of: Collection, decided: Filter) -> None:
    assert parsed(raw, of) == decided


@pytest.mark.parametrize(
    ("raw", "of", "words"),
    [
        ({"author": {"nope": 1}}, MESSAGES, ['"nope" in collection "authors"', 'Queried in "author"']),
        ({"author": {"team": {"nope": 1}}}, MESSAGES, ['"nope" in collection "teams"', 'Queried in "author.team"']),
        ({"author": {"year(nope)": 1}}, MESSAGES, ['"nope"', 'Queried in "author"']),
        ({"author": {"_foo": 1}}, MESSAGES, ["_foo", '"author"']),
        ({"author": {"_some": {"name": "Ann"}}}, MESSAGES, ["_some", '"author"']),
        ({"author": {"name": {"_gt": None}}}, MESSAGES, ["_gt", "author.name"]),
        ({"lost": {"id": 1}}, MESSAGES, ['"lost" in collection "messages"']),
        ({"messages": 1}, AUTHORS, ['"messages"', "_some"]),
        ({"messages": {"_eq": 1}}, AUTHORS, ["_eq", '"messages"']),
        ({"messages": {"_some": 5}}, AUTHORS, ['"messages"']),
        ({"messages": {"nope": 5}}, AUTHORS, ["nope", 'Queried in "messages"']),
        ({"count(messages)": 5}, AUTHORS, ["count(messages)"]),
        ({"replies": {"replies": {"replies": {"replies": {"replies": {"replies": {"id": 1}}}}}}}, MESSAGES, ["deeper"]),
    ],
)  # fmt: skip
def test_relations_that_are_not_there_are_refused(raw: Any, of: Collection, words: list[str]) -> None:
    message = refusal(raw, of)
    assert all(word in message for word in words), message


# --- dynamic values ---


@pytest.mark.parametrize(
    ("raw", "same"),
    [
        ({"i": "$CURRENT_USER"}, {"i": 7}),
        ({"t": "$CURRENT_USER"}, {"t": "7"}),
        ({"t": {"_neq": "$CURRENT_ROLE"}}, {"t": {"_neq": "editor"}}),
        ({"t": {"_icontains": "$CURRENT_USER.address.city"}}, {"t": {"_icontains": "Ulm"}}),
        ({"i": {"_eq": "$CURRENT_USER.https://x.y/z"}}, {"i": 4}),
        ({"i": {"_in": "$CURRENT_USER.teams"}}, {"i": {"_in": [1, 3]}}),
        ({"i": {"_nin": ["$CURRENT_USER.teams", 5]}}, {"i": {"_nin": [1, 3, 5]}}),
        ({"i": {"_in": ["$CURRENT_USER.nope", 5]}}, {"i": 5}),
        ({"i": {"_between": [1, "$CURRENT_USER"]}}, {"i": {"_between": [1, 7]}}),
        ({"ints": {"_contains": "$CURRENT_USER.teams"}}, {"ints": {"_contains": [3, 1]}}),
        ({"jb": {"_json": {"a": {"_eq": "$CURRENT_USER.https://x.y/z"}}}}, {"jb": {"_json": {"a": 4}}}),
    ],
)
def test_dynamic_values_are_those_of_the_token(raw: Any, same: Any) -> None:
    assert parsed(raw, claims=ANN) == parsed(same)


@pytest.mark.parametrize(
    ("field", "operator", "sub"),
    [
        ("i", "_eq", "null"),
        ("i", "_neq", "null"),
        ("i", "_in", "null"),
        ("i", "_in", ["null"]),
        ("i", "_nin", ["null"]),
        ("ts", "_lt", "$NOW"),
        ("ts", "_between", "$NOW"),
        ("ts", "_in", ["$NOW(+1 day)"]),
        ("ints", "_contains", "{1,2}"),
    ],
)
def test_claim_is_a_value_and_never_syntax(field: str, operator: str, sub: Any) -> None:
    """What it would mean if the client wrote it is not of the field's type."""
    asked = "$CURRENT_USER,$CURRENT_USER" if operator == "_between" else "$CURRENT_USER"
    assert "needs" in refusal({field: {operator: asked}}, claims={"sub": sub})


def test_claim_can_be_a_shape() -> None:
    shape = '{"type":"Point","coordinates":[1,2]}'
    assert parsed({"g": {"_intersects": "$CURRENT_USER"}}, claims={"sub": shape}) == parsed(
        {"g": {"_intersects": shape}}
    )


def test_claim_that_says_null_is_a_text_like_any_other() -> None:
    assert parsed({"t": {"_eq": "$CURRENT_USER"}}, claims={"sub": "null"}) == compared("t", Operator.EQ, '"null"')


@pytest.mark.parametrize("claims", [None, {}, ANN])
@pytest.mark.parametrize("name", ["$CURRENT_USER.nope", "$CURRENT_USER.address.street", "$CURRENT_USER.sub.x",
                                  "$CURRENT_USER.none"])  # fmt: skip
def test_absent_claim_compares_with_nothing(claims: dict[str, Any] | None, name: str) -> None:
    for condition in (
        {"_eq": name},
        {"_neq": name},
        {"_gt": name},
        {"_in": name},
        {"_nin": [1, name]},
        {"_between": [1, name]},
        {"_nbetween": f"{name},2"},
    ):
        assert parsed({"i": condition}, claims=claims) == NOTHING
    assert parsed({"t": {"_ncontains": name}}, claims=claims) == NOTHING


@pytest.mark.parametrize(
    "text", ["$CURRENT_USERS", "$CURRENT_ROLES", "$CURRENT_POLICIES", "$NOW", "$x", "$", "$NOWHERE"]
)
def test_other_words_with_a_dollar_are_plain_text(text: str) -> None:
    assert parsed({"t": text}, claims=ANN) == compared("t", Operator.EQ, json.dumps(text))


@pytest.mark.parametrize("name", ["ts", "d"])
def test_now_stays_what_it_is(name: str) -> None:
    assert parsed({name: {"_lt": "$NOW"}}) == Comparison(field(name), Operator.LT, (Now(),))
    assert parsed({name: {"_between": "$NOW(-1 month), $NOW(+1 day)"}}) == Comparison(
        field(name), Operator.BETWEEN, (Now(months=-1), Now(microseconds=86_400_000_000))
    )


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"ts": "$NOW(soon)"}, ["$NOW(soon)", '"ts"', "_eq"]),
        ({"i": "$NOW"}, ["$NOW", '"i"']),
        ({"i": {"_gt": "$CURRENT_USER.teams"}}, ['"i"', "_gt"]),
        ({"i": "$CURRENT_ROLE"}, ['"i"', "editor"]),
        ({"i": "$CURRENT_USER.address"}, ['"i"', "_eq"]),
    ],
)
def test_dynamic_values_have_to_be_of_the_type(raw: Any, words: list[str]) -> None:
    message = refusal(raw, claims=ANN)
    assert all(word in message for word in words), message


# --- what only the database can spell ---

INTERVAL = (TYPES["iv"], '"1 day"')


def test_values_that_only_the_database_normalizes_are_collected_in_one_pass() -> None:
    raw = {"iv": {"_in": ["1 day", "2 days"]}, "net": {"_gt": "::1"}}
    literals = Literals()
    parsed(raw, literals=literals)
    assert set(literals.missing) == {INTERVAL, (TYPES["iv"], '"2 days"'), (TYPES["net"], '"::1"')}
    known = Literals({INTERVAL: b'"P1D"', (TYPES["iv"], '"2 days"'): b'"P2D"', (TYPES["net"], '"::1"'): b'"::1"'})
    assert parsed(raw, literals=known) == And(
        (compared("iv", Operator.IN, '"P1D"', '"P2D"'), compared("net", Operator.GT, '"::1"'))
    )


def test_pattern_is_shown_to_the_database_before_any_row_is() -> None:
    """A pattern that is none would otherwise be found out when a row changes."""
    literals = Literals()
    parsed({"v": {"_regex": '^a+"$'}}, literals=literals)
    (probe,) = literals.missing
    assert json.loads(probe[1]) == '$ ? (@ like_regex "^a+\\"$")'
    assert parsed({"v": {"_regex": '^a+"$'}}, literals=Literals({probe: b'"..."'})) == compared(
        "v", Operator.REGEX, '"^a+\\"$"'
    )
    with pytest.raises(RequestError, match='"_regex" filter operator of field "v"'):
        parsed({"v": {"_regex": '^a+"$'}}, literals=Literals({probe: None}))


@pytest.mark.parametrize(
    ("pattern", "is_one"),
    [("^a+$", True), ('"', True), ("\\d\\mé😀", True), ("\\", False), ("(", False), ("a{2,1}", False), ("[z-a]", False),
     ("***=(", True), ("(?i)a", True), ("\t\x01/'%s{}", True), ("(a)\\1", True), ("a\nb", True), ("", True)],
)  # fmt: skip
def test_probe_of_a_pattern_tells_what_the_operator_would(database: Database, pattern: str, is_one: bool) -> None:
    literals = Literals()
    parsed({"v": {"_regex": pattern}}, literals=literals)
    ((_, text),) = literals.missing
    for statement, value in (("SELECT %s::jsonpath", json.loads(text)), ("SELECT 'a' ~ %s", pattern)):
        with nullcontext() if is_one else pytest.raises(psycopg.DataError):
            database.execute(statement, [value])


def test_what_the_database_refuses_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match='the "_gt" filter operator of field "iv" needs a value of type "interval"'):
        parsed({"iv": {"_gt": "1 day"}}, literals=Literals({INTERVAL: None}))


def test_request_that_is_wrong_anyway_asks_the_database_nothing() -> None:
    assert "nope" in refusal({"iv": "1 day", "nope": 1})


@pytest.mark.parametrize(
    ("name", "operator", "value", "texts"),
    [
        ("pair", "_eq", {"a": Decimal("1.50"), "b": "x"}, ['{"a":1.50,"b":"x"}']),
        ("g", "_intersects", {"type": "Point", "coordinates": [1]}, ['{"type":"Point","coordinates":[1]}']),
        ("g", "_nintersects_bbox", '{"type":"Point"}', ['{"type":"Point"}']),
        ("jb", "_contains", {"b": 1, "a": []}, ['{"b":1,"a":[]}']),
        ("jb", "_eq", "null", ['"null"']),
        ("jb", "_eq", "a,b", ['"a,b"']),
        ("jb", "_in", ["a,b", 1], ['"a,b"', "1"]),
        ("f", "_eq", 0.1, ["0.1"]),
    ],
)
def test_values_are_asked_for_as_the_client_wrote_them(name: str, operator: str, value: Any, texts: list[str]) -> None:
    literals = Literals()
    parsed({name: {operator: value}}, literals=literals)
    type_ = PgType("json") if name == "g" else TYPES[name]
    assert list(literals.missing) == [(type_, text) for text in texts]
    known = Literals({(type_, text): text.encode() for text in texts})
    assert parsed({name: {operator: value}}, literals=known) == compared(name, Operator(operator), *sorted(texts))


# --- refusals ---


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("{", ["filter", "JSON"]),
        ("[]", ["filter", "object"]),
        ([], ["filter", "object"]),
        (5, ["filter", "object"]),
        ({"nope": 1}, ['"nope" in collection "things"', "Queried in root"]),
        ({"_foo": 1}, ["_foo"]),
        ({"_eq": 1}, ["_eq"]),
        ({"_not": {}}, ["_not"]),
        ({"_and": {"i": 1}}, ["_and", "array"]),
        ({"_or": None}, ["_or", "array"]),
        ({"_or": [5]}, ["5"]),
        ({"_or": [[]]}, ["fields and conditions"]),
        ({"i": {"_foo": 1}}, ["_foo", '"i"']),
        ({"i": {"eq": 1}}, ["eq", '"i"']),
        ({"i": {"_EQ": 1}}, ["_EQ", '"i"']),
        ({"i": [1]}, ["_eq", '"i"', "[1]"]),
        ({"i": {"_eq": "junk"}}, ["_eq", '"i"', '"junk"', '"integer"']),
        ({"i": {"_eq": Decimal("1.5")}}, ["_eq", '"i"', "1.5"]),
        ({"i": {"_eq": True}}, ["_eq", '"i"', "true"]),
        ({"i": {"_eq": ""}}, ["_eq", '"i"']),
        ({"i": {"_eq": 2**31}}, ["_eq", '"i"']),
        ({"i": {"_eq": {}}}, ["_eq", '"i"']),
        ({"u": {"_eq": "junk"}}, ["_eq", '"u"', "uuid"]),
        ({"mood": "angry"}, ["_eq", '"mood"', "angry"]),
        ({"t": {"_eq": "\0"}}, ["_eq", '"t"']),
        ({"t": {"_contains": "\0"}}, ["_contains", '"t"']),
        ({"t": {"_contains": []}}, ["_contains", '"t"']),
        ({"t": {"_eq": {}}}, ["_eq", '"t"']),
        ({"n": {"_eq": Decimal("1e999999999")}}, ["_eq", '"n"']),
        ({"n": {"_in": [[Decimal("1e999999999")]]}}, ["_in", '"n"']),
        ({"texts": {"_eq": [[Decimal("1e999999999")]]}}, ["_eq", '"texts"']),
        ({"i": {"_lt": None}}, ["_lt", '"i"', "null"]),
        ({"g": {"_intersects": "POINT(1 1)"}}, ["_intersects", '"g"', "GeoJSON"]),
        ({"g": {"_intersects": []}}, ["_intersects", '"g"', "GeoJSON"]),
        ({"g": {"_intersects_bbox": {"a": 1}}}, ["_intersects_bbox", '"g"', "GeoJSON"]),
        ({"t": {"_contains": None}}, ["_contains", '"t"', "null"]),
        ({"i": {"_in": []}}, ["_in", '"i"', "empty"]),
        ({"i": {"_in": ""}}, ["_in", '"i"', "empty"]),
        ({"i": {"_in": None}}, ["_in", '"i"']),
        ({"i": {"_in": [1, "x"]}}, ["_in", '"i"', '"x"']),
        ({"i": {"_in": {}}}, ["_in", '"i"']),
        ({"i": {"_in": list(range(7))}}, ["_in", '"i"', "more than 6"]),
        ({"i": {"_in": "1,2,3,4,5,6,7"}}, ["_in", '"i"', "more than 6"]),
        ({"i": {"_nin": []}}, ["_nin", '"i"', "empty"]),
        ({"i": {"_nin": [1, None]}}, ["_nin", '"i"', "null"]),
        ({"i": {"_between": [1]}}, ["_between", '"i"', "two"]),
        ({"i": {"_between": [1, 2, 3]}}, ["_between", '"i"', "two"]),
        ({"i": {"_between": 1}}, ["_between", '"i"', "two"]),
        ({"i": {"_between": [1, None]}}, ["_between", '"i"', "null"]),
        ({"i": {"_nbetween": "1"}}, ["_nbetween", '"i"', "two"]),
        ({"i": {"_null": "maybe"}}, ["_null", '"i"']),
        ({"i": {"_null": 1}}, ["_null", '"i"']),
        ({"i": {"_null": None}}, ["_null", '"i"']),
        ({"i": {"_null": []}}, ["_null", '"i"']),
        ({"t": {"_empty": "yes"}}, ["_empty", '"t"']),
        ({"foo(ts)": 1}, ["foo"]),
        ({"year(ts": 1}, ["year(ts"]),
        ({"year(ts)": "x"}, ["_eq", '"year(ts)"']),
        ({"year(ts)": {"_contains": 1}}, ["_contains", '"year(ts)"', "integer"]),
        ({"_and": [{"i": each} for each in range(12)]}, ["more than 12"]),
        ({"_or": [{}] * 13}, ["more than 12"]),
        ({"_and": [{"_and": [{"_and": [{"_and": [{"_and": [{"_and": []}]}]}]}]}]}, ["deeper than 5"]),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(raw: Any, words: list[str]) -> None:
    message = refusal(raw)
    assert all(word in message for word in words), message


def test_messages_stay_short() -> None:
    long = "x" * 1_000_000
    raws: list[Any] = [
        {"i": long},
        {"i": {"_in": long}},
        {long: 1},
        {"i": {long: 1}},
        {"jb": {"_json": {"a": {long: {"_eq": []}}}}},
    ]
    for raw in raws:
        assert len(refusal(raw)) < 1000


def test_depth_of_values_is_no_trouble() -> None:
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    for name in THINGS.by_name:
        for operator in ("_eq", "_in", "_contains", "_json"):
            with suppress(RequestError):
                parsed({name: {operator: nested}})


# --- laws ---

WORDS = [each.value for each in Operator] + ["_and", "_or", "_json", "_some", "_none", "_foo"]
NAMES = [*THINGS.by_name, *MESSAGES.by_name, *MESSAGES.by_reference, *AUTHORS.by_name, *AUTHORS.by_reference,
         "year(ts)", "count(jb)", "count(messages)", "nope", "a.b"]  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["1", "true", "null", "a,b", "$NOW", "$NOW(-1 day)", "$CURRENT_USER", "$CURRENT_USER.teams",
                       "2026-11-24", "sad", "{1,2}", "1e99999999", "\0"])
)  # fmt: skip
filters = st.dictionaries(
    st.sampled_from(NAMES + WORDS),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES + WORDS), inner, max_size=3),
        max_leaves=12,
    ),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(filters, st.sampled_from([THINGS, MESSAGES, AUTHORS]), st.sampled_from([None, ANN]))
def test_whatever_is_asked_is_a_filter_or_a_refusal(raw: Any, of: Collection, claims: Any) -> None:
    with suppress(RequestError):
        hash(parsed(raw, of, claims))


conditions = st.sampled_from(
    [{"i": 1}, {"i": {"_in": [2, 3]}}, {"t": {"_contains": "x"}}, {"b": {"_null": True}}, {"u": {"_nnull": True}}, {}]
)
trees = st.recursive(
    conditions,
    lambda inner: st.builds(
        lambda word, parts: {word: parts}, st.sampled_from(["_and", "_or"]), st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


def turned(raw: Any) -> Any:
    """The same filter, its groups written from the end."""
    return {word: [turned(part) for part in reversed(parts)] for word, parts in raw.items()} if _is_group(raw) else raw


def _is_group(raw: Any) -> bool:
    return "_and" in raw or "_or" in raw


@settings(max_examples=150, deadline=None)
@given(trees)
def test_order_of_a_group_means_nothing(raw: Any) -> None:
    limits = QueryLimits()
    one, other = (parse_query({"filter": each}, THINGS, limits).filter for each in (raw, turned(raw)))
    assert one == other
    assert parse_query({"filter": json.dumps(raw)}, THINGS, limits).filter == one


@pytest.mark.parametrize("word", ["now", "TODAY", "yesterday", "$NOW ", " tomorrow"])
def test_words_that_mean_another_moment_each_time_are_refused(word: str) -> None:
    """PostgreSQL would read them once, and for ever."""
    with pytest.raises(RequestError) as refused:
        parse_query({"filter": {"ts": {"_gt": word}}}, THINGS, QueryLimits())
    assert refused.value.code == "INVALID_QUERY"
    assert '"ts"' in refused.value.message
