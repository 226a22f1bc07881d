"""Policies are taken apart where they are understood, and become filters for somebody's claims."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.access.policy_claims import SqlFunction, claim_functions
from cdc_bridge.access.policy_filter import needed, to_filter
from cdc_bridge.access.policy_parser import AllOf, AnyOf, Compared, Constant, Opaque, parse
from cdc_bridge.model.catalog import Column, PgType, TypeKind
from cdc_bridge.model.filter import EVERYTHING, NOTHING, And, Comparison, Field, Filter, Literal, Operator, Or
from cdc_bridge.ports import ClaimValue

COLUMNS = {
    name: Column(name, number, type_)
    for number, (name, type_) in enumerate(
        {
            "user_id": PgType("uuid"),
            "owner": PgType("character varying"),
            "t": PgType("text"),
            "i": PgType("integer"),
            "big": PgType("bigint", TypeKind.QUOTED),
            "flag": PgType("boolean"),
            "c": PgType("character"),
            "m": PgType('public."Odd Mood"', labels=("sad", "Ok")),
            "CURRENT_USER": PgType("text"),
            "true": PgType("boolean"),
            "pair": PgType("pair", TypeKind.COMPOSITE),
            "doc": PgType("jsonb"),
            "old_doc": PgType("json"),
        }.items(),
        1,
    )
}
FUNCTIONS = frozenset({("auth", "uid"), ("auth", "jwt"), ("Odd", 'q"')})
UUID = b'"8506b1cd-0000-4000-8000-00000000000a"'


def unseen(text: str) -> Filter:
    """Stands for what PostgreSQL has to say."""
    return Comparison(Field(Column(text, 0, PgType("boolean"))), Operator.EQ, (Literal(b"true"),))


def filtered(policy: str, type_: str, raw: bytes | None) -> Filter:
    """With this value for every expression in it."""
    condition = parse(policy, COLUMNS, FUNCTIONS)
    return to_filter(condition, dict.fromkeys(needed(condition), ClaimValue(type_, raw)), unseen)


def comparison(name: str, operator: Operator, *raws: bytes) -> Comparison:
    return Comparison(Field(COLUMNS[name]), operator, tuple(map(Literal, raws)))


def test_column_is_compared_with_a_claim():
    condition = parse("(( SELECT auth.uid() AS uid) = user_id)", COLUMNS, FUNCTIONS)
    assert isinstance(condition, Compared)
    assert tuple(needed(condition)) == ("( SELECT auth.uid() AS uid)",)
    assert filtered("(user_id = auth.uid())", "uuid", UUID) == comparison("user_id", Operator.EQ, UUID)


def test_nothing_equals_a_claim_that_is_missing():
    for operator in ("=", "<>", "<", ">="):
        assert filtered(f"(user_id {operator} auth.uid())", "uuid", None) == NOTHING
    assert filtered("(t = ANY (ARRAY['a'::text]))", "text[]", None) == NOTHING
    assert filtered("(t <> ALL (ARRAY['a'::text]))", "text[]", None) == NOTHING


def test_claim_of_another_type_is_left_to_postgres():
    policy = "(user_id = auth.uid())"
    for type_ in ("text", "public.uuid", "uuid[]", "public.person"):
        assert filtered(policy, type_, UUID) == unseen(policy)
    assert to_filter(parse(policy, COLUMNS, FUNCTIONS), {}, unseen) == unseen(policy)


def test_sides_change_places():
    assert filtered("(5 < i)", "integer", b"5") == comparison("i", Operator.GT, b"5")
    assert filtered("(5 >= i)", "integer", b"5") == comparison("i", Operator.LTE, b"5")


def test_varchar_is_compared_as_text():
    policy = "((owner)::text = (auth.jwt() ->> 'email'::text))"
    assert filtered(policy, "text", b'"a"') == comparison("owner", Operator.EQ, b'"a"')
    assert filtered(policy, "character varying", b'"a"') == unseen(policy)


@pytest.mark.parametrize("policy", ["((c)::text = 'a'::text)", "((flag)::text = 'a'::text)", "((m)::text = 'a'::text)"])
def test_text_that_says_less_or_more_than_the_value_is_left_to_postgres(policy: str):
    assert parse(policy, COLUMNS) == Opaque(policy)


def test_uuid_as_text_equals_its_own_spelling_only():
    policy = "((user_id)::text = (auth.jwt() ->> 'sub'::text))"
    assert filtered(policy, "text", UUID) == comparison("user_id", Operator.EQ, UUID)
    for raw in (UUID.upper(), b'""', UUID.replace(b"-", b""), b'"{' + UUID[1:-1] + b'}"'):
        assert filtered(policy, "text", raw) == NOTHING
    other = policy.replace(" = ", " <> ")
    assert filtered(other, "text", b'"x"') == comparison("user_id", Operator.NNULL)


def test_integer_as_text_equals_its_own_spelling_only():
    policy = "((i)::text = (auth.jwt() ->> 'n'::text))"
    assert filtered(policy, "text", b'"-5"') == comparison("i", Operator.EQ, b"-5")
    for raw in (b'"05"', b'"-0"', b'"+5"', b'" 5"', b'"5.0"', b'"3000000000"', b'"\\u0035"'):
        assert filtered(policy, "text", raw) == NOTHING


def test_integers_of_other_sizes_compare_as_numbers():
    assert filtered("(big > 5)", "integer", b"5") == comparison("big", Operator.GT, b"5")
    assert filtered("(i = '3000000000'::bigint)", "bigint", b"3000000000") == NOTHING
    assert filtered("(i <> '3000000000'::bigint)", "bigint", b"3000000000") == comparison("i", Operator.NNULL)
    policy = "(i < '3000000000'::bigint)"
    assert filtered(policy, "bigint", b"3000000000") == unseen(policy)


def test_member_of_an_array():
    policy = "(t = ANY (ARRAY['b'::text, 'a'::text]))"
    assert filtered(policy, "text[]", b'["b","a","b"]') == comparison("t", Operator.IN, b'"a"', b'"b"')
    assert filtered(policy, "text[]", b'["a",null]') == comparison("t", Operator.EQ, b'"a"')
    assert filtered(policy, "text[]", b"[]") == NOTHING
    assert filtered(policy, "text[]", b'[["a"]]') == unseen(policy)
    assert filtered(policy, "text", b'"a"') == unseen(policy)


def test_member_of_no_array():
    for policy in ("(t <> ALL (ARRAY['a'::text]))", "(NOT (t = ANY (ARRAY['a'::text])))"):
        assert filtered(policy, "text[]", b'["b","a"]') == comparison("t", Operator.NIN, b'"a"', b'"b"')
        assert filtered(policy, "text[]", b'["a",null]') == NOTHING
        assert filtered(policy, "text[]", b"[]") == EVERYTHING


def test_rows_of_a_select_are_no_array():
    for inside in ("( SELECT auth.jwt() AS jwt)", "(VALUES ('a'::text))"):
        policy = f"(t = ANY {inside})"
        assert parse(policy, COLUMNS, FUNCTIONS) == Opaque(policy)


def test_condition_that_is_the_same_for_all_rows():
    policy = "((auth.jwt() ->> 'role'::text) = 'admin'::text)"
    assert parse(policy, COLUMNS, FUNCTIONS) == Constant(policy[1:-1])
    assert filtered(policy, "boolean", b"true") == EVERYTHING
    assert filtered(policy, "boolean", b"false") == filtered(policy, "boolean", None) == NOTHING
    assert filtered(policy, "public.flag", b"true") == unseen(policy[1:-1])


def test_constants_leave_what_they_stand_beside():
    assert parse("true", {}) == AllOf()
    assert parse("false", {}) == AnyOf()
    owned = comparison("user_id", Operator.EQ, UUID)
    assert filtered("(true AND (user_id = auth.uid()))", "uuid", UUID) == owned
    assert filtered("(false OR (user_id = auth.uid()))", "uuid", UUID) == owned
    assert filtered("(true OR (user_id = auth.uid()))", "uuid", UUID) == EVERYTHING
    assert filtered("(false AND (user_id = auth.uid()))", "uuid", UUID) == NOTHING


def test_opaque_part_leaves_the_others_understood():
    secret = "(EXISTS ( SELECT 1\n   FROM public.members m\n  WHERE (m.id = things.i)))"
    expected = (unseen(secret), comparison("user_id", Operator.EQ, UUID))
    assert filtered(f"({secret} OR (user_id = auth.uid()))", "uuid", UUID) == Or(expected)
    assert filtered(f"({secret} AND (user_id = auth.uid()))", "uuid", UUID) == And(expected)


def test_not_turns_operators_round():
    assert filtered("(NOT (flag OR (i > 5)))", "integer", b"5") == And(
        (comparison("flag", Operator.EQ, b"false"), comparison("i", Operator.LTE, b"5"))
    )
    secret = "(t = CURRENT_USER)"
    assert filtered(f"(NOT ((i IS NULL) AND {secret}))", "integer", None) == Or(
        (comparison("i", Operator.NNULL), unseen(f"(NOT {secret})"))
    )


def test_flag_that_may_be_null():
    is_null, is_false = comparison("flag", Operator.NULL), comparison("flag", Operator.EQ, b"false")
    for policy in ("(flag IS NOT TRUE)", "(NOT (flag IS TRUE))"):
        assert filtered(policy, "", None) == Or((is_null, is_false))
    assert filtered("(NOT flag)", "", None) == is_false


def test_names_that_look_like_key_words():
    quoted = comparison("CURRENT_USER", Operator.EQ, b'"a"')
    assert filtered("(\"CURRENT_USER\" = 'a'::text)", "text", b'"a"') == quoted
    assert parse("(CURRENT_USER = 'a'::text)", COLUMNS) == Opaque("(CURRENT_USER = 'a'::text)")
    assert filtered('"true"', "", None) == comparison("true", Operator.EQ, b"true")
    assert parse("true", COLUMNS) == AllOf()


def test_quoted_function_is_known_by_its_name():
    assert isinstance(parse('(t = "Odd"."q"""())', COLUMNS, FUNCTIONS), Compared)
    assert isinstance(parse("(t = odd.q())", COLUMNS, FUNCTIONS), Opaque)
    assert isinstance(parse("(user_id = auth.uid(1))", COLUMNS, FUNCTIONS), Opaque)


