"""What `comparing`, `literals` and `operands` say of values, PostgreSQL says too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from cdc_bridge.model.catalog import NO_COLLATION, Collation, Column, PgType, TypeKind
from cdc_bridge.model.filter import Function, Path
from cdc_bridge.model.row import split_array
from cdc_bridge.query import comparing, operands
from cdc_bridge.query.comparing import UNREADABLE, Read
from cdc_bridge.query.literals import NotNative, normalize_literal
from tests.support.server import Database, Server

BYTEWISE = Collation("pg_catalog", "C", is_bytewise=True)
LABELS = ("small", "Large", "medium", 'q"uo\\te', "größe", "")

SEVERAL = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    """One database for all of these tests, which change nothing in it."""
    database = server.create_database()
    yield database
    server.drop_database(database)


@pytest.fixture(scope="module")
def conn(shared: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(shared.dsn, autocommit=True) as conn:
        conn.execute(
            "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'hex'"
        )
        labels = sql.SQL(", ").join(map(sql.Literal, LABELS))
        conn.execute(sql.SQL("CREATE TYPE mood AS ENUM ({})").format(labels))
        yield conn


def type_of(name: str) -> PgType:
    if name.endswith("[]"):
        return PgType(name, TypeKind.ARRAY, type_of(name[:-2]))
    if name == "mood":
        return PgType(name, labels=LABELS)
    return PgType(name)


def images(conn: psycopg.Connection[Any], type_: str, values: Sequence[str]) -> list[bytes]:
    """Each value as a row's image has it."""
    query = sql.SQL(
        "SELECT json_agg(row_to_json(r)->'x' ORDER BY i)::text"
        " FROM (SELECT i, x::{} AS x FROM unnest(%s::text[]) WITH ORDINALITY AS u(x, i)) AS r"
    ).format(sql.SQL(type_))
    ((text,),) = conn.execute(query, [list(values)]).fetchall()
    return [bytes(item) for item in split_array(text.encode())]


def pairs(conn: psycopg.Connection[Any], type_: str, values: Sequence[str], condition: str) -> list[bool]:
    """The condition on `a.x` and `b.x`, for each value and each other one, in order."""
    query = sql.SQL(
        "WITH v AS MATERIALIZED (SELECT i, x::{0} AS x FROM unnest(%s::text[]) WITH ORDINALITY AS u(x, i))"
        " SELECT array_agg(({1}) IS TRUE ORDER BY a.i, b.i) FROM v AS a CROSS JOIN v AS b"
    ).format(sql.SQL(type_), sql.SQL(condition))
    ((found,),) = conn.execute(query, [list(values)]).fetchall()
    return list(found)


