"""One meaning: what a filter lets through is the same for the table, for images of its rows, and in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc_bridge.model.catalog import Collection, Column, PgType, TypeKind
from cdc_bridge.model.filter import And, Comparison, Field, Filter, Literal, Now, Or, Path, Value
from cdc_bridge.model.filter import Operator as Op
from cdc_bridge.query import operators
from cdc_bridge.query.operands import RowVersion
from cdc_bridge.query.predicate import compile_filter
from tests.schema.questioning import NOW_US, Questions, number, questions
from tests.schema.telling import attach_tables
from tests.support.budget import examples
from tests.support.server import Database, Server

TEXTS = [
    "",
    " ",
    "a",
    "A",
    "ab",
    "aB ",
    "100%",
    "a_b",
    "\\",
    'q"',
    "ä",
    "Ä",
    "ß",
    "SS",
    "İ",
    "\u0131",
    "😀",
    "e\u0301",
    "\n",
]
INSTANTS = ["2026-11-18 14:26:40", "2026-11-18", "infinity", "-infinity", "0044-03-15 BC", "2024-02-29 23:59:59.999999"]
JSONS = [
    "null",
    "1",
    "1.0",
    '"a"',
    "[]",
    "[1, 2]",
    "{}",
    '{"a": 1.50}',
    '{"a": "x"}',
    '{"a": null}',
    '[{"a": [1]}]',
    "true",
]
POOLS: Mapping[str, tuple[str, list[str]]] = {
    "i": ("int", ["0", "1", "-1", "2147483647"]),
    "n": ("numeric", ["0", "1", "1.0", "1.50", "-1e-20", "NaN", "Infinity", "123456789012345678901234567890.5"]),
    "f": ("real", ["0", "-0", "0.1", "1", "NaN", "-Infinity", "1e-45"]),
    "d8": ("float8", ["0", "-0", "0.1", "0.30000000000000004", "NaN", "5e-324"]),
    "b": ("bool", ["true", "false"]),
    "tx": ("text", TEXTS),
    "c": ('text COLLATE "C"', TEXTS),
    "lo": ("text COLLATE loose", TEXTS),
    "bc": ("char(4)", ["", " ", "a", "A ", "ab", "%", "ä"]),
    "ci": ("ext.citext", TEXTS),
    "nm": ("name", ["", "a", "A", "ab"]),
    "m": ("mood", ["sad", "Ok", "happy"]),
    "u": ("uuid", ["8506b1cd-0000-4000-8000-00000000000a", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    "d": ("date", [*INSTANTS[1:4], "5874897-12-31", "0044-03-15 BC", "2026-11-19"]),
    "ts": ("timestamp", INSTANTS),
    "tz": ("timestamptz", [*INSTANTS, "2026-11-18 16:26:40+02"]),
    "tm": ("time", ["00:00", "24:00", "12:34:56.789", "23:59:59.999999"]),
    "iv": ("interval", ["0", "1 day", "24 hours", "1 mon", "30 days", "-1 mon 31 days"]),
    "by": ("bytea", ["\\x", "\\x00", "\\xff", "\\xff00"]),
    "j": ("json", [*JSONS, '{"a": "\\u0000"}', '["\\ud800"]', '{"a": "\\ud83d\\ude00"}', '{"a":1,"a":2}']),
    "jb": ("jsonb", JSONS),
    "ai": ("int[]", ["{}", "{1}", "{1,2}", "{2,1,1}", "{NULL}", "{1,NULL}", "{{1,2},{3,4}}"]),
    "at": ("text[]", ["{}", "{a}", "{A,ä}", '{"", NULL}']),
    "r": ("int4range", ["empty", "[1,5)", "(,)", "[2,)"]),
    "xr": ("ext.span", ["empty", "[0.1,2)", "(,)"]),
    "ip": ("inet", ["10.0.0.1", "10.0.0.0/8", "::1"]),
    "mo": ("money", ["0", "1.50", "-1"]),
    "sp": ("spot", ["(1,a)", "(1,)", "(,)", "(2,b)"]),
}
PATTERNS = [*TEXTS, "b", "  ", "%", "_", "B", "aB"]
REGEXES = ["^a", "(?i)A", r"\w+$", "[[:upper:]]", " $", "."]


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    database = server.create_database()
    columns = ", ".join(f"{name} {type_}" for name, (type_, _) in POOLS.items())
    database.execute(
        """
        CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext;
        CREATE TYPE mood AS ENUM ('sad', 'Ok', 'happy'); CREATE TYPE spot AS (x int, label text);
        CREATE TYPE ext.span AS RANGE (subtype = float8);
        DO $$ BEGIN
            CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        EXCEPTION WHEN feature_not_supported THEN -- a server without ICU
            CREATE COLLATION loose FROM "C";
        END $$;
        """
        + f"CREATE TABLE t (id int PRIMARY KEY, {columns})"
    )
    attach_tables(database, "t")
    yield database
    server.drop_database(database)


@pytest.fixture
async def t(shared: Database) -> AsyncIterator[Questions]:
    async with questions(shared) as asked:
        yield asked


async def spelled(asked: Questions) -> dict[str, list[Literal]]:
    """The values of each pool as rows have them."""
    found: dict[str, list[Literal]] = {}
    async with asked.pool.connection() as connection:
        for name, (type_, texts) in POOLS.items():
            plain = type_.partition(" COLLATE")[0].replace("mood", "public.mood").replace("spot", "public.spot")
            rows = await connection.execute(
                f"SELECT to_json(x::{plain})::text FROM unnest(%s::text[]) WITH ORDINALITY AS u(x, n)"
                " ORDER BY n".encode(),
                [texts],
            )
            found[name] = [Literal(text.encode()) for (text,) in await rows.fetchall() if text != "null"]
    return found


ROWS = st.lists(st.tuples(*[st.none() | st.sampled_from(texts) for _, texts in POOLS.values()]), min_size=1, max_size=4)


def filters(collection: Collection, pools: Mapping[str, list[Literal]]) -> st.SearchStrategy[Filter]:
    one = st.one_of([_of_column(collection.by_name[name], pool) for name, pool in pools.items()])
    return st.recursive(
        one,
        lambda parts: (
            st.lists(parts, max_size=3).map(lambda found: And(tuple(found)))
            | st.lists(parts, max_size=3).map(lambda found: Or(tuple(found)))
        ),
        max_leaves=4,
    )


def _of_column(column: Column, pool: list[Literal]) -> st.SearchStrategy[Comparison]:
    values: st.SearchStrategy[Value] = st.sampled_from(pool)
    if column.type.name in operators.INSTANTS:
        values |= st.builds(Now, st.integers(-1, 1), st.sampled_from([0, -1, 86_400_000_000]))
    strategies = [
        _comparison(Field(column), operator, values)
        for operator in sorted(operators.allowed(column.type), key=lambda each: each.value)
    ]
    numbers = st.integers(-44, 60).map(lambda value: Literal(str(value).encode())) | st.just(Literal(b"2026"))
    for function in sorted(operators.functions(column.type), key=lambda each: each.value):
        strategies += [
            _comparison(Field(column, function), operator, numbers) for operator in (Op.EQ, Op.NBETWEEN, Op.NULL)
        ]
    if column.type.is_json:
        strategies += [_of_path(column, operator) for operator in (Op.EQ, Op.NIN, Op.NULL, Op.CONTAINS, Op.EMPTY)]
        strategies += [_of_path(column, operator, is_number=True) for operator in (Op.EQ, Op.GTE, Op.NBETWEEN, Op.NULL)]
    return st.one_of(strategies)


def _of_path(column: Column, operator: Op, *, is_number: bool = False) -> st.SearchStrategy[Comparison]:
    type_ = PgType("numeric", TypeKind.QUOTED) if is_number else PgType("text")
    values = st.sampled_from([b"1", b"1.5", b"2"] if is_number else [b'"x"', b'"1"', b'"1.50"', b'"1.0"', b'"a"'])
    members = st.sampled_from([("a",), ("0",), ("0", "a"), ("0", "a", "0"), ("",), ("b",)])
    return members.flatmap(lambda path: _comparison(Path(column, path, type_), operator, values.map(Literal)))


def _comparison(operand: Field | Path, operator: Op, values: st.SearchStrategy[Value]) -> st.SearchStrategy[Comparison]:
    match operator:
        case Op.NULL | Op.NNULL | Op.EMPTY | Op.NEMPTY:
            return st.just(Comparison(operand, operator))
        case Op.BETWEEN | Op.NBETWEEN:
            return st.tuples(values, values).map(lambda ends: Comparison(operand, operator, ends))
        case Op.IN | Op.NIN:
            some = st.lists(values, min_size=1, max_size=3, unique=True)
            return some.map(lambda found: Comparison(operand, operator, tuple(found)))
        case Op.REGEX:
            return _with_text(operand, operator, REGEXES)
    if operator in operators.PATTERNS and isinstance(operand, Field) and operators.is_text(operand.type):
        return _with_text(operand, operator, PATTERNS)
    return values.map(lambda value: Comparison(operand, operator, (value,)))


def _with_text(operand: Field | Path, operator: Op, texts: list[str]) -> st.SearchStrategy[Comparison]:
    return st.sampled_from(texts).map(
        lambda text: Comparison(operand, operator, (Literal(json.dumps(text, ensure_ascii=False).encode()),))
    )


async def fill(asked: Questions, rows: list[tuple[str | None, ...]]) -> None:
    casts = ", ".join(f"%s::{type_.partition(' COLLATE')[0]}" for type_, _ in POOLS.values())
    statement = f"INSERT INTO public.t SELECT %s, {casts}".replace("::mood", "::public.mood").replace(
        "::spot", "::public.spot"
    )
    async with asked.pool.connection() as connection, connection.transaction():
        await connection.execute("TRUNCATE public.t")
        for id_, row in enumerate(rows):
            await connection.execute(statement.encode(), [id_, *row])


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_table_images_and_memory_agree_on_every_row(t: Questions, data: st.DataObject) -> None:
    collection = t["t"]
    await fill(t, data.draw(ROWS, label="rows"))
    images = await t.images(collection)
    for filter_ in data.draw(st.lists(filters(collection, await spelled(t)), min_size=4, max_size=8), label="filters"):
        ids = await t.by_where(collection, filter_)
        assert await t.by_images(collection, filter_) == ids, filter_
        judge = compile_filter(filter_)
        for image in images:
            verdict = judge(RowVersion(image, NOW_US))
            assert verdict is None or verdict is (number(image) in ids), (filter_, image)
