"""Policies as people write them: what memory says of a row is what PostgreSQL shows under row-level security."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from cdc_bridge.access.policy_claims import FunctionName, SqlFunction, claim_functions
from cdc_bridge.access.policy_filter import needed, to_filter
from cdc_bridge.access.policy_parser import AllOf, AnyOf, Condition, Opaque, parse
from cdc_bridge.database.catalog import read_catalog
from cdc_bridge.database.expressions import parameters
from cdc_bridge.database.sessions import prepare
from cdc_bridge.database.where import Scope, where
from cdc_bridge.model.catalog import Catalog, Column, PgType
from cdc_bridge.model.filter import NOTHING, Comparison, Field, Filter, Literal, Operator
from cdc_bridge.model.row import split_object
from cdc_bridge.ports import ClaimValue
from cdc_bridge.query.operands import RowVersion
from cdc_bridge.query.predicate import compile_filter
from cdc_bridge.statements import statement
from tests.schema.telling import attach_tables
from tests.support.budget import examples
from tests.support.server import Database, Server
from tests.support.supabase import AUTH

ROWS = 40
PEOPLE = "SET LOCAL search_path = public, ext"
OURS = "SET LOCAL search_path = pg_catalog, pg_temp"

SCHEMA = (
    AUTH
    + r"""
CREATE SCHEMA ext; CREATE SCHEMA evil;
CREATE EXTENSION citext SCHEMA ext;
CREATE TYPE mood AS ENUM ('sad', 'Ok', 'it''s "fine"');
CREATE TYPE "Odd Mood" AS ENUM ('sad', 'Ok');
CREATE TYPE spot AS (x int, label text);
CREATE TABLE other (id int, label text);
INSERT INTO other VALUES (1, 'a'), (5, 'b');
CREATE DOMAIN address AS text CHECK (value <> 'nobody');
CREATE DOMAIN person AS uuid;
CREATE DOMAIN label AS varchar(20);
DO $$ BEGIN
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN -- a server without ICU
    CREATE COLLATION loose FROM "C";
END $$;
CREATE FUNCTION me() RETURNS text LANGUAGE sql STABLE RETURN lower(auth.jwt() ->> 'email');
CREATE FUNCTION mine() RETURNS uuid LANGUAGE sql STABLE BEGIN ATOMIC SELECT auth.uid(); END;
CREATE FUNCTION teams() RETURNS text[] LANGUAGE sql STABLE SET search_path = ''
    AS 'select string_to_array(auth.jwt() ->> ''teams'', '','')';

