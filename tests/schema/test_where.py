"""Filters as SQL: each operator against a condition written by hand, on tables and on images of rows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from cdc_bridge.model.catalog import PgType, Reference, TypeKind
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    And,
    Filter,
    Function,
    Now,
    Or,
    Path,
    Quantifier,
    Related,
)
from cdc_bridge.model.filter import Operator as Op
from cdc_bridge.ports import EvaluationRequest
from cdc_bridge.query.operands import RowVersion
from cdc_bridge.query.predicate import compile_filter
from tests.schema.questioning import NOW_US, Questions, comparison, field, let_through, number, questions
from tests.schema.telling import attach_tables
from tests.support.server import Database, Server

SETUP = """
CREATE SCHEMA ext; CREATE SCHEMA "Odd ""s";
CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION hstore SCHEMA "Odd ""s";
DO $$ BEGIN
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN -- a server without ICU
    CREATE COLLATION loose FROM "C";
END $$;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE spot AS (x int, label text);
CREATE TYPE ext.span AS RANGE (subtype = float8);
CREATE DOMAIN email AS ext.citext CHECK (value <> '-');
CREATE DOMAIN tags AS text[];
CREATE TABLE t (
    id int PRIMARY KEY, i2 int2, i8 int8, num numeric, f4 real, f8 float8, b bool, tx text, vc varchar(40),
    bc char(5),
    c text COLLATE "C", l text COLLATE loose, ci ext.citext, em email, nm name, u uuid, d date, ts timestamp,
    tz timestamptz, tm time, iv interval, by bytea, j json, jb jsonb, m mood, sp spot, r int4range, xr ext.span,
    ai int[], at tags, ac char(3)[], ip inet, mo money, bt bit(3), vb varbit, hs "Odd ""s".hstore, "100%s" text,
    "a""b" int, q "char", o oid, tv tsvector, pt point, am mood[], asp spot[]
);
INSERT INTO t (id) VALUES (0);
INSERT INTO t VALUES (1, -1, 9007199254740993, 1.50, 0.1, 0.1, true, 'Hello 100%', 'a_b', 'ab', 'abc',
    'Straße', 'Bob', 'A@x',
    'nm', '8506b1cd-0000-4000-8000-00000000000a', '2026-02-28', '2026-02-28 12:34:56.789',
    '2026-02-28 23:30+00', '12:34:56.9',
    '1 day 02:00', '\\xdead', '{"a": {"b": [1, "x"]}}', '{"a": {"b": [1, "x"]}, "n": 1.50}', 'sad', (1, 'one'),
    '[1,5)',
    '[1.5,2)', '{1,2}', '{x,y}', '{ab,c}', '10.0.0.1', '12.34', '101', '1', 'a=>1, b=>NULL', 'percent', 1, 'x',
    5, 'a b',
    '(1,2)', '{sad}', ARRAY[ROW(1, 'one')::spot]);
INSERT INTO t VALUES (2, 5, 9007199254740992, 1.5, 'NaN', 'NaN', false, 'hello 100x', 'axb', 'ab c', 'ABC',
    'STRASSE', 'bob', 'a@X',
    'NM', '8506b1cd-0000-4000-8000-00000000000b', 'infinity', 'infinity', '-infinity', '00:00', '24 hours', '',
    'null', 'null', 'happy', (NULL, 'two'), 'empty', 'empty', '{}', '{}', '{}', '::1', '-1', '000', '', '', '',
    NULL, '', 4294967295,
    '', '(0,0)', '{}', '{}');
