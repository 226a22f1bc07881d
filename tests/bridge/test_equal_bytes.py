"""The same row reads the same, to the byte, in initial data, in `items` and in events of every kind.

Whatever its types and values, whatever is shown of it, and however odd the settings of the session that wrote it and
of the database.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql
from websockets.asyncio.client import ClientConnection, connect

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.budget import examples
from tests.support.server import Database, Server

pytestmark = [pytest.mark.database, pytest.mark.timeout(300)]

Result = TypeVar("Result")
Expression: TypeAlias = tuple[str, tuple[str | None, ...]]
"""Of SQL, with its parameters."""

TIMEOUT_S = 20

# --- values, as SQL ---

odd_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    [
        "",
        " ",
        "null",
        "true",
        '"',
        "\\",
        "\\u0000",
        "</script>",
        "\x01\x1f\x7f\u2028\ufeff",
        "😀\U0010ffff",
        "e\u0301",
        "'",
    ]
)
instants = st.datetimes().map(str) | st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 00:00:00 BC", "2026-11-24 12:34:56.78", "294276-12-31 23:59:59.999999"]
)
offsets = st.sampled_from(["", "+00", "+05:45", "-12", "+14"])
times = st.times().map(str) | st.sampled_from(["24:00:00", "00:00:00", "12:34:56.7"])
integers = st.integers(-(2**31), 2**31 - 1).map(str)
numbers = st.decimals(allow_nan=False, allow_infinity=False).map(str) | st.sampled_from(
    ["NaN", "0.00000", "-0", "1e100", "1e-100", "123456789012345678901234567890.5"]
)
floats = st.floats().map(repr) | st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "-0", "1e-310", "0.1", "1e21", "1e15"]
)
small_floats = st.floats(width=32).map(repr)
spans = st.builds(
    "P{}Y{}M{}DT{}H{}M{}S".format,
    *[st.integers(-50, 50)] * 5,
    st.sampled_from(["0", "0.5", "-3.25", "59.999999"]),
)
hex_bytes = st.binary(max_size=8).map(lambda value: "\\x" + value.hex())
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | odd_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=5,
).filter(lambda value: "\\u0000" not in json.dumps(value))
json_texts = st.builds(
    lambda value, indent, ascii_: json.dumps(value, indent=indent, ensure_ascii=ascii_),
    documents,
    st.sampled_from([None, 1]),
    st.booleans(),
) | st.sampled_from(["1e400", "123456789012345678901234567890.10", ' {"a" :\t1,"a":2 } ', '"\\ud83d\\ude00"', "-0.0"])
zoned = st.builds("{}{}".format, instants, offsets).filter(
    lambda text: "infinity+" not in text and "infinity-" not in text
)
zoned = zoned.filter(
    lambda text: not text.endswith(("BC+00", "BC+05:45", "BC-12", "BC+14")) and text[:4] not in ("9999", "2942")
)
moods = st.sampled_from(["sad", 'o"k', "ü ber"])


def of(type_: str, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Expression]:
    return st.just((f"NULL::{type_}", ())) | texts.map(lambda text: (f"%s::{type_}", (text,)))


def many(type_: str, one: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    def array(parts: Sequence[Expression]) -> Expression:
        return f"ARRAY[{', '.join(text for text, _ in parts)}]::{type_}[]", _parameters(parts)

    flat = st.lists(one, max_size=3).map(array)
    return flat | flat.map(lambda found: (f"ARRAY[{found[0]}, {found[0]}]::{type_}[]", found[1] * 2))


def row_of(type_: str, *members: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    def row(parts: Sequence[Expression]) -> Expression:
        return f"ROW({', '.join(text for text, _ in parts)})::{type_}", _parameters(parts)

    return st.tuples(*members).map(row)


def _parameters(parts: Sequence[Expression]) -> tuple[str | None, ...]:
    return tuple(itertools.chain.from_iterable(parameters for _, parameters in parts))


timestamptz = of("timestamptz", zoned)
spot = row_of("spot", of("int", integers), timestamptz, of("text", odd_text), of("bytea", hex_bytes))
ranges = st.tuples(st.integers(-99, 99), st.integers(0, 99)).map(lambda pair: f"[{pair[0]},{pair[0] + pair[1]})")
zoned_ranges = st.sampled_from(["empty", "(,)", '["2026-01-01 00:00+02","2026-02-01 00:00+03")', "(,infinity]"])

COLUMNS: Mapping[str, tuple[str, st.SearchStrategy[Expression]]] = {
    "i2": ("int2", of("int2", st.integers(-(2**15), 2**15 - 1).map(str))),
    "i4": ("int4", of("int4", integers)),
    "i8": ("int8", of("int8", st.integers(-(2**63), 2**63 - 1).map(str))),
    "num": ("numeric", of("numeric", numbers)),
    "dec": ("numeric(30,5)", of("numeric", st.sampled_from(["3.5", "-0.00001", "NaN", "123456789012345678901234.5"]))),
    "f4": ("real", of("real", small_floats)),
    "f8": ("float8", of("float8", floats)),
    "yes": ("bool", of("bool", st.sampled_from(["t", "f"]))),
    "txt": ("text", of("text", odd_text)),
    "vc": ("varchar(30)", of("text", odd_text)),
    "bc": ("char(14)", of("text", odd_text)),
    "u": ("uuid", of("uuid", st.uuids().map(lambda each: str(each).upper()))),
    "d": ("date", of("date", st.dates().map(str) | st.sampled_from(["infinity", "0044-03-15 BC", "5874897-12-31"]))),
    "t": ("time", of("time", times)),
    "ttz": ("timetz", of("timetz", st.builds("{}{}".format, times, st.sampled_from(["+00", "+05:45", "-12"])))),
    "ts": ("timestamp", of("timestamp", instants)),
    "tz": ("timestamptz", timestamptz),
    "iv": ("interval", of("interval", spans)),
    "j": ("json", of("json", json_texts)),
    "jb": ("jsonb", of("jsonb", json_texts)),
    "by": ("bytea", of("bytea", hex_bytes)),
    "ai": ("int[]", many("int", of("int", integers))),
    "at": ("text[]", many("text", of("text", odd_text))),
    "atz": ("timestamptz[]", many("timestamptz", timestamptz)),
    "aby": ("bytea[]", many("bytea", of("bytea", hex_bytes))),
    "anum": ("numeric[]", many("numeric", of("numeric", numbers))),
    "af": ("float8[]", many("float8", of("float8", floats))),
    "aiv": ("interval[]", many("interval", of("interval", spans))),
    "ai8": ("int8[]", many("int8", of("int8", st.integers(-(2**63), 2**63 - 1).map(str)))),
    "ajb": ("jsonb[]", many("jsonb", of("jsonb", json_texts))),
    "sp": ("spot", spot),
    "asp": ("spot[]", many("spot", spot)),
    "deep": ("deep", row_of("deep", spot, many("timestamptz", timestamptz), of("mood", moods))),
    "dtz": ("moment", timestamptz),
    "dsp": ("place", spot),
    "adtz": ("moment[]", many("moment", timestamptz)),
    "m": ("mood", of("mood", moods)),
    "am": ("mood[]", many("mood", of("mood", moods))),
    "r": ("int4range", of("int4range", ranges)),
    "rtz": ("tstzrange", of("tstzrange", zoned_ranges)),
    "ip": ("inet", of("inet", st.ip_addresses().map(str))),
    "net": ("cidr", of("cidr", st.sampled_from(["10.0.0.0/8", "::/0"]))),
    "pt": ("point", of("point", st.tuples(floats, floats).map(lambda pair: f"({pair[0]},{pair[1]})"))),
    "mo": ("money", of("money", st.decimals("-1e9", "1e9", places=2).map(lambda each: f"{each:f}"))),
    "vb": ("varbit", of("varbit", st.text("01", max_size=9))),
    "tv": ("tsvector", of("tsvector", st.just("'a b':1 c:2A"))),
    "q": ('"char"', of('"char"', st.sampled_from(["x", "\\", ""]))),
    "nm": ("name", of("name", odd_text)),
    "we ird": ("text", of("text", odd_text)),
}
FUNCTIONS = tuple(
    f"{function}({column})"
    for function, columns in {
        "year": ("d", "ts", "tz"),
        "month": ("d", "tz"),
        "week": ("tz",),
        "day": ("ts",),
        "weekday": ("tz",),
        "hour": ("tz", "ts", "t", "ttz"),
        "minute": ("tz",),
        "second": ("t",),
        "count": ("j", "jb"),
    }.items()
    for column in columns
)

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'o"k', 'ü ber');
CREATE TYPE spot AS ("odd ""key" int, at timestamptz, note text, blob bytea);
CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN place AS spot;
CREATE TYPE deep AS (spot spot, times timestamptz[], mood mood);
CREATE SCHEMA evil;
CREATE FUNCTION evil.row_to_json(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT '{"evil": true}'::json $$;
CREATE FUNCTION evil.json_agg(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT '["evil"]'::json $$;
CREATE FUNCTION evil.never(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.never);
"""

