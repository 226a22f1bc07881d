"""Values compare as PostgreSQL compares them, or not at all. (It is asked itself in tests/schema.)"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.model.catalog import NO_COLLATION, Collation, PgType, TypeKind
from cdc_bridge.query import comparing
from cdc_bridge.query.comparing import UNREADABLE
from cdc_bridge.query.literals import NotNative, normalize_literal

BYTEWISE = Collation("pg_catalog", "C", is_bytewise=True)
LINGUISTIC = Collation("pg_catalog", "de-x-icu")
LENIENT = Collation("public", "lenient", is_deterministic=False)

TIMESTAMPTZ = PgType("timestamp with time zone", TypeKind.TIMESTAMPTZ)
MOOD = PgType("mood", labels=("sad", "ok", "happy"))


def array_of(element: PgType) -> PgType:
    return PgType(f"{element.name}[]", TypeKind.ARRAY, element)


def equal(type_: PgType, one: str, other: str, collation: Collation = NO_COLLATION) -> bool:
    read = comparing.equality(type_, collation)
    assert read is not None
    a, b = read(one.encode()), read(other.encode())
    assert a != b or hash(a) == hash(b)
    return a == b


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("numeric", "1.0", "1.00"),
        ("numeric", '"NaN"', '"NaN"'),
        ("numeric", "0", "0.000"),
        ("double precision", "-0", "0"),
        ("double precision", '"NaN"', '"NaN"'),
        ("character", '"a  "', '"a"'),
        ("timestamp with time zone", '"2026-11-24T13:00:00+01:00"', '"2026-11-24T12:00:00+00:00"'),
        ("timestamp with time zone", '"0001-01-01T00:30:00+01:00"', '"0001-12-31T23:30:00+00:00 BC"'),
        ("interval", '"P1M"', '"P30D"'),
        ("interval", '"PT-0.5S"', '"P-1DT23H59M59.5S"'),
    ],
)
def test_different_spellings_are_equal(name: str, one: str, other: str):
    assert equal(PgType(name), one, other)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("bigint", "9007199254740993", "9007199254740992"),
        ("numeric", "1" + "0" * 50 + ".1", "1" + "0" * 50),
        ("text", '"a "', '"a"'),
        ("text", '"a"', '"A"'),
        ("text", '"e\u0301"', '"\u00e9"'),
        ("time with time zone", '"12:00:00+00"', '"13:00:00+01"'),
    ],
)
def test_similar_values_are_not_equal(name: str, one: str, other: str):
    assert not equal(PgType(name), one, other)


ASCENDING: dict[str, tuple[str, ...]] = {
    "integer": ("-2147483648", "-10", "-9", "0", "9", "10"),
    "numeric": ('"-Infinity"', "-10", "-0.5", "0", "0.1", "0.11", "2", "10", '"Infinity"', '"NaN"'),
    "real": ('"-Infinity"', "-3.4028235e+38", "-1e-45", "0", "1e-45", "0.1", "1e+10", '"Infinity"', '"NaN"'),
    "boolean": ("false", "true"),
    "text": ('""', '"\\u0001"', '" "', '"A"', '"B"', '"a"', '"ab"', '"b"', '"\u00e4"', '"\uffff"', '"\U0001f600"'),
    "character": ('""', '"a"', '"b  "'),
    "uuid": ('"00000000-0000-0000-0000-000000000000"', '"0a000000-0000-0000-0000-000000000000"'),
    "date": ('"-infinity"', '"4713-01-01 BC"', '"0001-12-31 BC"', '"0001-01-01"', '"9999-12-31"', '"10000-01-01"'),
    "timestamp without time zone": ('"0044-03-15T00:00:00 BC"', '"2026-11-24T12:00:00"', '"2026-11-24T12:00:00.1"'),
    "time without time zone": ('"00:00:00"', '"00:00:00.000001"', '"23:59:59.999999"', '"24:00:00"'),
    "time with time zone": ('"12:00:00+01"', '"13:00:00+01"', '"12:00:00+00"', '"11:00:00-01"', '"12:00:00-00:44:30"'),
    "interval": ('"P-1Y"', '"PT-0.000001S"', '"PT0S"', '"PT24H0.5S"', '"P1M"', '"P31D"', '"P1Y"', '"infinity"'),
    "bytea": ('"\\\\x"', '"\\\\x00"', '"\\\\x0000"', '"\\\\x7f"', '"\\\\x80"', '"\\\\xff"'),
    "oid": ('"9"', '"10"', '"4294967295"'),
    '"char"': ('""', '"A"', '"a"'),
    "integer[]": ("[]", "[1]", "[1,1]", "[1,2]", "[1,null]", "[2]", "[null]", "[null,1]"),
}


@pytest.mark.parametrize("name", ASCENDING)
def test_order_is_postgresql_s(name: str):
    type_ = array_of(PgType("integer")) if name == "integer[]" else PgType(name)
    read: Any = comparing.order(type_, BYTEWISE)
    known = [read(raw.encode()) for raw in ASCENDING[name]]
    assert all((a < b) == (i < j) and (a <= b) == (i <= j) for i, a in enumerate(known) for j, b in enumerate(known))
    assert all((a > b) == (i > j) and (a >= b) == (i >= j) for i, a in enumerate(known) for j, b in enumerate(known))


def test_enum_is_ordered_by_its_labels():
    read: Any = comparing.order(MOOD, NO_COLLATION)
    assert read(b'"sad"') < read(b'"ok"') < read(b'"happy"')


def test_enum_label_that_is_not_known_is_undecided():
    read: Any = comparing.equality(MOOD, NO_COLLATION)
    with pytest.raises(UNREADABLE):
        read(b'"angry"')


def test_collation_decides_what_memory_can_do():
    text = PgType("text")
    assert comparing.order(text, LINGUISTIC) is None
    assert comparing.equality(text, LINGUISTIC) is not None
    assert comparing.equality(text, LENIENT) is None
    assert comparing.equality(array_of(text), LENIENT) is None
    assert comparing.order(array_of(text), LINGUISTIC) is None
    assert comparing.order(array_of(text), BYTEWISE) is not None


@pytest.mark.parametrize(
    "name", ["json", "jsonb", "citext", "public.citext", "inet", "money", "int4range", "bit", "xml", "uuid2"]
)
def test_unknown_types_are_left_to_the_database(name: str):
    assert comparing.equality(PgType(name), BYTEWISE) is None
    assert comparing.order(PgType(name), BYTEWISE) is None
    assert comparing.characters(PgType(name)) is None
    with pytest.raises(NotNative):
        normalize_literal(PgType("int4range"), "[1,2)")


FOREIGN = [b"7", b'"x"', b"true", b"[1]", b'{"a": 1}', b'"\\ud800"', b'"2026-13-01"', b"1.5", b'""', b"x", b"[", b'"']


@pytest.mark.parametrize("name", [*ASCENDING, "bigint", "smallint", "name", "timestamp with time zone"])
def test_value_of_another_type_is_undecided_and_nothing_worse(name: str):
    """A row can be older than its column's type."""
    type_ = array_of(PgType("integer")) if name == "integer[]" else PgType(name)
    for read in (comparing.equality(type_, BYTEWISE), comparing.order(type_, BYTEWISE), comparing.characters(type_)):
        if read is not None:
            for raw in FOREIGN:
                outcome(read, raw)