def test_literal_of_an_enum_is_known_but_no_cast_of_one_or_to_one():
    sad = "'sad'::public.\"Odd Mood\""
    assert isinstance(parse(f"(m = {sad})", COLUMNS), Compared)
    assert isinstance(parse(f"(m = ANY (ARRAY[{sad}, {sad}]))", COLUMNS), Compared)
    for policy in (
        "(m = ('sad'::text)::public.\"Odd Mood\")",
        "(m = 'sad'::public.odd)",
        f"(t = ({sad})::text)",
        f"(t = lower({sad}))",
        f"({sad} = 'sad'::text)",
    ):
        assert parse(policy, COLUMNS) == Opaque(policy)


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "(",
        ")",
        "(t = 'a'::text))",
        "(t = [)]",
        "(t = 'a)",
        "(t = E'a')",
        "(t = $1)",
        "(t = 'a'::text) -- a",
        "(t /* a */ = 'a'::text)",
        "(t OPERATOR(evil.=) 'a'::text)",
        "(t = evil.lower('a'::text))",
        "((t COLLATE \"C\") = 'a'::text)",
        "(t = ('a'::text COLLATE \"C\"))",
        "(t = ('a'::name)::text)",
        "(t = now())",
        "(t = current_setting('app.user'::text, true))",
        "(t = current_setting('request.jwt.claims'::text || ''::text))",
        "(t = current_setting('REQUEST.JWT.CLAIMS'::text))",
        "(t = current_setting('request.headers'::text))",
        "(t = owner)",
        "(things.t = 'a'::text)",
        "((t)::public.address = 'a'::text)",
        "((pair).a = 1)",
        "(pair IS NULL)",
        "(doc IS NULL)",
        "(doc IS NOT NULL)",
        "(old_doc IS NULL)",
        "(ROW(i, t) = ROW(1, 'a'::text))",
        "(t < ANY (ARRAY['a'::text]))",
        "(t = ALL (ARRAY['a'::text]))",
        "(t ~~ 'a'::text)",
        "(CASE WHEN flag THEN i ELSE 1 END = 1)",
        "(flag AND flag OR flag)",
        "(t IS DISTINCT FROM 'a'::text)",
        "(unheard = 'a'::text)",
        "t",
        "(" * 200 + "flag" + ")" * 200,
    ],
)
def test_what_is_not_certain_is_opaque(policy: str):
    assert isinstance(parse(policy, COLUMNS, FUNCTIONS), Opaque)