# --- settings ---

SETTINGS: Mapping[str, Sequence[str]] = {
    "timezone": ("UTC", "Asia/Kathmandu", "America/St_Johns", "<+13>-13"),
    "datestyle": ("ISO, MDY", "German, DMY", "SQL, DMY", "Postgres, MDY"),
    "intervalstyle": ("postgres", "sql_standard", "iso_8601", "postgres_verbose"),
    "bytea_output": ("hex", "escape"),
    "extra_float_digits": ("1", "0", "-15", "3"),
    "search_path": ("public", "evil, pg_catalog, public", "evil, public", "public, evil"),
    "quote_all_identifiers": ("off", "on"),
    "standard_conforming_strings": ("on", "off"),
    "xmlbinary": ("base64", "hex"),
    "session_replication_role": ("origin", "replica"),
}
hostile_settings = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in SETTINGS.items()})

# --- what is asked for ---


@dataclass(frozen=True, slots=True)
class Query:
    """`table` is the one followed; `beyond` says of the other one what is shown of it."""

    table: str
    columns: tuple[str, ...]
    functions: tuple[str, ...]
    aliased: tuple[str, ...]
    beyond: tuple[str, ...]

    @property
    def shows_children(self) -> bool:
        return self.table == "odd" and bool(self.beyond)

    def text(self, id_: int) -> dict[str, Any]:
        other = "holders" if self.table == "odd" else "odd"
        alias = {f"x{number}": name for number, name in enumerate(self.aliased)}
        fields = [*self.columns, *self.functions, *alias, *(f"{other}.{name}" for name in self.beyond)]
        return {"fields": fields, "alias": alias, "filter": {"id": {"_eq": id_}}}


