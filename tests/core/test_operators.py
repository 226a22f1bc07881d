"""What is allowed of a type is what PostgreSQL can do with it: asked of the server, type by type."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.filter import Function, Operator
from cdc_bridge.model.subscription import AggregateFunction
from cdc_bridge.query import operators, parser
from tests.support.server import Database

SETUP = """
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE loose AS (a int, b json);
    CREATE FUNCTION can(expression text) RETURNS bool LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE 'SELECT ' || expression;
        RETURN true;
    EXCEPTION WHEN undefined_function OR ambiguous_function OR feature_not_supported OR wrong_object_type
        OR datatype_mismatch OR indeterminate_datatype OR syntax_error THEN
        RETURN false;
    END $$;
"""
TYPES = """
    SELECT format_type(t.oid, NULL), t.typtype
    FROM pg_type t
    WHERE (t.typtype IN ('b', 'r', 'm') AND t.typnamespace = 'pg_catalog'::regnamespace AND t.typelem = 0
        OR t.typname IN ('mood', 'pair', 'loose', '_int4', '_json', '_point', '_text', '_mood'))
        AND t.typname NOT LIKE 'pg\\_%' AND t.typname NOT LIKE 'reg%'
    ORDER BY 1
"""
KINDS = {
    "pair": PgType("pair", TypeKind.COMPOSITE, fields=(("a", PgType("integer")), ("b", PgType("text")))),
    "loose": PgType("loose", TypeKind.COMPOSITE, fields=(("a", PgType("integer")), ("b", PgType("json")))),
    "mood": PgType("mood", labels=("sad", "happy")),
}


def _type(name: str) -> PgType:
    if name.endswith("[]"):
        return PgType(name, TypeKind.ARRAY, element=_type(name[:-2]))
    return KINDS.get(name, PgType(name))


@pytest.fixture
def types(database: Database) -> list[PgType]:
    database.execute(SETUP)
    return [_type(name) for name, _ in database.execute(TYPES)]


def _can(database: Database, types: list[PgType], expression: str) -> set[str]:
    """The types with which the database can evaluate it."""
    asked = {type_.name: expression.replace("{}", f"NULL::{type_.name}") for type_ in types}
    rows = database.execute(
        "SELECT name, can(expression) FROM unnest(%s::text[], %s::text[]) AS asked(name, expression)",
        [list(asked), list(asked.values())],
    )
    return {name for name, can in rows if can}


def _ours(types: list[PgType], is_allowed: Callable[[PgType], bool]) -> set[str]:
    return {type_.name for type_ in types if is_allowed(type_)}


SQL = {
    Operator.EQ: "{} = {}",
    Operator.NEQ: "{} <> {}",
    Operator.IN: "{} IN ({}, {})",
    Operator.LT: "{} < {}",
    Operator.GTE: "{} >= {}",
    Operator.BETWEEN: "{} BETWEEN {} AND {}",
    Operator.CONTAINS: "{} @> {}",
}


def test_operators_are_allowed_where_the_database_has_them(database: Database, types: list[PgType]) -> None:
    for operator, expression in SQL.items():
        allowed = _ours(types, lambda type_, operator=operator: operator in operators.allowed(type_))  # type: ignore[misc]
        if operator is Operator.CONTAINS:
            allowed -= operators.TEXTS
        assert sorted(allowed - _can(database, types, expression)) == [], operator


def test_text_is_looked_into_where_the_database_can(database: Database, types: list[PgType]) -> None:
    allowed = _ours(types, lambda type_: Operator.REGEX in operators.allowed(type_))
    assert allowed == _can(database, types, "{} ~ 'a'") - {'"char"', "unknown"} & allowed
    assert allowed == _can(database, types, "lower({}) LIKE 'a'") & allowed


def test_what_can_be_sorted_and_grouped_by_is_what_the_database_can_order(
    database: Database, types: list[PgType]
) -> None:
    allowed = _ours(types, operators.has_order)
    for expression in ("count(*) FROM (SELECT {} AS x) t GROUP BY x", "x FROM (SELECT {} AS x) t ORDER BY x",
                       "count(DISTINCT {})"):  # fmt: skip
        assert sorted(allowed - _can(database, types, expression)) == [], expression


def test_little_is_refused_that_the_database_could_do(database: Database, types: list[PgType]) -> None:
    can = _can(database, types, "x FROM (SELECT {} AS x) t ORDER BY x")
    assert sorted(can - _ours(types, operators.has_order)) == []
    simple = [type_ for type_ in types if type_.kind is TypeKind.PLAIN]  # of others it looks at the values first
    equal = _can(database, simple, "{} = {}") & _can(database, simple, "{} <> {}")
    assert sorted(equal - _ours(types, operators.has_equality)) == []


@pytest.mark.parametrize(
    ("function", "expression"),
    [
        (AggregateFunction.SUM, "sum({})"),
        (AggregateFunction.AVG, "avg({})"),
        (AggregateFunction.MIN, "min({})"),
        (AggregateFunction.MAX, "max({})"),
        (AggregateFunction.SUM_DISTINCT, "sum(DISTINCT {})"),
        (AggregateFunction.AVG_DISTINCT, "avg(DISTINCT {})"),
        (AggregateFunction.COUNT_DISTINCT, "count(DISTINCT {})"),
    ],
)
def test_figures_are_those_that_the_database_works_out(
    database: Database, types: list[PgType], function: AggregateFunction, expression: str
) -> None:
    allowed = _ours(types, lambda type_: parser.can(function, type_))
    assert sorted(allowed - _can(database, types, expression)) == []


@pytest.mark.parametrize("function", Function)
def test_functions_are_those_that_the_database_has(database: Database, types: list[PgType], function: Function) -> None:
    allowed = _ours(types, lambda type_: function in operators.functions(type_))
    if function is Function.COUNT:
        arrays = {type_.name for type_ in types if type_.kind is TypeKind.ARRAY}
        assert allowed == arrays | {"json", "jsonb"}
        return
    unit = "dow" if function is Function.WEEKDAY else function.value
    assert allowed
    assert not allowed - _can(database, types, f"extract({unit} FROM {{}})")