-- As somebody writes them who wants to be taken for another, or for PostgreSQL.
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'select ''{"sub": null}''';
CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql AS 'select true';
CREATE FUNCTION evil."coalesce"(text, text) RETURNS text LANGUAGE sql AS 'select $2';
CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR evil.->> (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION evil.uid() RETURNS uuid LANGUAGE sql SET search_path = evil, pg_catalog
    AS 'select (current_setting(''request.jwt.claims'', true)::json ->> ''sub'')::uuid';
CREATE FUNCTION evil.moment() RETURNS date LANGUAGE sql AS 'select ''today''::date';
CREATE FUNCTION evil.who() RETURNS text LANGUAGE sql AS 'select current_user::text';
CREATE FUNCTION evil.late() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN auth.jwt() ->> ''email''; END';
CREATE FUNCTION evil.looked_up() RETURNS text LANGUAGE sql AS 'select label from public.other limit 1';
CREATE FUNCTION evil.loose() RETURNS address LANGUAGE sql AS 'select auth.jwt() ->> ''email''';
CREATE TYPE sly AS ENUM ('open', 'shut');
CREATE FUNCTION evil.told(sly) RETURNS text LANGUAGE sql AS 'select label from public.other limit 1';
CREATE CAST (sly AS text) WITH FUNCTION evil.told AS IMPLICIT;
"""
)

UUIDS = ["8506b1cd-0000-4000-8000-00000000000a", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
TEXTS = [
    "",
    "a",
    "A",
    "ab ",
    "ä",
    "it's",
    "a) OR (true",
    "\\",
    "\\'",
    '"q"',
    "E'x'",
    "a--b",
    "/* a",
    "$$",
    "5",
    "true",
    UUIDS[0],
    UUIDS[0].upper(),
    "NULL",
]
WHOLE = ["0", "1", "5", "-5"]
POOLS: Mapping[str, tuple[str, list[str]]] = {
    "user_id": ("uuid", UUIDS),
    "who": ("person", UUIDS),
    "t": ("text", TEXTS),
    "owner": ("varchar(40)", TEXTS),
    "tagged": ("label", ["", "a", "it's"]),
    "email": ("address", TEXTS),
    "select": ("text", TEXTS),
    "current_user": ("text", TEXTS),
    "CURRENT_USER": ("text", TEXTS),
    "true": ("boolean", ["true", "false"]),
    "auth": ("text", TEXTS),
    'uid() or "a"."b"': ("text", TEXTS),
    "unknown": ("text", TEXTS),
    "cc": ('text COLLATE "C"', TEXTS),
    "lo": ("text COLLATE loose", TEXTS),
    "ci": ("citext", TEXTS),
    "c": ("char(4)", ["", "a", "A", "ab"]),
    "nm": ("name", ["", "a", "A"]),
    "m": ("mood", ["sad", "Ok", 'it\'s "fine"']),
    "om": ('"Odd Mood"', ["sad", "Ok"]),
    "sl": ("sly", ["open", "shut"]),
    "s": ("smallint", WHOLE),
    "i": ("int", WHOLE),
    "big": ("bigint", [*WHOLE, "3000000000"]),
    "n": ("numeric(10,2)", [*WHOLE, "5.50", "NaN"]),
    "f": ("float8", [*WHOLE, "0.1", "NaN"]),
    "flag": ("boolean", ["true", "false"]),
    "d": ("date", ["2026-11-18", "infinity"]),
    "tz": ("timestamptz", ["2026-11-18 14:26:40+00", "-infinity"]),
    "iv": ("interval", ["1 day", "24 hours"]),
    "tags": ("text[]", ["{}", "{a}", "{a,NULL}"]),
    "sp": ("spot", ["(1,a)", "(,)", "(1,)"]),
    "jb": ("jsonb", ["null", '{"owner": "a"}']),
}


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Policed:
    """A connection of the superuser, the columns of `public.t`, and a role that policies are for."""

    conn: psycopg.Connection[Any]
    columns: Mapping[str, Column]
    functions: frozenset[FunctionName]
    role: str

    def __repr__(self) -> str:
        return self.role


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Database]:
    database = server.create_database()
    columns = ", ".join(f"{quoted(name)} {type_}" for name, (type_, _) in POOLS.items())
    database.execute(
        SCHEMA + "SET search_path = public, ext;" + f"CREATE TABLE t (id int PRIMARY KEY, {columns});"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE VIEW everything AS SELECT * FROM t"
    )
    attach_tables(database, "t")
    yield database
    server.drop_database(database)


@pytest.fixture(scope="module")
def role(server: Server, shared: Database) -> Iterator[str]:
    name = f"reader_{secrets.token_hex(6)}"
    shared.execute(
        f"CREATE ROLE {name}; GRANT USAGE ON SCHEMA public, ext, evil, auth TO {name};"
        f"GRANT SELECT ON t, other, everything TO {name}"
    )
    yield name
    shared.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def _catalog(database: Database) -> Catalog:
    connection = await psycopg.AsyncConnection.connect(database.dsn, autocommit=True)
    async with connection:
        await prepare(connection, "cdc")
        return await read_catalog(connection, "cdc")


@pytest.fixture(scope="module")
def around(shared: Database, role: str) -> Iterator[Policed]:
    collection = asyncio.run(_catalog(shared)).by_name["t"]
    with psycopg.connect(shared.dsn) as conn:
        conn.execute(
            "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'hex'"
        )
        conn.execute(OURS)
        known = claim_functions(functions(conn))
        fill(conn)
        conn.commit()
        yield Policed(conn, collection.by_name, known, role)


UNREADABLE = (psycopg.errors.DataError, psycopg.errors.FeatureNotSupported, psycopg.errors.IndeterminateCollation)
"""Values that are not of a type, 'NaN'::numeric::int, and comparisons of which both sides have a collation."""


class Meaningless(Exception):
    """There is no such operator, or 5.50 is no uuid."""


def understood(around: Policed, policy: str) -> Condition:
    """What is made of a policy on `public.t` that somebody creates. It is there until the transaction ends."""
    conn = around.conn
    conn.execute(PEOPLE)
    try:
        conn.execute(f"CREATE POLICY p ON public.t USING ({policy})".encode())
    except psycopg.Error as error:
        raise Meaningless from error
    conn.execute(OURS)
    found = conn.execute("SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polname = 'p'").fetchall()
    return parse(found[0][0], around.columns, around.functions)


def functions(conn: psycopg.Connection[Any]) -> list[SqlFunction]:
    rows = conn.execute(statement("queries/claim_functions")).fetchall()
    return [SqlFunction(schema, name, result, body, tuple(settings)) for schema, name, result, body, settings in rows]


def become(around: Policed, claims: str) -> None:
    around.conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(around.role)))
    around.conn.execute("SELECT set_config('request.jwt.claims', %s, true)", [claims])


def worth(around: Policed, expression: str) -> ClaimValue | None:
    """Of a claim that is no uuid there is no uuid."""
    try:
        with around.conn.transaction():
            found = around.conn.execute(
                f"SELECT pg_typeof(x)::text, to_json(x)::text FROM (SELECT {expression}) AS v(x)"
            )
            type_, raw = found.fetchall()[0]
    except UNREADABLE:
        return None
    return ClaimValue(type_, None if raw is None else raw.encode())


def images(around: Policed) -> list[dict[str, msgspec.Raw]]:
    found = around.conn.execute("SELECT row_to_json(t.*)::text FROM public.t ORDER BY id").fetchall()
    return [dict(split_object(row)) for (row,) in found]


BOOLEAN = PgType("boolean")


def by_postgres(text: str) -> Filter:
    """As if there were a column of what PostgreSQL says."""
    return Comparison(Field(Column(text, 0, BOOLEAN)), Operator.EQ, (Literal(b"true"),))


def opaque_texts(condition: Condition, values: Mapping[str, ClaimValue]) -> list[str]:
    found: list[str] = []

    def note(text: str) -> Filter:
        found.append(text)
        return NOTHING

    to_filter(condition, values, note)
    return found


def is_opaque(condition: Condition) -> bool:
    match condition:
        case AllOf(parts) | AnyOf(parts):
            return any(map(is_opaque, parts))
    return isinstance(condition, Opaque)


def check(around: Policed, policy: str, claims: str) -> int:
    """How many rows memory could not judge, where PostgreSQL judges them and what is opaque to memory."""
    conn = around.conn
    rows = images(around)
    condition = understood(around, policy)
    become(around, claims)
    values = {each: value for each in needed(condition) if (value := worth(around, each)) is not None}
    try:
        with conn.transaction():
            shown = {id_ for (id_,) in conn.execute("SELECT id FROM public.t").fetchall()}
            for text in opaque_texts(condition, values):
                put_beside(around, text, rows)
    except UNREADABLE:
        return 0
    if not opaque_texts(condition, values):
        assert by_where(conn, to_filter(condition, values, by_postgres)) == shown, (policy, claims)
    judge = compile_filter(to_filter(condition, values, by_postgres))
    verdicts = [judge(RowVersion(row, 0)) for row in rows]
    for row, verdict in zip(rows, verdicts, strict=True):
        assert verdict is None or verdict is (int(bytes(row["id"])) in shown), (policy, claims, row)
    return verdicts.count(None)


def by_where(conn: psycopg.Connection[Any], filter_: Filter) -> set[int]:
    """What is asked where memory is not sure."""
    condition = where(filter_, "t", Scope(Catalog(), 0))
    asked = sql.SQL("SELECT id FROM public.everything AS t WHERE {}").format(condition)
    return {id_ for (id_,) in conn.execute(asked, parameters(asked)).fetchall()}


def put_beside(around: Policed, text: str, rows: list[dict[str, msgspec.Raw]]) -> None:
    """What PostgreSQL says of each row."""
    asked = f"SELECT to_json({text})::text FROM public.everything AS t ORDER BY id"
    for row, (raw,) in zip(rows, around.conn.execute(asked.encode()).fetchall(), strict=True):
        row[text] = msgspec.Raw((raw or "null").encode())


def fill(conn: psycopg.Connection[Any]) -> None:
    """Each column has all of its values and NULL, each time beside others."""
    conn.execute(PEOPLE)
    casts = ", ".join(f"%s::{type_.partition(' COLLATE')[0]}" for type_, _ in POOLS.values())
    drawn = random.Random(5)
    columns = [list(islice(cycle([None, *texts]), ROWS)) for _, texts in POOLS.values()]
    for values in columns:
        drawn.shuffle(values)
    for id_, row in enumerate(zip(*columns, strict=True)):
        conn.execute(f"INSERT INTO t SELECT %s, {casts}".encode(), [id_, *row])


# What people write.

UUID_CLAIMS = [
    "auth.uid()",
    "(select auth.uid())",
    "(auth.jwt() ->> 'sub')::uuid",
    "(current_setting('request.jwt.claims', true)::json->>'sub')::uuid",
    "nullif(current_setting('request.jwt.claims', true)::jsonb #>> '{sub}', '')::uuid",
    "mine()",
    "(select (auth.jwt() -> 'app' ->> 'sub')::uuid)",
    "evil.uid()",
    *(string(uuid) for uuid in UUIDS),
]
TEXT_CLAIMS = [
    "auth.jwt() ->> 'email'",
    "(select auth.jwt() ->> 'email')",
    "auth.email()",
    "lower(auth.email())",
    "auth.role()",
    "me()",
    "(auth.uid())::text",
    "coalesce(auth.jwt() ->> 'nickname', 'a')",
    "case when auth.role() = 'admin' then 'a' else auth.email() end",
    "auth.email() || ''",
    "(teams())[1]",
    "evil.who()",
    "evil.late()",
    "evil.looked_up()",
    "evil.loose()",
    "(auth.email() collate loose)",
    "('a'::name)",
    "'a'::varchar(1)",
    "current_setting('request.jwt.claims' || '', true)",
    *map(string, TEXTS),
]
NUMBER_CLAIMS = [
    "0",
    "5",
    "-5",
    "3000000000",
    "5.50",
    "'5'",
    "(auth.jwt() ->> 'n')::int",
    "(auth.jwt() ->> 'n')::bigint",
    "(select (auth.jwt() ->> 'n')::smallint)",
    "(auth.jwt() ->> 'n')::numeric",
    "(auth.jwt() ->> 'n')::float8",
    "1 + 4",
    "abs((auth.jwt() ->> 'n')::int)",
]
ARRAYS = {
    "text": [
        "teams()",
        "string_to_array(auth.jwt() ->> 'teams', ',')",
        "array(select jsonb_array_elements_text(auth.jwt() -> 'list'))",
        "array['a', auth.email()]",
        "array['a', null]",
        "'{}'::text[]",
        "'{{a,b},{A,B}}'::text[]",
        "null::text[]",
    ],
    "uuid": ["array[auth.uid()]", "'{}'::uuid[]", "array[auth.uid(), null]"],
    "int": ["array[1, 5]", "array[(auth.jwt() ->> 'n')::int, 5]", "'{}'::int[]", "'{NULL}'::int[]"],
}
OPAQUE = [
    "exists (select 1 from other o where o.id = t.i)",
    "i in (select id from other)",
    "tz < now()",
    "d >= current_date",
    "d = evil.moment()",
    "upper(t) = 'A'",
    "i + 1 = 6",
    "t operator(evil.=) 'a'",
    "t = current_user",
    "jb ->> 'owner' = auth.email()",
    "auth.email() = any (tags)",
    "(sp).x = 1",
    "(i, t) = (5, 'a')",
    "flag = (i > 1)",
    "t like 'a%'",
    "sp is not null",
    "t is distinct from 'a'",
    "t in (select auth.email())",
    "length(t) > 1 and t = (select label from other limit 1)",
]
NAMES = ["auth", "unknown", "select", "current_user", "CURRENT_USER", 'uid() or "a"."b"']
CASTS = ["user_id::text", "i::text", "big::text", "f::text", "owner::text", "who::text", "c::text", "flag::text"]
CASTS += ["owner::varchar(1)", 't collate "C"', "lower(owner)", "t.t"]
LEFT = {
    "uuid": ["user_id", "who"],
    "text": [
        "t",
        "owner",
        "tagged",
        "email",
        "auth",
        "unknown",
        "cc",
        "lo",
        "ci",
        "c",
        "nm",
        *map(quoted, NAMES),
        *CASTS,
    ],
    "int": ["s", "i", "big", "n", "f", "id", "i::bigint", "n::int"],
}
RIGHT = {"uuid": UUID_CLAIMS, "text": TEXT_CLAIMS, "int": NUMBER_CLAIMS}
FLAGS = [
    "flag",
    '"true"',
    "true",
    "false",
    "flag is true",
    "flag is not true",
    "flag is false",
    "flag is not false",
    "flag is unknown",
    "flag = true",
    "flag <> (auth.role() = 'admin')",
    "auth.role() = 'authenticated'",
    "auth.uid() is not null",
    "(auth.jwt() ->> 'admin')::boolean",
    "auth.role() in ('admin', 'service_role')",
    "null::boolean",
]
LITERALS = [
    "m = 'sad'",
    "m <> 'Ok'",
    "m > 'sad'",
    "m in ('it''s \"fine\"', 'Ok')",
    "om = 'Ok'",
    "m = (auth.jwt() ->> 'mood')::mood",
    "d = '2026-11-18'",
    "d > '2026-01-01'",
    "tz <= '2026-11-18 14:26:40+00'",
    "tz = ('today'::text)::timestamptz",
    "iv = '1 day'",
    "c = 'a'",
    "c <> 'ab  '",
    "c in ('a', 'ab')",
    "nm = 'a'",
    "n in (5, 5.5)",
    "i between 1 and 5",
    "n not between 0 and 5",
    "f = 'NaN'",
    "tags = '{a}'",
    "ci = 'A'",
    "lo = 'A'",
]

OPERATORS = ["=", "=", "=", "<>", "<", "<=", ">", ">="]


@st.composite
def _comparisons(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(sorted(LEFT)))
    column, operator = draw(st.sampled_from(LEFT[kind])), draw(st.sampled_from(OPERATORS))
    match draw(st.sampled_from(["plain", "plain", "turned", "array", "list", "null"])):
        case "plain":
            return f"{column} {operator} {draw(st.sampled_from(RIGHT[kind]))}"
        case "turned":
            return f"{draw(st.sampled_from(RIGHT[kind]))} {operator} {column}"
        case "array":
            quantified = draw(st.sampled_from(["= any", "= any", "<> all", "< any", "= all"]))
            return f"{column} {quantified} ({draw(st.sampled_from(ARRAYS[kind]))})"
        case "list":
            items = ", ".join(draw(st.lists(st.sampled_from(RIGHT[kind]), min_size=1, max_size=3)))
            return f"{column} {draw(st.sampled_from(['in', 'not in']))} ({items})"
    return f"{column} is {draw(st.sampled_from(['', 'not ']))}null"


ATOMS = _comparisons() | _comparisons() | st.sampled_from([*FLAGS, *LITERALS]) | st.sampled_from(OPAQUE)
POLICIES = st.recursive(
    ATOMS,
    lambda parts: (
        st.lists(parts, min_size=2, max_size=3).map(lambda each: "(" + ") and (".join(each) + ")")
        | st.lists(parts, min_size=2, max_size=3).map(lambda each: "(" + ") or (".join(each) + ")")
        | parts.map(lambda each: f"not ({each})")
    ),
    max_leaves=4,
)
CLAIMS = st.sampled_from(["", "{}"]) | st.fixed_dictionaries(
    {
        "sub": st.none() | st.sampled_from([*UUIDS, *UUIDS, UUIDS[0].upper(), "no uuid"]),
        "email": st.none() | st.sampled_from(TEXTS),
        "role": st.sampled_from(["admin", "authenticated", "a"]),
        "n": st.sampled_from([5, -5, "5", "05", 70_000, None]),
        "teams": st.sampled_from(["a,A", "", UUIDS[0], "5"]),
        "list": st.lists(st.sampled_from(TEXTS) | st.none(), max_size=3),
        "admin": st.sampled_from([True, False, "yes", "no boolean"]),
        "mood": st.sampled_from(["sad", "odd"]),
    }
).map(json.dumps)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(policies=st.lists(POLICIES, min_size=8, max_size=16, unique=True), claims=CLAIMS)
def test_memory_says_what_row_level_security_shows(around: Policed, policies: list[str], claims: str) -> None:
    with around.conn.transaction(force_rollback=True):
        for policy in policies:
            with suppress(Meaningless), around.conn.transaction(force_rollback=True):
                check(around, policy, claims)


# What people write has to be understood, or all of this would prove nothing.

UNDERSTOOD = [
    "true",
    "user_id = auth.uid()",
    "auth.uid() = user_id",
    "(select auth.uid()) = user_id",
    "who = auth.uid()",
    "user_id = mine()",
    "user_id::text = auth.jwt() ->> 'sub'",
    "user_id = (current_setting('request.jwt.claims', true)::json->>'sub')::uuid",
    "owner = auth.jwt() ->> 'email'",
    "email = auth.email()",
    "tagged <> me()",
    "flag or user_id = auth.uid()",
    "auth.role() = 'authenticated'",
    "auth.role() = 'authenticated' and (flag or not (user_id <> auth.uid()))",
    "auth.uid() is not null and t in ('a', 'it''s', 'a) or (true')",
    "t = any (teams())",
    "t = any (array(select jsonb_array_elements_text(auth.jwt() -> 'list')))",
    "owner in ('a', 'b')",
    "owner not in ('a', auth.email())",
    "i = (auth.jwt() ->> 'n')::int",
    "big = (auth.jwt() ->> 'n')::int and s <> 5 and i between 0 and 5",
    "n > 5 and f < 0.5",
    "m = 'sad' or m in ('Ok', 'it''s \"fine\"')",
    "om <> 'Ok'",
    "d > '2026-01-01' and tz <= '2026-11-18 14:26:40+00' and iv = '24 hours'",
    "c = 'a'",
    "cc < auth.email()",
    "\"select\" = 'E''x' and \"current_user\" is null and \"CURRENT_USER\" is not null and auth = 'a'",
    '"uid() or ""a"".""b""" = auth.email()',
    "\"true\" and unknown = '\\'",
    "flag is not true",
    "not flag",
    "case when auth.role() = 'admin' then true else auth.uid() is null end",
]
NOT_UNDERSTOOD = [
    "t = current_user",
    "t operator(evil.=) auth.email()",
    "t = evil.who()",
    "t = evil.late()",
    "t = evil.looked_up()",
    "t = evil.loose()",
    "user_id = evil.uid()",
    "d = evil.moment()",
    "tz = ('now'::text)::timestamptz",
    "tz > now()",
    "t = (auth.email() collate loose)",
    't collate "C" = auth.email()',
    "t = ('a'::name)",
    "t = evil.current_setting('request.jwt.claims', true)",
    "t = evil.\"coalesce\"(auth.email(), 'a')",
    "t = current_setting('request.jwt.claims' || '', true)",
    "t = current_setting('app.tenant', true)",
    "t = set_config('request.jwt.claims', '', false)",
    "ci = auth.email()",
    "ci::text = auth.email()",
    "c::text = auth.email()",
    "f::text = auth.email()",
    "user_id::text < auth.email()",
    "owner::varchar(1) = auth.email()",
    "n::int = 5",
    "m = (auth.jwt() ->> 'mood')::mood",
    "t = lower('open'::sly)",
    "t = ('open'::sly)::text",
    "'open'::sly = 'a'::text",
    "sp is not null",
    "t = owner",
    "t in (select auth.email())",
    "exists (select 1 from other o where o.label = t.t)",
    "t = (select label from other limit 1)",
    "t = (auth.jwt() ->> 'email')::address",
]