names = st.lists(st.sampled_from(list(COLUMNS)), max_size=8, unique=True).map(tuple)
queries = st.builds(
    Query,
    st.sampled_from(["odd", "holders"]),
    names | st.just(("*",)),
    st.lists(st.sampled_from(FUNCTIONS), max_size=3, unique=True).map(tuple),
    st.lists(st.sampled_from(list(COLUMNS)), max_size=2, unique=True).map(tuple),
    st.just(()) | names | st.just(("*",)),
).filter(lambda query: query.columns or query.functions)
rows = st.fixed_dictionaries({name: strategy for name, (_, strategy) in COLUMNS.items()})


# --- the test ---


@dataclass(slots=True)
class Scene:
    """One database, one bridge, one socket, for all examples. The bridge is at work while something runs here."""

    database: Database
    socket: ClientConnection
    run: Callable[[Awaitable[Any]], Any]
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def ask(self, message: Mapping[str, Any]) -> str:
        await self.socket.send(json.dumps(message))
        return await self.frame()

    async def frame(self) -> str:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                frame = await self.socket.recv()
                assert isinstance(frame, str)
                if frame != '{"type":"ping"}':
                    return frame
                await self.socket.send('{"type":"pong"}')


@pytest.fixture(scope="module")
def scene(server: Server) -> Iterator[Scene]:
    database = server.create_database()
    _make(database)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        bridge = runner.run(stack.enter_async_context(running_bridge(database.dsn)))
        socket = runner.run(stack.enter_async_context(connect(bridge.url, max_size=None, proxy=None)))
        yield Scene(database, socket, lambda work: runner.run(_awaited(work)))
        runner.run(stack.aclose())
    server.drop_database(database)