PIECES = [
    "t",
    "i",
    "flag",
    "c",
    '"true"',
    "CURRENT_USER",
    "auth",
    ".",
    "uid",
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    ",",
    "::",
    "text",
    'public."Odd',
    'Mood"',
    "'",
    "'a'",
    "5",
    "=",
    "<",
    "<>",
    "->>",
    "AND",
    "OR",
    "NOT",
    "IS",
    "NULL",
    "TRUE",
    "true",
    "ANY",
    "ALL",
    "ARRAY",
    "SELECT",
    "AS",
    "CASE",
    "END",
    "current_setting",
    "'request.jwt.claims'",
    "now",
    "COLLATE",
    ";",
    "\\",
    "$1",
    "--",
]


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14))
def test_nonsense_is_opaque_or_understood_but_never_fails(pieces: list[str]) -> None:
    condition = parse(" ".join(pieces), COLUMNS, FUNCTIONS)
    values = dict.fromkeys(needed(condition), ClaimValue("text", b'"a"'))
    to_filter(condition, values, unseen)
    claim_functions([function("select " + " ".join(pieces))])


def names(*functions: SqlFunction) -> set[str]:
    return {name for _, name in claim_functions(functions)}


def function(body: str, *settings: str, name: str = "f", result: str = "text") -> SqlFunction:
    return SqlFunction("auth", name, result, body, settings)