@pytest.mark.parametrize("policy", UNDERSTOOD)
def test_policies_are_decided_in_memory(around: Policed, policy: str) -> None:
    with around.conn.transaction(force_rollback=True):
        with around.conn.transaction(force_rollback=True):
            condition = understood(around, policy)
            assert not is_opaque(condition), condition
            become(around, CLAIMED)
            assert not opaque_texts(condition, {each: known(around, each) for each in needed(condition)})
        for claims in (CLAIMED, '{"role": "authenticated"}', ""):
            with around.conn.transaction(force_rollback=True):
                assert check(around, policy, claims) == 0


CLAIMED = json.dumps(
    {"sub": UUIDS[0], "email": "a", "role": "authenticated", "n": 5, "teams": "a,it's", "list": ["a", "\\", None]}
)


def known(around: Policed, expression: str) -> ClaimValue:
    value = worth(around, expression)
    assert value is not None
    return value


@pytest.mark.parametrize("policy", NOT_UNDERSTOOD)
def test_what_is_not_certain_is_left_to_postgres(around: Policed, policy: str) -> None:
    with around.conn.transaction(force_rollback=True):
        assert isinstance(understood(around, policy), Opaque)
    with around.conn.transaction(force_rollback=True):
        assert is_opaque(understood(around, f"flag or {policy}"))