async def _awaited(work: Awaitable[Result]) -> Result:
    return await work


def _make(database: Database) -> None:
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, _) in COLUMNS.items())
    database.execute(TYPES)
    database.execute(f"CREATE TABLE odd (id int PRIMARY KEY, touched int DEFAULT 0, {columns})")
    database.execute(
        f"CREATE TABLE holders (id int PRIMARY KEY, touched int DEFAULT 0, odd int REFERENCES odd, {columns})"
    )
    attach(database, "odd", "holders")
    for name, value in {
        "timezone": "'Asia/Kathmandu'",
        "datestyle": "German, DMY",
        "intervalstyle": "sql_standard",
        "bytea_output": "escape",
        "extra_float_digits": "'-15'",
        "quote_all_identifiers": "on",
        "search_path": "evil, pg_catalog, public",
    }.items():
        database.execute(f"ALTER DATABASE {database.name} SET {name} = {value}")


@given(queries, rows, hostile_settings)
@settings(
    max_examples=examples(60),
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_row_reads_the_same_in_data_and_in_events(
    scene: Scene, query: Query, row: dict[str, Expression], setting: dict[str, str]
) -> None:
    scene.run(_compare(scene, query, row, setting))


async def _compare(scene: Scene, query: Query, row: dict[str, Expression], setting: dict[str, str]) -> None:
    id_ = next(scene.ids)
    wanted = {"collection": query.table, "query": query.text(id_)}
    first = await scene.ask({"type": "subscribe", "uid": "e", "old": True, **wanted})
    assert first == '{"type":"subscription","event":"init","data":[],"uid":"e"}'
    async with await scene.database.connect(options=_options(setting)) as writer:
        await _insert(writer, "odd", id_, row)
        await _insert(writer, "holders", id_, row)
        created = await scene.frame()
        await writer.execute(f"UPDATE public.{query.table} SET touched = 1 WHERE id = {id_}".encode())
        updated = await scene.frame()
    init = await scene.ask({"type": "subscribe", "uid": "i", **wanted})
    read = await scene.ask({"type": "items", "action": "read", "uid": "r", **wanted})
    for uid in ("e", "i"):
        await scene.ask({"type": "unsubscribe", "uid": uid})
    shown = _inside(init, '{"type":"subscription","event":"init","data":[', '],"uid":"i"}')
    assert _inside(read, '{"type":"items","data":[', '],"uid":"r"}') == shown
    data, old = _inside(updated, '{"type":"subscription","event":"update","data":[', '],"uid":"e"}').split('],"old":[')
    assert _untouched(data) == _untouched(shown)
    assert _untouched(old) == _untouched(shown)
    if not query.shows_children:  # those come later
        created = _inside(created, '{"type":"subscription","event":"create","data":[', '],"uid":"e"}')
        assert _untouched(created) == _untouched(shown)
    json.loads(shown)


async def _insert(writer: psycopg.AsyncConnection[Any], table: str, id_: int, row: dict[str, Expression]) -> None:
    values = {"id": (str(id_), ())} | row | ({"odd": (str(id_), ())} if table == "holders" else {})
    statement = "INSERT INTO public.{} ({}) VALUES (" + ", ".join(text for text, _ in values.values()) + ")"
    composed = sql.SQL(statement).format(sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, values)))
    await writer.execute(composed, _parameters(list(values.values())))


def _options(setting: Mapping[str, str]) -> str:
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in setting.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _inside(frame: str, begin: str, end: str) -> str:
    assert frame.startswith(begin), frame
    assert frame.endswith(end), frame
    return frame[len(begin) : -len(end)]


def _untouched(row: str) -> str:
    """Only in it may what is compared differ."""
    return row.replace('"touched":0', '"touched":1')