NUMBERS = ("0", "-0", "1", "-1", "7", "10", "9", "32767", "-32768")
BIG = (*NUMBERS, "2147483647", "9007199254740993", "9007199254740992", "9223372036854775807", "-9223372036854775808")
NUMERICS = (
    *BIG,
    *(
        "1.0",
        "1.00",
        "0.10",
        "0.1",
        "0.00000000000000000000000000000001",
        "-1.5e-30",
        "1e40",
        "NaN",
        "Infinity",
        "-Infinity",
    ),
    *("9" * 60, "9" * 59 + "8", "123456789.123456789123456789123456789", "1" + "0" * 5000, "1" + "0" * 5000 + ".1"),
)
FLOATS = ("0", "-0", "1", "-1.5", "NaN", "Infinity", "-Infinity", "0.1", "1e10", "1e-10", "1e15", "123456789", "3.4e38")
DATES: tuple[str, ...] = (
    "2026-11-24",
    "2024-02-29",
    "0001-01-01",
    "0001-12-31 BC",
    "0044-03-15 BC",
    "4713-01-01 BC",
    "9999-12-31",
)
DATES += ("10000-01-01", "12026-01-02", "infinity", "-infinity", "1970-01-01", "1969-12-31", "5874897-12-31")
CLOCKS = ("00:00:00", "00:00", "23:59:59.999999", "12:34:56.7", "12:34:56.70", "12:34:56.789", "24:00:00")
STAMPS = (
    *("2026-11-24 12:34:56", "2026-11-24 12:34:56.7", "2026-11-24 12:34:56.789123", "1969-12-31 23:59:59.999999"),
    *("0001-01-01 00:00:00", "0001-12-31 23:59:59.5 BC", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"),
    *("9999-12-31 23:59:59", "10000-01-01 00:00:00.25", "infinity", "-infinity", "1970-01-01", "12026-01-02 03:04:05"),
)
ZONED = (*(f"{stamp}" for stamp in STAMPS), "2026-11-24 13:34:56+01", "2026-11-24 12:34:56.7+05:45", "1800-01-01+00")
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "a",
    "A",
    "b",
    "B",
    "ab",
    "a ",
    "a  ",
    "ä",
    "Ä",
    "ß",
    "z",
    "é",
    "e\u0301",
    "\u2028",
    "\uffff",
    "😀",
)
TEXTS += ("\x01", "\t", "\n", "\x7f", '"', "\\", "\\n", "/", "null", "[1]", "it's", "日本", "\u00a0", "a\nb")
UUIDS = ("00000000-0000-0000-0000-000000000000", "FFFFFFFF-ffff-4fff-9fff-ffffffffffff", "9" * 32, "a" * 32)
TIMETZ = (
    "12:00+00",
    "12:00+01",
    "11:00+00",
    "13:00+02",
    "12:00-00:44:30",
    "24:00:00-15:59",
    "00:00+15:59",
    "0:0:1.5-3",
)
INTERVALS: tuple[str, ...] = (
    "0",
    "1 day",
    "24 hours",
    "1 month",
    "30 days",
    "1 year",
    "360 days",
    "-1 day",
    "1 day -24 hours",
    "1.5 s",
)
INTERVALS += ("-0.5 s", "1 year -3 months 2 days -04:05:06.789", "-1 y 2 mon -3 d", "178000000 years", "1us")
JSONB: tuple[str, ...] = (
    "1",
    "1.0",
    "1.00",
    "1e2",
    "100",
    "true",
    "false",
    '"1"',
    '"true"',
    "[]",
    "{}",
    "[1]",
    "[[1]]",
    "[1.0]",
    "[true]",
)
JSONB = (
    *JSONB,
    '{"a":1,"b":2}',
    '{"b":2.0,"a":1}',
    '{"a":1}',
    '{"a":null}',
    "[null]",
    '["a",1]',
    '[["a",1]]',
    '{"":""}',
)
JSONB += ('"\\u00e9"', '"é"', '{"a":{"b":[1,{"c":2}]}}', '{"a":{"b":[1.0,{"c":2.0}]}}', "-0", "0", '"["', "[0]")
INT_ARRAYS = ("{}", "{1}", "{1,2}", "{1,NULL}", "{NULL}", "{NULL,1}", "{2}", "{1,2,3}", "{NULL,NULL}")
MATRICES = (*INT_ARRAYS, "{{1,2},{3,4}}", "{{1,2,3,4}}", "{1,2,3,4}", "{{1},{2},{3},{4}}", "{{1,2},{3,NULL}}", "{{1}}")

EXACT: dict[str, Sequence[str]] = {
    "smallint": NUMBERS,
    "integer": NUMBERS,
    "bigint": BIG,
    "numeric": NUMERICS,
    "real": FLOATS,
    "double precision": (*FLOATS, "1.7976931348623157e308", "5e-324", "0.30000000000000004", "0.3"),
    "boolean": ("true", "false"),
    '"char"': ("", "a", "b", "Z", "~", " ", '"', "\\"),
    "name": tuple(text for text in TEXTS),
    "uuid": UUIDS,
    "date": DATES,
    "timestamp without time zone": STAMPS,
    "timestamp with time zone": ZONED,
    "time without time zone": CLOCKS,
    "time with time zone": TIMETZ,
    "interval": INTERVALS,
    "bytea": ("", "\\x00", "\\x0000", "\\xff", "\\xdead", "\\xdeadbeef", "\\xde", "\\x7f", "\\x80"),
    "oid": ("0", "1", "10", "9", "4294967295"),
    "mood": LABELS,
    "integer[]": INT_ARRAYS,
    "numeric[]": ("{1.0}", "{1.00}", "{NaN}", "{NaN,NULL}", "{Infinity,1}", "{NULL,1}"),
    "boolean[]": ("{t}", "{f}", "{t,f}", "{NULL}"),
    "time with time zone[]": ("{12:00+00,13:00+01}", "{12:00+00}", "{13:00+01}"),
    "mood[]": ("{small}", "{Large,small}", '{""}', "{medium,NULL}"),
}
EQUAL: dict[str, Sequence[str]] = {
    **EXACT,
    "text": TEXTS,
    "character varying": TEXTS,
    "character(6)": TEXTS,
    "jsonb": JSONB,
    "integer[]": MATRICES,
    "text[]": ("{}", '{""}', "{NULL}", '{"NULL"}', '{"[1]"}', "{a,b}", '{"a,b"}', "{{a,b},{c,d}}", "{a,b,c,d}"),
}