@pytest.mark.parametrize(
    "body",
    [
        "select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'",
        "\n  SELECT coalesce(current_setting('request.jwt.claim.sub', true), 'it''s; -- /* none') AS sub ;\n",
        "select pg_catalog.current_setting('request.jwt.claims', true)::json #>> '{a, b}'",
        "select case when 'a' in ('a', 'b') then 'a'::varchar(10) else null end",
        "BEGIN ATOMIC\n SELECT current_setting('request.jwt.claims'::text, true) AS current_setting;\nEND",
        "RETURN lower('A'::text)",
    ],
)
def test_body_of_claims(body: str):
    assert names(function(body)) == {"f"}
    assert names(function(body, 'search_path=""')) == {"f"}
    assert not names(function(body, "search_path=evil, pg_catalog"))
    assert not names(function(body, "search_path=pg_catalog, public"))
    assert not names(function(body, "request.jwt.claims={}"))
    assert not names(function(body, result="public.address"))
    assert not names(function(body, result="name"))
    assert not names(function(body, result="date"))


@pytest.mark.parametrize(
    "body",
    [
        "",
        ";",
        "select",
        "select 1; select 2",
        "select current_user",
        "select now()::text",
        "select 'a' from public.t",
        "select a.b",
        "table t",
        "select 'a' -- a",
        "select /* a */ 'a'",
        "select $$a$$",
        "select E'a'",
        "select e'\\''",
        "select '\\'",
        "select U&'a'",
        "select date 'today'",
        "select 'today'::date::text",
        "select cast('a' as text)",
        "select current_setting('app.user', true)",
        "select current_setting('request.jwt.claims' || 'x', true)",
        "select evil.current_setting('request.jwt.claims', true)",
        "select 'a' operator(evil.||) 'b'",
        "select 'a' collate \"C\"",
        "select random()::text",
        "select set_config('request.jwt.claims', '', true)",
        "values ('a')",
        "insert into t values (1) returning 'a'",
        "select auth.f()",
    ],
)
def test_body_of_anything_else(body: str):
    assert not names(function(body))


def test_functions_call_each_other():
    jwt = function("select current_setting('request.jwt.claims', true)::jsonb", name="jwt", result="jsonb")
    email = function("select auth.jwt() ->> 'email'", name="email")
    mine = function("RETURN lower(auth.email())", name="mine")
    assert names(mine, email, jwt) == {"jwt", "email", "mine"}
    assert not names(mine, email)
    assert not names(function("select auth.g()"), function("select auth.f()", name="g"))