def outcome(read: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return read(raw)
    except UNREADABLE:
        return UNREADABLE


def test_numerics_of_any_size_are_exact_and_quick():
    read: Any = comparing.equality(PgType("numeric"), NO_COLLATION)
    long = b"9" * 100_000
    start = time.perf_counter()
    with localcontext(prec=5):
        assert read(long) == read(long + b".000")
        assert read(long) != read(long[:-1] + b"8")
        assert hash(read(long)) == hash(read(long + b".0"))
        assert read(long) < read(b'"NaN"')
    assert time.perf_counter() - start < 1


numbers = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: format(number, "f")),
    st.sampled_from(['"NaN"', '"Infinity"', '"-Infinity"']),
)


@given(numbers, numbers, numbers)
def test_order_of_numerics_is_total(a: str, b: str, c: str):
    read: Any = comparing.order(PgType("numeric"), NO_COLLATION)
    x, y, z = (read(raw.encode()) for raw in (a, b, c))
    assert (x < y) + (x == y) + (x > y) == 1
    assert not (x <= y <= z) or x <= z


arrays = st.lists(st.none() | st.integers(0, 2), max_size=3).map(
    lambda items: normalize_literal(array_of(PgType("integer")), items)
)


@given(arrays, arrays, arrays)
def test_order_of_arrays_is_total(a: bytes, b: bytes, c: bytes):
    read: Any = comparing.order(array_of(PgType("integer")), NO_COLLATION)
    x, y, z = map(read, (a, b, c))
    assert (x < y) + (x == y) + (x > y) == 1
    assert not (x <= y <= z) or x <= z


@pytest.mark.parametrize("wanted", ["[1]", "[1,1]", "[2,1]", "[]"])
def test_elements_contain_each_other_as_sets(wanted: str):
    read: Any = comparing.elements(array_of(PgType("integer")), NO_COLLATION)
    assert read(wanted.encode()) <= read(b"[1,2,null]")
    assert not read(b"[3]") <= read(b"[1,2]")


@pytest.mark.parametrize("reader", [comparing.equality, comparing.order, comparing.elements])
def test_arrays_of_several_dimensions_are_undecided(reader: Any):
    with pytest.raises(UNREADABLE):
        reader(array_of(PgType("integer")), NO_COLLATION)(b"[[1,2],[3,4]]")