def named(type_: str) -> PgType:
    """As the catalog calls it, without its length."""
    return type_of(type_.partition("(")[0])


def check_equality(conn: psycopg.Connection[Any], type_: str, values: Sequence[str]) -> None:
    read = comparing.equality(named(type_), NO_COLLATION)
    assert read is not None
    raws = images(conn, type_, values)
    known = [outcome(read, raw) for raw in raws]
    assert all((value is UNREADABLE) is (raw[:2] == b"[[") for raw, value in zip(raws, known, strict=True))
    both = [(a, b) for a in known for b in known]
    for (a, b), is_equal in zip(both, pairs(conn, type_, values, "a.x = b.x"), strict=True):
        assert UNREADABLE in (a, b) or (a == b) is is_equal
    assert all(hash(a) == hash(b) for a, b in both if a == b)


def check_order(conn: psycopg.Connection[Any], type_: str, values: Sequence[str], collate: str = "") -> None:
    read: Any = comparing.order(named(type_), BYTEWISE)
    known = [read(raw) for raw in images(conn, type_, values)]
    assert [a < b for a in known for b in known] == pairs(conn, type_, values, f"a.x < b.x {collate}")
    assert [a >= b for a in known for b in known] == pairs(conn, type_, values, f"a.x >= b.x {collate}")
    assert [a == b for a in known for b in known] == pairs(conn, type_, values, f"a.x = b.x {collate}")


@pytest.mark.parametrize("type_", sorted(EQUAL.keys() - {"jsonb"}))
def test_values_are_equal_in_memory_as_in_postgresql(conn: psycopg.Connection[Any], type_: str):
    check_equality(conn, type_, EQUAL[type_])


@pytest.mark.parametrize("type_", EXACT)
def test_values_are_ordered_in_memory_as_in_postgresql(conn: psycopg.Connection[Any], type_: str):
    check_order(conn, type_, EXACT[type_])


@pytest.mark.parametrize("type_", ["text", "character varying", "character(6)"])
def test_text_of_a_bytewise_collation_is_ordered_as_in_postgresql(conn: psycopg.Connection[Any], type_: str):
    check_order(conn, type_, TEXTS, 'COLLATE "C"')


stored_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
stamps = st.datetimes().map(str)
numerics = st.decimals(allow_nan=True, allow_infinity=True).map(str).map(lambda text: text.replace("sNaN", "NaN"))
DRAWN: dict[str, st.SearchStrategy[str]] = {
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.one_of(
        st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{1,30})?", fullmatch=True),
        st.sampled_from(["NaN", "1.0", "1", "Infinity"]),
    ),
    "real": st.floats(width=32).map(repr),
    "double precision": st.floats().map(repr),
    "date": st.dates().map(str),
    "timestamp without time zone": stamps,
    "timestamp with time zone": st.tuples(stamps, st.sampled_from(["+00", "+01", "-03:30", "+15:59", "-00:44:30"])).map(
        "".join
    ),
    "time without time zone": st.times().map(str),
    "interval": st.tuples(st.integers(-30, 30), st.integers(-90, 90), st.integers(-(10**12), 10**12)).map(
        lambda parts: f"{parts[0]} months {parts[1]} days {parts[2]} microseconds"
    ),
    "bytea": st.binary(max_size=5).map(lambda data: "\\x" + data.hex()),
    "uuid": st.uuids().map(str),
}


@pytest.mark.parametrize("type_", DRAWN)
def test_drawn_values_compare_in_memory_as_in_postgresql(conn: psycopg.Connection[Any], type_: str):
    @SEVERAL
    @given(st.lists(DRAWN[type_], min_size=1, max_size=8))
    def check(values: list[str]) -> None:
        check_equality(conn, type_, values)
        check_order(conn, type_, values)

    check()


