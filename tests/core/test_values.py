"""The one encoder says what the wire contract says."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.encoding import timestamptz, value_encoder

INT8 = PgType("bigint", TypeKind.QUOTED)
TIMESTAMPTZ = PgType("timestamp with time zone", TypeKind.TIMESTAMPTZ)
TEXT = PgType("text")


def array_of(element: PgType) -> PgType:
    return PgType(f"{element.name}[]", TypeKind.ARRAY, element)


def composite(**fields: PgType) -> PgType:
    return PgType("composite", TypeKind.COMPOSITE, fields=tuple(fields.items()))


def encoded(type_: PgType, raw: str) -> str:
    encode = value_encoder(type_)
    return (encode(raw.encode()) if encode else raw.encode()).decode()


@pytest.mark.parametrize(
    ("type_", "raw", "expected"),
    [
        (TEXT, '"a\\nb"', '"a\\nb"'),
        (INT8, "9223372036854775807", '"9223372036854775807"'),
        (INT8, "null", "null"),
        (PgType("numeric", TypeKind.QUOTED), "3.50000", '"3.50000"'),
        (PgType("numeric", TypeKind.QUOTED), '"NaN"', '"NaN"'),
        (TIMESTAMPTZ, '"2026-11-24T10:34:56.789+00:00"', '"2026-11-24T10:34:56.789Z"'),
        (TIMESTAMPTZ, '"2026-11-24T10:34:56+00:00"', '"2026-11-24T10:34:56.000Z"'),
        (TIMESTAMPTZ, '"2026-11-24T10:34:56.7+00:00"', '"2026-11-24T10:34:56.700Z"'),
        (TIMESTAMPTZ, '"2026-11-24T10:34:56.78912+00:00"', '"2026-11-24T10:34:56.789120Z"'),
        (TIMESTAMPTZ, '"0044-03-15T10:34:56+00:00 BC"', '"0044-03-15T10:34:56.000Z BC"'),
        (TIMESTAMPTZ, '"infinity"', '"infinity"'),
        (TIMESTAMPTZ, "null", "null"),
        (array_of(TEXT), '["a",null]', '["a",null]'),
        (array_of(INT8), "[1,null,[2,3]]", '["1",null,["2","3"]]'),
        (array_of(INT8), "null", "null"),
        (array_of(INT8), "[]", "[]"),
        (array_of(array_of(INT8)), "[[1,null],null]", '[["1",null],null]'),
        (composite(a=INT8, b=TEXT), '{"a":1,"b":"x"}', '{"a":"1","b":"x"}'),
        (composite(a=INT8), "null", "null"),
        (array_of(composite(at=TIMESTAMPTZ)), '[{"at":null}]', '[{"at":null}]'),
        (composite(l=array_of(INT8)), '{"l":[1,2]}', '{"l":["1","2"]}'),
    ],
)
def test_value_reads_as_the_contract_says(type_: PgType, raw: str, expected: str) -> None:
    assert encoded(type_, raw) == expected


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_digit_of_a_bigint_is_lost(number: int) -> None:
    assert msgspec.json.decode(encoded(INT8, str(number))) == str(number)


def test_type_without_special_values_is_passed_as_it_is() -> None:
    assert value_encoder(array_of(TEXT)) is None
    assert value_encoder(composite(a=TEXT)) is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"2026-11-24T13:34:56.7+01:00"', '"2026-11-24T12:34:56.700Z"'),
        ('"2026-01-01T00:30:00+05:45"', '"2025-12-31T18:45:00.000Z"'),
        ('"2024-02-28T23:59:59.123456-03:30"', '"2024-02-29T03:29:59.123456Z"'),
        ('"1882-05-05T00:00:00-00:44:30"', '"1882-05-05T00:44:30.000Z"'),
        ('"0001-01-01T00:00:00+01:00"', '"0001-12-31T23:00:00.000Z BC"'),
        ('"0001-12-31T23:30:00-01:00 BC"', '"0001-01-01T00:30:00.000Z"'),
        ('"294276-12-31T23:00:00-00:30"', '"294276-12-31T23:30:00.000Z"'),
    ],
)
def test_timestamptz_written_in_another_zone_reads_in_utc(written: str, read: str):
    """A trigger need not set the writer's time zone."""
    assert timestamptz(written.encode()).decode() == read
