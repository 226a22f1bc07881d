"""A filter judges images as a WHERE clause would, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_bridge.model.catalog import NO_COLLATION, Collation, Column, PgType, Reference, TypeKind
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
    Operand,
    Operator,
    Or,
    Path,
    Quantifier,
    Related,
    Value,
)
from cdc_bridge.model.row import RowValues
from cdc_bridge.query.literals import normalize_literal
from cdc_bridge.query.predicate import RowVersion, compile_filter

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)

BYTEWISE = Collation("pg_catalog", "C", is_bytewise=True)
TURKISH = Collation("pg_catalog", "tr-x-icu", has_plain_ascii=False)
LENIENT = Collation("public", "lenient", is_deterministic=False)


def us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def column(type_: str | PgType, collation: Collation = NO_COLLATION, name: str = "x") -> Column:
    if isinstance(type_, PgType):
        return Column(name, 1, type_, collation)
    if type_.endswith("[]"):
        return Column(name, 1, PgType(type_, TypeKind.ARRAY, PgType(type_[:-2])), collation)
    return Column(name, 1, PgType(type_), collation)


def comparison(operand: Column | Operand, operator: str, *values: Any) -> Comparison:
    operand = Field(operand) if isinstance(operand, Column) else operand
    return Comparison(operand, Operator(operator), tuple(valued(operand.type, value) for value in values))


def valued(type_: PgType, value: Any) -> Value:
    return value if isinstance(value, Now | Literal) else Literal(normalize_literal(type_, value))


def row(**raw: str) -> RowValues:
    return {name: msgspec.Raw(value.encode()) for name, value in raw.items()}


def judged(filter_: Filter, raw: str | None, now: datetime = NOON) -> bool | None:
    """Of a row with the one column."""
    return compile_filter(filter_)(RowVersion({} if raw is None else row(x=raw), us(now)))


INT = column("integer")
TEXT = column("text")
STAMP = column("timestamp with time zone")
UNSURE = Comparison(Field(column("text", name="x")), Operator.REGEX, (Literal(b'"a"'),))


@pytest.mark.parametrize(
    ("operator", "values", "true", "false"),
    [
        ("_eq", (7,), ["7"], ["8", "null"]),
        ("_neq", (7,), ["8", "-7"], ["7", "null"]),
        ("_lt", (7,), ["6", "-10"], ["7", "8", "null"]),
        ("_lte", (7,), ["6", "7"], ["8", "null"]),
        ("_gt", (7,), ["8", "10"], ["7", "6", "null"]),
        ("_gte", (7,), ["7", "8"], ["6", "null"]),
        ("_in", (1, 2, 10), ["1", "10"], ["0", "null"]),
        ("_nin", (1, 2, 10), ["0", "100"], ["1", "10", "null"]),
        ("_between", (2, 10), ["2", "9", "10"], ["1", "11", "null"]),
        ("_between", (10, 2), [], ["2", "9", "null"]),
        ("_nbetween", (2, 10), ["1", "11"], ["2", "10", "null"]),
        ("_null", (), ["null"], ["0", "7"]),
        ("_nnull", (), ["0", "7"], ["null"]),
    ],
)
def test_numbers_compare(operator: str, values: tuple[int, ...], true: list[str], false: list[str]):
    asked = comparison(INT, operator, *values)
    assert [judged(asked, raw) for raw in true] == [True] * len(true)
    assert [judged(asked, raw) for raw in false] == [False] * len(false)


@pytest.mark.parametrize(
    ("operator", "value", "true", "false"),
    [
        ("_contains", "b%", ["ab%c", "b%"], ["abc", "B%", ""]),
        ("_ncontains", "b%", ["abc", "B%", ""], ["ab%c"]),
        ("_icontains", "b%", ["AB%C", "b%"], ["abc"]),
        ("_nicontains", "b%", ["abc"], ["AB%C"]),
        ("_starts_with", "a_", ["a_b"], ["ab_", "A_", ""]),
        ("_nstarts_with", "a_", ["ab_"], ["a_b"]),
        ("_istarts_with", "a_", ["A_B"], ["ab_"]),
        ("_nistarts_with", "a_", ["ab_"], ["A_B"]),
        ("_ends_with", "\\z", ["a\\z"], ["z", "\\Z"]),
        ("_nends_with", "\\z", ["z"], ["a\\z"]),
        ("_iends_with", "\\z", ["a\\Z"], ["Z"]),
        ("_niends_with", "\\z", ["z"], ["a\\Z"]),
        ("_ieq", "Ab", ["ab", "AB"], ["a", "ab "]),
        ("_nieq", "Ab", ["a", "ab "], ["ab", "AB"]),
        ("_contains", "é", ["café"], ["cafe\u0301"]),
        ("_contains", "", ["", "a"], []),
    ],
)
def test_text_is_searched_literally(operator: str, value: str, true: list[str], false: list[str]):
    asked = comparison(TEXT, operator, value)
    assert [judged(asked, normalize_literal(TEXT.type, text).decode()) for text in true] == [True] * len(true)
    assert [judged(asked, normalize_literal(TEXT.type, text).decode()) for text in false] == [False] * len(false)
    assert judged(asked, "null") is False


FOLDED = [
    "_ieq",
    "_nieq",
    "_icontains",
    "_nicontains",
    "_istarts_with",
    "_nistarts_with",
    "_iends_with",
    "_niends_with",
]


@pytest.mark.parametrize("operator", FOLDED)
def test_case_past_ascii_is_for_the_database(operator: str):
    assert judged(comparison(TEXT, operator, "a"), '"ä"') is None
    assert judged(comparison(TEXT, operator, "ä"), '"a"') is None
    assert judged(comparison(TEXT, operator, "ä"), "null") is False
    assert judged(comparison(column("text", TURKISH), operator, "i"), '"i"') is None


def test_text_that_equals_other_text_is_for_the_database():
    lenient = column("text", LENIENT)
    assert judged(comparison(lenient, "_eq", "a"), '"a"') is None
    assert judged(comparison(lenient, "_ieq", "a"), '"b"') is None
    assert judged(comparison(lenient, "_in", "a", "b"), "null") is False
    assert judged(comparison(lenient, "_contains", "a"), '"ba"') is True


def test_text_is_ordered_by_its_collation():
    assert judged(comparison(TEXT, "_lt", "b"), '"a"') is None
    assert judged(comparison(column("text", BYTEWISE), "_lt", "b"), '"a"') is True
    assert judged(comparison(column("text", BYTEWISE), "_lt", "b"), '"B"') is True


def test_blanks_that_fill_a_char_n():
    filled = column("character")
    assert judged(comparison(filled, "_eq", "a"), '"a   "') is True
    assert judged(comparison(filled, "_ieq", "A "), '"a   "') is True
    assert judged(comparison(filled, "_ends_with", "a"), '"a   "') is False
    assert judged(comparison(filled, "_ends_with", "a "), '"a "') is True
    assert judged(comparison(filled, "_empty"), '"   "') is True


@pytest.mark.parametrize(("raw", "is_empty"), [("null", True), ('""', True), ('" "', False), ('"a"', False)])
def test_empty_is_null_or_no_text(raw: str, is_empty: bool):
    assert judged(comparison(TEXT, "_empty"), raw) is is_empty
    assert judged(comparison(TEXT, "_nempty"), raw) is not is_empty


@pytest.mark.parametrize("operator", ["_null", "_empty"])
def test_column_that_the_image_lacks_is_null(operator: str):
    assert judged(comparison(TEXT, operator), None) is True
    assert judged(comparison(TEXT, operator.replace("_", "_n")), None) is False
    assert judged(comparison(TEXT, "_neq", "a"), None) is False


def test_null_of_json_is_null():
    assert judged(comparison(column("jsonb"), "_null"), "null") is True
    assert judged(comparison(column("json"), "_null"), " null ") is True


def test_composite_of_nulls_is_for_the_database():
    pair = column(PgType("pair", TypeKind.COMPOSITE, fields=(("a", PgType("integer")),)))
    assert judged(comparison(pair, "_null"), '{"a":null}') is None
    assert judged(comparison(pair, "_null"), "null") is True


@pytest.mark.parametrize("operator", ["_regex", "_intersects", "_nintersects_bbox"])
def test_what_only_the_database_can_do_is_unsure_but_of_null(operator: str):
    asked = Comparison(Field(TEXT), Operator(operator), (Literal(b'"a"'),))
    assert judged(asked, '"a"') is None
    assert judged(asked, "null") is False


def test_image_older_than_the_type_of_its_column_is_unsure():
    for operator, values in (("_eq", (1,)), ("_in", (1, 2)), ("_nin", (1,)), ("_between", (1, 2)), ("_lt", (1,))):
        assert judged(comparison(INT, operator, *values), '"one"') is None


@pytest.mark.parametrize(
    ("parts", "all_", "any_"),
    [
        ("", True, False),
        ("t", True, True),
        ("f", False, False),
        ("u", None, None),
        ("tt", True, True),
        ("tf", False, True),
        ("ff", False, False),
        ("tu", None, True),
        ("ut", None, True),
        ("fu", False, None),
        ("uf", False, None),
        ("uu", None, None),
        ("tfu", False, True),
    ],
)
def test_truth_is_known_as_soon_as_it_can_be(parts: str, all_: bool | None, any_: bool | None):
    known = {"t": comparison(TEXT, "_nnull"), "f": comparison(TEXT, "_null"), "u": UNSURE}
    filters = tuple(known[part] for part in parts)
    assert judged(And(filters), '"a"') is all_
    assert judged(Or(filters), '"a"') is any_
    assert judged(And((Or(filters), EVERYTHING)), '"a"') is any_
    assert judged(Or((And(filters), NOTHING)), '"a"') is all_


def test_other_tables_are_for_the_database():
    related = Related(Reference("author", "author", 5, "id"), Quantifier.JOINED, EVERYTHING)
    assert judged(related, "1") is None
    assert judged(And((related, comparison(INT, "_eq", 2))), "1") is False


@pytest.mark.parametrize(
    ("type_", "raw", "expected"),
    [
        ("timestamp with time zone", '"2026-11-24T11:59:59.999999+00:00"', True),
        ("timestamp with time zone", '"2026-11-24T12:00:00+00:00"', False),
        ("timestamp with time zone", '"2026-11-24T12:30:00+01:00"', True),
        ("timestamp with time zone", '"-infinity"', True),
        ("timestamp with time zone", '"infinity"', False),
        ("timestamp with time zone", "null", False),
        ("timestamp without time zone", '"2026-11-24T11:00:00"', True),
        ("date", '"2026-11-24"', True),
        ("date", '"2026-11-25"', False),
    ],
)
def test_now_is_the_moment_of_the_change(type_: str, raw: str, expected: bool):
    assert judged(comparison(column(type_), "_lt", Now()), raw) is expected


def test_now_is_moved():
    raw = '"2026-11-20T00:00:00+00:00"'
    week, month = Now(microseconds=-7 * 86_400_000_000), Now(months=-1)
    assert judged(comparison(STAMP, "_gte", week), raw) is True
    assert judged(comparison(STAMP, "_gte", week), raw, NOON + timedelta(days=7)) is False
    assert judged(comparison(STAMP, "_between", month, week), raw) is False
    assert judged(comparison(STAMP, "_between", month, Now()), raw) is True
    assert judged(comparison(STAMP, "_nin", Now(), "2026-11-20"), raw) is False
    assert judged(comparison(STAMP, "_in", Now(), "2026-11-24T12:00:00Z"), '"2026-11-24T12:00:00+00:00"') is True
    assert judged(comparison(column("time without time zone"), "_lt", Now()), '"10:00:00"') is None


@pytest.mark.parametrize(
    ("function", "raw", "value"),
    [
        ("year", '"2026-11-24T10:00:00+00:00"', 2026),
        ("year", '"2026-01-01T00:30:00+01:00"', 2025),
        ("year", '"0044-03-15T00:00:00+00:00 BC"', -44),
        ("month", '"2026-11-24T10:00:00+00:00"', 11),
        ("week", '"2027-01-03T10:00:00+00:00"', 53),
        ("week", '"2024-12-30T10:00:00+00:00"', 1),
        ("day", '"2024-02-29T10:00:00+00:00"', 29),
        ("weekday", '"2026-11-22T10:00:00+00:00"', 0),
        ("weekday", '"1969-12-27T10:00:00+00:00"', 6),
        ("hour", '"1969-12-31T23:59:59.999999+00:00"', 23),
        ("minute", '"2026-11-24T10:59:00+00:00"', 59),
        ("second", '"2026-11-24T10:00:59.999999+00:00"', 59),
    ],
)
def test_parts_of_a_moment(function: str, raw: str, value: int):
    part = Field(STAMP, Function(function))
    assert judged(comparison(part, "_eq", value), raw) is True
    assert judged(comparison(part, "_in", value, 1000), raw) is True
    assert judged(comparison(part, "_neq", value), raw) is False
    assert judged(comparison(part, "_gt", value - 1), raw) is True
    assert judged(comparison(part, "_null"), '"infinity"') is True
    assert judged(comparison(part, "_neq", value), '"-infinity"') is False


def test_hour_of_a_time():
    hour = Field(column("time without time zone"), Function.HOUR)
    assert judged(comparison(hour, "_eq", 24), '"24:00:00"') is True
    assert judged(comparison(hour, "_eq", 9), '"09:59:59.9"') is True


@pytest.mark.parametrize(
    ("type_", "raw", "count"),
    [
        ("jsonb", "[1, [2, 3], {}]", 3),
        ("json", ' [ 1 , "a,b" ] ', 2),
        ("jsonb", "[]", 0),
        ("jsonb", '{"a": 1}', None),
        ("jsonb", '"abc"', None),
        ("integer[]", "[1,null,2]", 3),
        ("integer[]", "[]", 0),
    ],
)
def test_elements_are_counted(type_: str, raw: str, count: int | None):
    counted = Field(column(type_), Function.COUNT)
    assert judged(comparison(counted, "_null"), raw) is (count is None)
    assert judged(comparison(counted, "_eq", count or 0), raw) is (count is not None)


def test_elements_of_several_dimensions_are_for_the_database():
    assert judged(comparison(Field(column("integer[]"), Function.COUNT), "_eq", 4), "[[1,2],[3,4]]") is None


def at(*members: str, of: str = "jsonb", type_: str = "text") -> Path:
    return Path(column(of), members, PgType(type_))


@pytest.mark.parametrize("of", ["json", "jsonb"])
@pytest.mark.parametrize(
    ("members", "raw", "found"),
    [
        (("a", "b"), '{"a": {"b": "x\\n"}}', "x\n"),
        (("a", "b"), '{"a": {"b": 1.50}}', "1.50"),
        (("a", "b"), '{"a": {"b": true}}', "true"),
        (("a", "b"), '{"a": {"b": null}}', None),
        (("a", "b"), '{"a": [1]}', None),
        (("a", "b"), '"a"', None),
        (("a", "1"), '{"a": [1, {"c": 2}]}', '{"c": 2}'),
        (("a", "-1"), '{"a": [1, 2]}', "2"),
        (("a", "2"), '{"a": [1, 2]}', None),
        (("0",), '{"0": "member"}', "member"),
        (("",), '{"": "no name"}', "no name"),
    ],
)
def test_text_at_a_place_in_json(of: str, members: tuple[str, ...], raw: str, found: str | None):
    place = at(*members, of=of)
    assert judged(comparison(place, "_null"), raw) is (found is None)
    assert judged(comparison(place, "_eq", found or ""), raw) is (found is not None)
    assert judged(comparison(place, "_contains", ""), raw) is (found is not None)
    assert judged(comparison(place, "_icontains", "a"), raw) is (None if found else False)


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        ('{"a": 1.0}', True),
        ('{"a": 1}', True),
        ('{"a": "1"}', False),
        ('{"a": [1]}', False),
        ('{"a": 2}', False),
        ("{}", False),
        ('{"a": null}', False),
    ],
)
def test_number_at_a_place_in_json(raw: str, verdict: bool):
    assert judged(comparison(at("a", type_="numeric"), "_eq", 1), raw) is verdict
    assert judged(comparison(at("a", type_="numeric"), "_between", 0, 1.5), raw) is verdict
    assert judged(comparison(at("a", of="json", type_="numeric"), "_eq", 1), raw) is verdict


@pytest.mark.parametrize(
    "raw",
    ['{"a": {"b": 1}, "a": 2}', '{"a": {"b": 1}, "c": "\\u0000"}', '{"a": {"b": "\\ud800"}}', '{"a": {"b": 1e99999}}'],
)
def test_odd_json_is_for_the_database(raw: str):
    assert judged(comparison(at("a", "b", of="json", type_="numeric"), "_eq", 1), raw) is None


@pytest.mark.parametrize(
    ("wanted", "raw", "verdict"),
    [
        ([1], "[1,2]", True),
        ([1, 1, 2], "[2,1]", True),
        ([3], "[1,2]", False),
        ([], "[]", True),
        ([None], "[null]", False),
        ([1], "[null,1]", True),
        ([1], "null", False),
    ],
)
def test_arrays_contain_elements(wanted: list[int | None], raw: str, verdict: bool):
    numbers = column("integer[]")
    assert judged(comparison(numbers, "_contains", wanted), raw) is verdict
    assert judged(comparison(numbers, "_ncontains", wanted), raw) is (raw != "null" and not verdict)


def test_arrays_of_several_dimensions_are_for_the_database():
    numbers = column("integer[]")
    assert judged(comparison(numbers, "_contains", [1]), "[[1,2],[3,4]]") is None
    assert judged(comparison(numbers, "_eq", [1]), "[[1,2],[3,4]]") is None


def test_equality_and_containment_in_jsonb_are_for_the_database():
    assert judged(comparison(column("jsonb"), "_eq", Literal(b'{"a": 1}')), '{"a": 1}') is None
    assert judged(comparison(column("jsonb"), "_contains", Literal(b'{"a": 1}')), '{"a": 1, "b": 2}') is None


def test_value_is_read_once_for_all_filters():
    image = RowVersion(row(x="7", y="8"), 0)
    judges = [compile_filter(comparison(INT, "_eq", number)) for number in range(10)]
    assert [judge(image) for judge in judges] == [number == 7 for number in range(10)]
    assert image.is_null("z")
    assert not image.is_null("y")


# A naive evaluation, of Python's values

Plain = dict[str, Any]
NUMBER, EXACT, WORD, MOMENT = (
    column("integer", name="i"),
    column("numeric", name="d"),
    column("text", BYTEWISE, name="t"),
    column("timestamp with time zone", name="m"),
)
integers = st.integers(-3, 3)
decimals = st.decimals(-2, 2, places=2)
texts = st.text("aAbB%ä", max_size=3)
moments = st.datetimes(datetime(2026, 11, 20), datetime(2026, 11, 28)).map(lambda moment: moment.replace(tzinfo=UTC))
DRAWN: list[tuple[Column, st.SearchStrategy[Any]]] = [
    (NUMBER, integers),
    (EXACT, decimals),
    (WORD, texts),
    (MOMENT, moments),
]
COMPARED: dict[str, Callable[..., bool]] = {
    "_eq": lambda value, other: value == other,
    "_neq": lambda value, other: value != other,
    "_lt": lambda value, other: value < other,
    "_lte": lambda value, other: value <= other,
    "_gt": lambda value, other: value > other,
    "_gte": lambda value, other: value >= other,
    "_in": lambda value, *others: value in others,
    "_nin": lambda value, *others: value not in others,
    "_between": lambda value, low, high: low <= value <= high,
    "_nbetween": lambda value, low, high: value < low or value > high,
    "_contains": lambda value, other: other in value,
    "_starts_with": lambda value, other: value.startswith(other),
    "_nends_with": lambda value, other: not value.endswith(other),
}
COUNTS = {"_in": 3, "_nin": 3, "_between": 2, "_nbetween": 2}


def client_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


@st.composite
def drawn_comparisons(draw: st.DrawFn) -> tuple[Filter, Callable[[Plain], bool]]:
    of, values = draw(st.sampled_from(DRAWN))
    operator = draw(
        st.sampled_from([name for name in COMPARED if of is WORD or not name.endswith(("with", "contains"))])
    )
    others = [draw(values) for _ in range(COUNTS.get(operator, 1))]
    asked = comparison(of, operator, *map(client_value, others))
    return asked, lambda plain: plain[of.name] is not None and COMPARED[operator](plain[of.name], *others)


@st.composite
def drawn_nullness(draw: st.DrawFn) -> tuple[Filter, Callable[[Plain], bool]]:
    of, _ = draw(st.sampled_from(DRAWN))
    is_null = draw(st.booleans())
    asked = comparison(of, "_null" if is_null else "_nnull")
    return asked, lambda plain: (plain[of.name] is None) is is_null


Drawn = tuple[Filter, Callable[[Plain], bool]]


def both(parts: list[Drawn]) -> Drawn:
    return And(tuple(part for part, _ in parts)), lambda plain: all(judge(plain) for _, judge in parts)


def either(parts: list[Drawn]) -> Drawn:
    return Or(tuple(part for part, _ in parts)), lambda plain: any(judge(plain) for _, judge in parts)


filters = st.recursive(
    drawn_comparisons() | drawn_nullness(),
    lambda inner: st.lists(inner, max_size=3).flatmap(lambda parts: st.sampled_from([both(parts), either(parts)])),
    max_leaves=6,
)
rows = st.fixed_dictionaries({of.name: st.none() | values for of, values in DRAWN})


def image_of(plain: Plain) -> RowValues:
    raw = {of.name: plain[of.name] for of, _ in DRAWN}
    types = {of.name: of.type for of, _ in DRAWN}
    return {
        name: msgspec.Raw(b"null" if value is None else normalize_literal(types[name], client_value(value)))
        for name, value in raw.items()
    }


@settings(max_examples=200)
@given(filters, st.lists(rows, min_size=1, max_size=5))
def test_predicate_says_what_a_plain_evaluation_says(drawn: Drawn, plains: list[Plain]):
    asked, evaluate = drawn
    judge = compile_filter(asked)
    assert [judge(RowVersion(image_of(plain), 0)) for plain in plains] == [evaluate(plain) for plain in plains]


@settings(max_examples=100)
@given(filters, rows)
def test_unsure_parts_leave_what_the_others_settle(drawn: Drawn, plain: Plain):
    asked, evaluate = drawn
    image = RowVersion(image_of({**plain, "t": "a"}), 0)
    unsure = Comparison(Field(WORD), Operator.REGEX, (Literal(b'"a"'),))
    is_true = evaluate({**plain, "t": "a"})
    assert compile_filter(And((unsure, asked)))(image) is (None if is_true else False)
    assert compile_filter(Or((unsure, asked)))(image) is (True if is_true else None)


def test_decimal_of_a_client_is_exact():
    asked = comparison(EXACT, "_gt", Decimal("0." + "0" * 40 + "1"))
    judge = compile_filter(asked)
    assert judge(RowVersion(row(d="0." + "0" * 40 + "2"), 0)) is True
    assert judge(RowVersion(row(d="0." + "0" * 40 + "1"), 0)) is False