@SEVERAL
@given(st.lists(stored_text, min_size=1, max_size=8))
def test_drawn_text_compares_in_memory_as_in_postgresql(conn: psycopg.Connection[Any], values: list[str]):
    check_equality(conn, "text", values)
    check_order(conn, "text", values, 'COLLATE "C"')
    read = comparing.characters(PgType("text"))
    assert read is not None
    assert [read(raw) for raw in images(conn, "text", values)] == values


def test_multidimensional_arrays_have_no_order_in_memory(conn: psycopg.Connection[Any]):
    read: Any = comparing.order(type_of("integer[]"), NO_COLLATION)
    for raw in images(conn, "integer[]", ["{{1,2},{3,4}}", "{{1}}"]):
        with pytest.raises(UNREADABLE):
            read(raw)


@pytest.mark.parametrize("type_", ["integer[]", "text[]"])
def test_arrays_contain_each_other_in_memory_as_in_postgresql(conn: psycopg.Connection[Any], type_: str):
    read: Any = comparing.elements(type_of(type_), NO_COLLATION)
    known = [outcome(read, raw) for raw in images(conn, type_, EQUAL[type_])]
    both = [(a, b) for a in known for b in known]
    for (a, b), contains in zip(both, pairs(conn, type_, EQUAL[type_], "a.x @> b.x"), strict=True):
        assert UNREADABLE in (a, b) or (comparing.NULL_ELEMENT not in b and b <= a) is contains


@pytest.mark.parametrize("type_", ["json", "jsonb", "jsonpath", "citext", "inet", "money", "int4range", "point"])
def test_other_types_are_left_to_postgresql(type_: str):
    assert comparing.equality(named(type_), BYTEWISE) is None
    assert comparing.order(named(type_), BYTEWISE) is None


def test_type_that_postgresql_cannot_order_is_not_ordered_in_memory():
    assert comparing.order(type_of("jsonb[]"), BYTEWISE) is None
    assert comparing.equality(type_of("jsonb[]"), BYTEWISE) is None


TEXTUAL: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-(2**31), 2**31 - 1) | st.sampled_from([" 7 ", "+7", "007", "-0"]),
    "bigint": st.integers(-(2**63), 2**63 - 1).flatmap(lambda n: st.sampled_from([n, str(n)])),
    "numeric": st.one_of(
        st.from_regex(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
        st.floats(),
        st.integers(),
        st.sampled_from(["nan", "inf", "-Infinity", ".5", "5.", " 1.50 ", "-0.00"]),
    ),
    "boolean": st.sampled_from([True, False, "t", "TRUE", " off ", "no", "y", 1, 0]),
    "text": stored_text | st.integers(),
    "uuid": st.uuids().flatmap(lambda u: st.sampled_from([str(u), str(u).upper(), u.hex, "{" + str(u) + "}"])),
    "date": st.dates().map(str) | st.sampled_from(["infinity", "-infinity"]),
    "timestamp without time zone": st.datetimes().map(str)
    | st.sampled_from(["2026-11-24T10:00:00.500Z", "2026-11-24"]),
    "timestamp with time zone": st.one_of(
        st.datetimes().map(lambda t: t.isoformat() + "Z"),
        st.datetimes().map(lambda t: t.isoformat() + "+05:30"),
        st.sampled_from(["2026-11-24T10:00:00.500-14:59", "2026-11-24 10:00", "2026-11-24", "infinity"]),
    ),
    "oid": st.integers(0, 2**32 - 1),
    "mood": st.sampled_from(LABELS),
}


@pytest.mark.parametrize("type_", TEXTUAL)
def test_client_s_value_is_spelled_as_a_row_has_it(conn: psycopg.Connection[Any], type_: str):
    @SEVERAL
    @given(st.lists(TEXTUAL[type_], min_size=1, max_size=8))
    def check(values: list[Any]) -> None:
        spelled = []
        for value in values:
            try:
                spelled.append((str(value), normalize_literal(named(type_), value)))
            except NotNative:
                continue
        written = images(conn, type_, [text for text, _ in spelled]) if spelled else []
        assert [raw for _, raw in spelled] == written

    check()