INSERT INTO t VALUES (3, 32767, -9223372036854775808, 'NaN', 'Infinity', '-Infinity', NULL, '', '', '', '', '',
    '', '', '',
    '00000000-0000-0000-0000-000000000000', '0044-03-15 BC', '0044-03-15 12:00:00 BC',
    '2026-12-31 23:59:59.999999+00', '24:00',
    '1 mon', '\\x00', '{"a": "\\u0000", "n": 1e999999}', '[]', 'ok', (NULL, NULL), '(,)', '(,)', '{NULL,1}',
    '{NULL}', '{a,NULL}',
    '0.0.0.0/0', '0', '111', '0101', 'k=>"it''s \\"q\\""', E'it''s "q" \\\\ %s', 0, 'y', 0, '''it'':1',
    '(1e300,-1)',
    '{happy,NULL}', ARRAY[NULL, ROW(NULL, 'x')::spot]);
INSERT INTO t VALUES (4, 0, 0, 123456789012345678901234567890.12345, 1e-45, 5e-324, true,
    E'tab\\tnl\\n\\\\ "q" \\u20ac 😀 İı', 'ÄÖ', '   ',
    'Äbc', 'strasse', 'STRASSE', 'b@y', 'x', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '5874897-12-31',
    '294276-12-31 23:59:59.999999',
    '4714-11-24 00:00:00+00 BC', '23:59:60', '-00:00:00.000001', '\\xff', '[1,2,3]', '[1, 2, {"x": null}]',
    'happy', (2, ''), '[2,2]',
    '[0,1e300]', '{{1,2},{3,4}}', '{{a,b}}', '{"   "}', 'fe80::1/64', '922337203685477.58', '010', '010',
    'a=>1', '😀', -5, 'z', 1,
    'x:1A', '(NaN,0)', '{ok,sad}', ARRAY[ROW(2, '')::spot]);
"""


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    """One database for the tests that ask the table of many types, since the extensions take their time."""
    database = server.create_database()
    database.execute(SETUP)
    attach_tables(database, "t")
    yield database
    server.drop_database(database)


@pytest.fixture
async def t(shared: Database) -> AsyncIterator[Questions]:
    async with questions(shared) as asked:
        yield asked
    shared.execute("DELETE FROM t WHERE id > 4")


async def agreed(asked: Questions, filter_: Filter, table: str = "t") -> list[int]:
    """The ids that it lets through, once table, images and memory have been asked."""
    collection = asked[table]
    ids = await asked.by_where(collection, filter_)
    assert await asked.by_images(collection, filter_) == ids, filter_
    judge = compile_filter(filter_)
    for image in await asked.images(collection):
        verdict = judge(RowVersion(image, NOW_US))
        assert verdict is None or verdict is (number(image) in ids), (filter_, image)
    return ids


def by_hand(asked: Questions, condition: str) -> list[int]:
    search = 'SET search_path = public, ext, "Odd ""s"; SET timezone = \'UTC\';'
    return [id_ for (id_,) in asked.database.execute(f"{search} SELECT id FROM t WHERE {condition} ORDER BY id")]


LIKES = [
    (Op.CONTAINS, "~~", "%{}%"),
    (Op.STARTS_WITH, "~~", "{}%"),
    (Op.ENDS_WITH, "~~", "%{}"),
    (Op.NCONTAINS, "!~~", "%{}%"),
    (Op.NSTARTS_WITH, "!~~", "{}%"),
    (Op.NENDS_WITH, "!~~", "%{}"),
    (Op.ICONTAINS, "~~*", "%{}%"),
    (Op.ISTARTS_WITH, "~~*", "{}%"),
    (Op.IENDS_WITH, "~~*", "%{}"),
    (Op.NICONTAINS, "!~~*", "%{}%"),
    (Op.NISTARTS_WITH, "!~~*", "{}%"),
    (Op.NIENDS_WITH, "!~~*", "%{}"),
]


async def test_text_is_found_as_like_finds_it_with_every_character_standing_for_itself(t: Questions) -> None:
    for column in ("tx", "vc", "bc", "c", "ci", "em", "nm", "100%s"):
        for part in ("a", "B", "%", "_", "\\", "b ", "  ", "Ä", "ä", 'it\'s "q"', "\u0131", "😀", "", "100%"):
            pattern = part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("'", "''")
            for operator, sql, form in LIKES:
                ids = await agreed(t, comparison(field(t["t"], column), operator, part))
                assert ids == by_hand(t, f"\"{column}\" {sql} '{form.format(pattern)}'"), (column, operator, part)


async def test_text_under_a_collation_that_calls_different_texts_equal_is_searched_all_the_same(t: Questions) -> None:
    column = field(t["t"], "l")
    if column.column.collation.is_deterministic:
        pytest.skip("this server has no ICU")
    assert await agreed(t, comparison(column, Op.EQ, "STRASSE")) == by_hand(t, "l = 'STRASSE'") == [2, 4]
    assert await agreed(t, comparison(column, Op.CONTAINS, "STR")) == [2]
    assert await agreed(t, comparison(column, Op.ICONTAINS, "STR")) == [1, 2, 4]
    assert await agreed(t, comparison(column, Op.REGEX, "^S")) == [1, 2]
    assert await agreed(t, comparison(column, Op.EMPTY)) == [0, 3]
    assert await agreed(t, comparison(column, Op.IEQ, "strasse")) == [2, 4]


async def test_case_is_ignored_as_the_collation_of_the_column_has_it(t: Questions) -> None:
    for column in ("tx", "vc", "bc", "c", "nm", "ci"):
        for value in ("äö", "ABC", "AB   ", "nM", "äBC", ""):
            for operator, sql in ((Op.IEQ, "="), (Op.NIEQ, "<>")):
                ids = await agreed(t, comparison(field(t["t"], column), operator, value))
                right = f"'{value}'::bpchar" if column == "bc" else f"'{value}'"
                collation = "C" if column in ("c", "nm") else "default"
                assert ids == by_hand(
                    t,
                    f'lower({column}::text) {sql} lower(({right})::text COLLATE "{collation}")',
                )


async def test_empty_is_null_or_nothing_but_the_blanks_that_fill_a_char(t: Questions) -> None:
    for column in ("tx", "vc", "bc", "c", "ci", "nm"):
        assert await agreed(t, comparison(field(t["t"], column), Op.EMPTY)) == by_hand(
            t, f"{column} IS NULL OR {column} = ''"
        )
        assert await agreed(t, comparison(field(t["t"], column), Op.NEMPTY)) == by_hand(t, f"{column} <> ''")


async def test_regular_expressions_are_those_of_postgresql(t: Questions) -> None:
    for column in ("tx", "bc", "c", "ci"):
        for pattern in ("^h", r"\d+", "(?i)B", "  $", r"\w"):
            assert await agreed(t, comparison(field(t["t"], column), Op.REGEX, pattern)) == by_hand(
                t, f"{column} ~ '{pattern}'"
            )


COMPARED = [(Op.EQ, "="), (Op.NEQ, "<>"), (Op.LT, "<"), (Op.LTE, "<="), (Op.GT, ">"), (Op.GTE, ">=")]
UNORDERED = {"hs"}
COLUMNS = [
    "id",
    "i2",
    "i8",
    "num",
    "f4",
    "f8",
    "b",
    "tx",
    "vc",
    "bc",
    "c",
    "l",
    "ci",
    "em",
    "nm",
    "u",
    "d",
    "ts",
    "tz",
    "tm",
    "iv",
    "by",
    "m",
    "sp",
    "r",
    "xr",
    "ai",
    "at",
    "ac",
    "ip",
    "mo",
    "bt",
    "vb",
    "hs",
    "q",
    "o",
    "tv",
    "am",
    "asp",
    "jb",
]


@pytest.mark.parametrize("column", COLUMNS)
async def test_every_row_compares_with_every_value_as_postgresql_compares_them(t: Questions, column: str) -> None:
    """The values are those that the rows have, so each type meets its own extremes."""
    operand = field(t["t"], column)
    images = await t.images(t["t"])
    for image in images:
        raw = bytes(image[column])
        if raw == b"null":
            continue
        own = f"(SELECT s.{column} FROM t s WHERE s.id = {number(image)})"
        known = "jb <> 'null' AND " if column == "jb" else ""
        for operator, sql in COMPARED:
            if column == "hs" and operator not in (Op.EQ, Op.NEQ):
                continue
            ids = await agreed(t, comparison(operand, operator, raw))
            assert ids == by_hand(t, f"{known}{column} {sql} {own}"), (operator, raw)
    values = sorted({bytes(image[column]) for image in images} - {b"null"})[:3]
    numbers = ",".join(str(number(image)) for image in images if bytes(image[column]) in values)
    same = f"(SELECT s.{column} FROM t s WHERE s.id IN ({numbers}))"
    assert await agreed(t, comparison(operand, Op.IN, *values)) == by_hand(t, f"{column} IN {same}")
    assert await agreed(t, comparison(operand, Op.NIN, *values)) == by_hand(t, f"{known}{column} NOT IN {same}")
    assert await agreed(t, comparison(operand, Op.NULL)) == by_hand(
        t, f"{column} IS NULL" + (" OR jb = 'null'" if column == "jb" else "")
    )
    assert await agreed(t, comparison(operand, Op.NNULL)) == by_hand(
        t, f"NOT ({column} IS NULL)" + (" AND jb <> 'null'" if column == "jb" else "")
    )


async def test_what_lies_between_has_both_ends(t: Questions) -> None:
    for column, low, high in (
        ("i8", b"-1", b"9007199254740992"),
        ("d", "2026-01-01", "infinity"),
        ("ci", "B", "bob"),
        ("xr", "empty", "[1.5,2)"),
    ):
        ends = [f"'{end.decode() if isinstance(end, bytes) else end}'" for end in (low, high)]
        operand = field(t["t"], column)
        assert await agreed(t, comparison(operand, Op.BETWEEN, low, high)) == by_hand(
            t, f"{column} BETWEEN {ends[0]} AND {ends[1]}"
        )
        assert await agreed(t, comparison(operand, Op.NBETWEEN, low, high)) == by_hand(
            t, f"{column} NOT BETWEEN {ends[0]} AND {ends[1]}"
        )


async def test_arrays_and_jsonb_contain_others(t: Questions) -> None:
    for column, wanted, hand in (
        ("ai", [1], "{1}"),
        ("ai", [], "{}"),
        ("ai", [4, 1], "{4,1}"),
        ("ai", [None], "{NULL}"),
        ("at", ["a"], "{a}"),
        ("ac", ["ab"], "{ab}"),
        ("am", ["happy"], "{happy}"),
        ("jb", {"a": {}}, '{"a": {}}'),
        ("jb", [], "[]"),
        ("jb", 1, "1"),
    ):
        operand = field(t["t"], column)
        assert await agreed(t, comparison(operand, Op.CONTAINS, json.dumps(wanted).encode())) == by_hand(
            t, f"{column} @> '{hand}'"
        )
        known = " AND jb <> 'null'" if column == "jb" else ""
        assert await agreed(t, comparison(operand, Op.NCONTAINS, json.dumps(wanted).encode())) == by_hand(
            t, f"NOT ({column} @> '{hand}'){known}"
        )


async def test_null_of_a_json_is_null(t: Questions) -> None:
    assert await agreed(t, comparison(field(t["t"], "j"), Op.NULL)) == [0, 2]
    assert await agreed(t, comparison(field(t["t"], "j"), Op.NNULL)) == [1, 3, 4]
    assert await agreed(t, comparison(field(t["t"], "jb"), Op.NULL)) == [0, 2]


TEXT, NUMERIC = PgType("text"), PgType("numeric", TypeKind.QUOTED)


def path(asked: Questions, column: str, *members: str, type_: PgType = TEXT) -> Path:
    return Path(asked["t"].by_name[column], members, type_)


async def test_what_is_inside_of_a_json_compares_as_text_or_as_a_number(t: Questions) -> None:
    for column in ("j", "jb"):
        assert await agreed(t, comparison(path(t, column, "a", "b", "1"), Op.EQ, "x")) == [1]
        assert await agreed(t, comparison(path(t, column, "a", "b", "0", type_=NUMERIC), Op.EQ, b"1.0")) == [1]
        assert await agreed(t, comparison(path(t, column, "a", "b", "1", type_=NUMERIC), Op.NEQ, b"1")) == []
        assert await agreed(t, comparison(path(t, column, "1", type_=NUMERIC), Op.IN, b"2", b"7")) == [4]
        assert await agreed(t, comparison(path(t, column, "a", "b"), Op.CONTAINS, '"x"')) == [1]
        assert await agreed(t, comparison(path(t, column, "'; DROP TABLE t; --", "{}", '"'), Op.NNULL)) == []
    assert await agreed(t, comparison(path(t, "jb", "n", type_=NUMERIC), Op.BETWEEN, b"1", b"1.5")) == [1]
    assert await t.by_where(t["t"], comparison(path(t, "j", "a"), Op.NULL)) == [0, 2, 3, 4]
    assert await t.by_where(t["t"], comparison(path(t, "j", "n", type_=NUMERIC), Op.NNULL)) == []
    assert await t.by_images(t["t"], comparison(path(t, "j", "a"), Op.NNULL)) == [1]


async def test_parts_of_dates_are_whole_numbers_and_infinite_ones_have_none(t: Questions) -> None:
    for column in ("d", "ts", "tz", "tm"):
        for function in set(Function) - {Function.COUNT}:
            if (column == "tm") != (function in (Function.HOUR, Function.MINUTE, Function.SECOND)) and column in (
                "tm",
                "d",
            ):
                continue
            operand = field(t["t"], column, function)
            unit = "dow" if function is Function.WEEKDAY else function.value
            part = f"floor(nullif(nullif(extract({unit} FROM {column}), 'Infinity'), '-Infinity'))"
            for value in (-44, 0, 2, 6, 9, 12, 23, 28, 34, 56, 59, 2026):
                assert await agreed(t, comparison(operand, Op.EQ, value)) == by_hand(t, f"{part} = {value}")
            assert await agreed(t, comparison(operand, Op.NULL)) == by_hand(t, f"{part} IS NULL")
            assert await agreed(t, comparison(operand, Op.NBETWEEN, 3, 50)) == by_hand(
                t, f"{part} NOT BETWEEN 3 AND 50"
            )


async def test_elements_are_counted_and_what_has_none_is_not(t: Questions) -> None:
    for column, counts in {"j": {3: [4]}, "jb": {0: [3], 3: [4]}, "ai": {0: [2], 2: [1, 3], 4: [4]}}.items():
        for count, ids in counts.items():
            assert await agreed(t, comparison(field(t["t"], column, Function.COUNT), Op.EQ, count)) == ids
    assert await agreed(t, comparison(field(t["t"], "j", Function.COUNT), Op.NULL)) == [0, 1, 2, 3]


async def test_now_is_an_instant_whatever_the_type(t: Questions) -> None:
    t.database.execute(
        "INSERT INTO t (id, d, ts, tz) SELECT 10 + n, m::date, m, m AT TIME ZONE 'UTC' FROM (VALUES (0, timestamp"
        " '2026-11-18 14:26:40'), (1, '2026-11-18'), (2, '2026-11-18 14:26:40.000001'), (3, '2026-10-18 14:26:40'),"
        " (4, '2926-11-18 14:26:40.000001')) AS v(n, m)"
    )
    now = "timestamp '2026-11-18 14:26:40'"
    for column in ("d", "ts", "tz"):
        own = f"{column} AT TIME ZONE 'UTC'" if column == "tz" else column
        for operator, sql in COMPARED:
            assert await agreed(t, comparison(field(t["t"], column), operator, Now())) == by_hand(
                t, f"{own} {sql} {now}"
            )
        month_ago = f"{now} - interval '1 month'"
        assert await agreed(t, comparison(field(t["t"], column), Op.BETWEEN, Now(months=-1), Now())) == by_hand(
            t, f"{own} BETWEEN {month_ago} AND {now}"
        )
        assert await agreed(t, comparison(field(t["t"], column), Op.IN, Now(months=-1), Now())) == by_hand(
            t, f"{own} IN ({month_ago}, {now})"
        )
        assert await agreed(t, comparison(field(t["t"], column), Op.NIN, Now(months=-1), Now())) == by_hand(
            t, f"{own} NOT IN ({month_ago}, {now})"
        )
    late = Now(months=900 * 12, microseconds=1)
    assert await agreed(t, comparison(field(t["t"], "tz"), Op.EQ, late)) == [14]


async def test_groups_of_no_parts(t: Questions) -> None:
    assert await agreed(t, EVERYTHING) == [0, 1, 2, 3, 4]
    assert await agreed(t, NOTHING) == []
    one = comparison(field(t["t"], "id"), Op.EQ, 1)
    assert await agreed(t, And((one, EVERYTHING))) == await agreed(t, Or((one, NOTHING))) == [1]


async def test_ten_thousand_values_are_one_parameter(t: Questions) -> None:
    assert await agreed(t, comparison(field(t["t"], "id"), Op.IN, *range(2, 10_002))) == [2, 3, 4]
    many = [json.dumps(f"[{n},)").encode() for n in range(9_998)]
    assert await t.by_where(t["t"], comparison(field(t["t"], "xr"), Op.NIN, *many, b'"empty"')) == [1, 3, 4]


HOSTILE = ["'", "''; DROP TABLE t; --", '"', "$1", "%s", "%(a)s", "{}", "{0}", "\\", "\\'", "$$", "/*", "%", "E'\\''"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_sql_in_a_value_is_text(t: Questions, text: str) -> None:
    t.database.execute(
        "INSERT INTO t (id, tx, ci, jb) VALUES (7, %s, %s, jsonb_build_object(%s::text, %s::text))", [text] * 4
    )
    for column in ("tx", "ci"):
        for operator in (Op.EQ, Op.IN, Op.IEQ, Op.CONTAINS, Op.ISTARTS_WITH, Op.LTE):
            assert 7 in await agreed(t, comparison(field(t["t"], column), operator, text)), operator
    assert 7 in await agreed(t, comparison(path(t, "jb", text), Op.EQ, text))
    assert 7 in await agreed(t, comparison(field(t["t"], "jb"), Op.CONTAINS, {text: text}))


async def test_sql_in_a_name_is_a_name(database: Database) -> None:
    name, type_ = "a%s \"; DROP TABLE x; -- %(b)s '", '"%s {} ""e"'
    quoted = '"' + name.replace('"', '""') + '"'
    database.execute(
        f"CREATE TYPE {type_} AS ENUM ('x%s', 'y');"
        f'CREATE TABLE {quoted} (id int PRIMARY KEY, {quoted} {type_}, "0" text);'
        f"INSERT INTO {quoted} VALUES (1, 'x%s', 'zero'), (2, 'y', NULL)"
    )
    async with questions(database, quoted) as asked:
        assert await agreed(asked, comparison(field(asked[name], name), Op.EQ, "x%s"), name) == [1]
        assert await agreed(asked, comparison(field(asked[name], "0"), Op.EQ, "zero"), name) == [1]


RELATED = """
CREATE TABLE place (code text PRIMARY KEY, name text);
CREATE TABLE author (id int PRIMARY KEY, name text, place text REFERENCES place);
CREATE TABLE post (id int PRIMARY KEY, author int REFERENCES author, title text);
INSERT INTO place VALUES ('x', 'Xanten');
INSERT INTO author VALUES (1, 'Ann', 'x'), (2, NULL, NULL), (3, 'Cid', NULL);
INSERT INTO post VALUES (1, 1, 'one'), (2, 2, 'two'), (3, NULL, 'three'), (4, 1, 'four');
"""


@pytest.fixture
async def blog(database: Database) -> AsyncIterator[Questions]:
    database.execute(RELATED)
    async with questions(database, "place", "author", "post") as asked:
        yield asked


def reference(asked: Questions, table: str, target: str) -> Reference:
    return next(each for each in asked[table].references if each.target_id == asked[target].relation_id)


def joined(asked: Questions, table: str, target: str, filter_: Filter) -> Related:
    return Related(reference(asked, table, target), Quantifier.JOINED, filter_)


async def test_missing_row_of_a_foreign_key_is_a_row_of_nulls(blog: Questions) -> None:
    name = field(blog["author"], "name")
    assert await agreed(blog, joined(blog, "post", "author", comparison(name, Op.EQ, "Ann")), "post") == [1, 4]
    assert await agreed(blog, joined(blog, "post", "author", comparison(name, Op.NEQ, "Ann")), "post") == []
    assert await agreed(blog, joined(blog, "post", "author", comparison(name, Op.NULL)), "post") == [2, 3]
    assert await agreed(blog, joined(blog, "post", "author", comparison(name, Op.NNULL)), "post") == [1, 4]
    xanten = comparison(field(blog["place"], "name"), Op.EQ, "Xanten")
    nowhere = comparison(field(blog["place"], "name"), Op.EMPTY)
    deep = joined(blog, "post", "author", joined(blog, "author", "place", xanten))
    assert await agreed(blog, deep, "post") == [1, 4]
    assert await agreed(blog, joined(blog, "post", "author", joined(blog, "author", "place", nowhere)), "post") == [
        2,
        3,
    ]


async def test_some_and_none_of_the_rows_that_refer_to_one(blog: Questions) -> None:
    posts = Reference("posts", "id", blog["post"].relation_id, "author", is_many=True)
    titled = comparison(field(blog["post"], "title"), Op.STARTS_WITH, "t")
    assert await agreed(blog, Related(posts, Quantifier.SOME, titled), "author") == [2]
    assert await agreed(blog, Related(posts, Quantifier.NONE, titled), "author") == [1, 3]
    assert await agreed(blog, Related(posts, Quantifier.NONE, EVERYTHING), "author") == [3]
    colleague = joined(
        blog, "post", "author", Related(posts, Quantifier.SOME, comparison(field(blog["post"], "title"), Op.EQ, "four"))
    )
    assert await agreed(blog, colleague, "post") == [1, 4]


async def test_row_that_is_gone_is_judged_by_its_image(blog: Questions) -> None:
    images = await blog.images(blog["post"])
    blog.database.execute("DELETE FROM post")
    filter_ = joined(blog, "post", "author", comparison(field(blog["author"], "name"), Op.EQ, "Ann"))
    (verdict,) = await blog.evaluator.decide([EvaluationRequest(blog["post"], blog.catalog, filter_, images, NOW_US)])
    assert verdict == let_through(True, False, False, True)
