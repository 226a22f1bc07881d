"""What a client writes becomes what a row would have. (PostgreSQL is asked itself in tests/schema.)"""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.model.catalog import NO_COLLATION, PgType, TypeKind
from cdc_bridge.query import comparing
from cdc_bridge.query.literals import NotNative, normalize_literal


def type_of(name: str) -> PgType:
    if name.endswith("[]"):
        return PgType(name, TypeKind.ARRAY, type_of(name[:-2]))
    return PgType(name, labels=("sad", "happy") if name == "mood" else ())


@pytest.mark.parametrize(
    ("name", "value", "raw"),
    [
        ("integer", 7, "7"),
        ("integer", "7", "7"),
        ("integer", 7.0, "7"),
        ("integer", " -007 ", "-7"),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("numeric", "1.50", "1.50"),
        ("numeric", Decimal("1.50"), "1.50"),
        ("numeric", 1.5, "1.5"),
        ("numeric", 1e300, "1" + "0" * 300),
        ("numeric", "1.5e-3", "0.0015"),
        ("numeric", "-0.00", "0.00"),
        ("numeric", "nan", '"NaN"'),
        ("boolean", True, "true"),
        ("boolean", "off", "false"),
        ("boolean", 1, "true"),
        ("text", "a\n\u2028\x7f\x01", '"a\\n\u2028\x7f\\u0001"'),
        ("text", 7, '"7"'),
        ("text", True, '"true"'),
        ("text", "", '""'),
        ("uuid", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
        ("date", "2024-02-29", '"2024-02-29"'),
        ("timestamp without time zone", "2026-11-24 10:00", '"2026-11-24T10:00:00"'),
        ("timestamp without time zone", "2026-11-24T10:00:00.500Z", '"2026-11-24T10:00:00.5"'),
        ("timestamp with time zone", "2026-11-24T10:00:00.500Z", '"2026-11-24T10:00:00.5+00:00"'),
        ("timestamp with time zone", "2026-11-24T10:00:00.000+00:00", '"2026-11-24T10:00:00+00:00"'),
        ("timestamp with time zone", "2026-11-24", '"2026-11-24T00:00:00+00:00"'),
        ("oid", 7, '"7"'),
        ("mood", "sad", '"sad"'),
        ("integer[]", [1, None, "2"], "[1,null,2]"),
        ("text[]", [], "[]"),
    ],
)
def test_value_is_spelled_as_a_row_has_it(name: str, value: Any, raw: str):
    assert normalize_literal(type_of(name), value).decode() == raw


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("integer", "junk"),
        ("integer", ""),
        ("integer", 1.5),
        ("integer", True),
        ("integer", 2**31),
        ("integer", float("nan")),
        ("integer", []),
        ("integer", {"a": 1}),
        ("integer", None),
        ("integer", "1; DROP TABLE t"),
        ("integer", "\N{ARABIC-INDIC DIGIT ONE}"),
        ("numeric", "1,5"),
        ("numeric", "1e999999"),
        ("numeric", "1e-20000"),
        ("numeric", [1]),
        ("boolean", "maybe"),
        ("boolean", 2),
        ("text", "a\0b"),
        ("text", "\ud800"),
        ("text", ["a"]),
        ("text", {}),
        ("uuid", "junk"),
        ("uuid", 7),
        ("date", "2026-02-30"),
        ("date", 7),
        ("timestamp with time zone", "2026-13-01T00:00:00Z"),
        ("oid", -1),
        ("mood", "angry"),
        ("mood", []),
        ("integer[]", [1, "x"]),
    ],
)
def test_value_of_another_type_is_refused(name: str, value: Any):
    with pytest.raises(ValueError):
        normalize_literal(type_of(name), value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("date", "tomorrow"),
        ("date", "24.11.2026"),
        ("timestamp with time zone", "2026-11-24 10:00 Europe/Berlin"),
        ("timestamp with time zone", "2026-11-24T24:00:00Z"),
        ("timestamp with time zone", "0001-01-01T00:00:00+14:00"),
        ("timestamp with time zone", "2026-11-24T00:00:00+05:30"),
        ("timestamp without time zone", "2026-11-24T00:00:00+05:30"),
        ("timestamp with time zone", "infinity"),
        ("date", "-infinity"),
        ("time without time zone", "12:30"),
        ("bytea", "\\xdead"),
        ("bytea", 7),
        ("name", "x"),
        ("time without time zone", "noon"),
        ("time with time zone", "12:00+00"),
        ("interval", "1 day"),
        ("bytea", "\\000"),
        ("inet", "::1"),
        ("integer[]", "{1,2}"),
        ("integer[]", [[1], [2]]),
        ("name", "x" * 64),
        ('"char"', "ab"),
        ("real", 0.1),
        ("double precision", "1e400"),
        ("double precision[]", [1]),
        ("jsonb", {"a": 1}),
        ("json", "x"),
    ],
)
def test_what_only_postgresql_can_read_is_left_to_it(name: str, value: Any):
    with pytest.raises(NotNative):
        normalize_literal(type_of(name), value)


def test_integer_of_any_size_is_a_numeric():
    assert normalize_literal(PgType("numeric"), 10**5000) == b"1" + b"0" * 5000


@pytest.mark.parametrize("name", ["integer", "numeric", "double precision", "uuid", "boolean", "date", "bytea", "real"])
@pytest.mark.parametrize("made_of", ["1", " ", "-", "f", "1 ", "0."])
def test_megabytes_are_answered_at_once(name: str, made_of: str):
    start = time.perf_counter()
    for value in (made_of * 500_000, made_of * 500_000 + "x", "\\x" + made_of * 500_000 + "x"):
        with pytest.raises((ValueError, NotNative)):
            normalize_literal(PgType(name), value)
    assert time.perf_counter() - start < 1


@given(st.text())
def test_text_reads_back_as_itself(text: str):
    read: Any = comparing.characters(PgType("text"))
    try:
        raw = normalize_literal(PgType("text"), text)
    except ValueError:
        assert "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
    else:
        assert read(raw) == text


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_numeric_reads_back_as_itself(number: Decimal):
    read: Any = comparing.equality(PgType("numeric"), NO_COLLATION)
    if -16_000 < number.adjusted() < 130_000 and number.as_tuple().exponent > -16_000:  # type: ignore[operator]
        assert read(normalize_literal(PgType("numeric"), number)) == number