@SEVERAL
@given(stored_text)
def test_text_of_a_client_is_that_of_a_char_n_whatever_blanks_fill_it(conn: psycopg.Connection[Any], text: str):
    read: Any = comparing.equality(PgType("character"), NO_COLLATION)
    assert [read(normalize_literal(PgType("character"), text))] == list(map(read, images(conn, "character(6)", [text])))


PARTS = {
    Function.YEAR: "floor(extract(year FROM {}))",
    Function.MONTH: "floor(extract(month FROM {}))",
    Function.WEEK: "floor(extract(week FROM {}))",
    Function.DAY: "floor(extract(day FROM {}))",
    Function.WEEKDAY: "floor(extract(dow FROM {}))",
    Function.HOUR: "floor(extract(hour FROM {}))",
    Function.MINUTE: "floor(extract(minute FROM {}))",
    Function.SECOND: "floor(extract(second FROM {}))",
}
CALENDAR = ("date", "timestamp without time zone", "timestamp with time zone", "time without time zone")


@pytest.mark.parametrize("type_", CALENDAR)
@pytest.mark.parametrize("part", PARTS)
def test_parts_of_dates_and_times_are_postgresql_s(conn: psycopg.Connection[Any], type_: str, part: Function):
    read = operands.function(part, PgType(type_))
    if read is None:
        is_clock = part in (Function.HOUR, Function.MINUTE, Function.SECOND)
        assert is_clock == (type_ == "date")
        return
    values = [*(value for value in EXACT[type_] if "infinity" not in value)]
    if type_ != "time without time zone":
        values += [f"{year}-{day}" for year in range(1995, 2030) for day in ("01-01", "01-03", "12-29", "12-31")]
    query = sql.SQL("SELECT array_agg({} ORDER BY i) FROM unnest(%s::text[]) WITH ORDINALITY AS u(x, i)").format(
        sql.SQL(PARTS[part].format(f"x::{type_}") + "::int")
    )
    ((expected,),) = conn.execute(query, [values]).fetchall()
    assert [read(raw) for raw in images(conn, type_, values)] == expected


DOCUMENTS = (
    *(
        '{"a":{"b":1}}',
        '{"a":[1,[2,3],{"b":"x"}]}',
        '{"a":"é\\n\\u00e9"}',
        '{"a":null}',
        '{"a":{"a":1,"a":2}}',
        "[]",
        "1",
    ),
    *('{"a": 1.50 }', '{"a":1e2}', '{"a":true}', '{"a":{ "b" : [ 1, 2 ] }}', '{"0":"zero"}', '["zero",["one"]]', '"a"'),
    *('{"a":{"b":1},"a":2}', '{"a":"x","a":{"b":"y"}}', '{"":{"":"empty"}}', '[[["deep"]]]', '{"a":-0.0}', " null "),
)
PLACES = (("a",), ("a", "b"), ("0",), ("a", "0"), ("a", "-1"), ("a", "1", "1"), ("", ""), ("0", "0", "0"), ("1", "0"))


@pytest.mark.parametrize("type_", ["json", "jsonb"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_inside_of_json_is_found_as_postgresql_finds_it(
    conn: psycopg.Connection[Any], type_: str, place: tuple[str, ...]
):
    read = operands.path(Path(Column("x", 1, PgType(type_)), place, PgType("text")))
    assert read is not None
    query = sql.SQL("SELECT array_agg(x::{} #>> %s ORDER BY i) FROM unnest(%s::text[]) WITH ORDINALITY AS u(x, i)")
    ((expected,),) = conn.execute(query.format(sql.SQL(type_)), [list(place), list(DOCUMENTS)]).fetchall()
    for raw, found in zip(images(conn, type_, DOCUMENTS), expected, strict=True):
        assert outcome(read, raw) in (found, UNREADABLE), raw


def outcome(read: Read, raw: bytes) -> Any:
    try:
        return read(raw.strip())
    except UNREADABLE:
        return UNREADABLE


def test_json_is_written_by_row_to_json_as_it_was_stored(conn: psycopg.Connection[Any]):
    """The blanks around it are not ours to keep, those inside are."""
    assert images(conn, "json", [' {"a" : 1.50 } ']) == [b'{"a" : 1.50 }']
    assert msgspec.json.decode(images(conn, "jsonb", [' {"a" : 1.50 } '])[0]) == {"a": 1.5}
