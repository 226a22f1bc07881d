"""Each operator on each type: what memory says of odd values, PostgreSQL says of the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql

from cdc_bridge.database.expressions import joined, parameters
from cdc_bridge.database.where import Scope, ordinal, where
from cdc_bridge.database.where import row_versions as images_of
from cdc_bridge.model.catalog import NO_COLLATION, Catalog, Collation, Column, PgType, TypeKind
from cdc_bridge.model.filter import Comparison, Field, Function, Literal, Now, Operand, Operator, Path, Value
from cdc_bridge.query.literals import normalize_literal
from cdc_bridge.query.operators import PATTERNS, allowed, functions
from cdc_bridge.query.predicate import RowVersion, compile_filter
from tests.schema.test_comparing_agrees import DOCUMENTS, EQUAL, PLACES, images, named, shared
from tests.support.server import Database

__all__ = ["shared"]

NOW_US = 1_795_012_000_000_000
C = Collation("pg_catalog", "C", is_bytewise=True)
POSIX_LIKE = {"text": C, "name": C, "text[]": C, "character varying": Collation("pg_catalog", "default")}
TEXT = PgType("text")

LEFT = {Operator.REGEX}
"""What PostgreSQL alone can do."""
PARTLY = {"text", "name", "character varying", "character(6)", "jsonb", "integer[]", "text[]"}
"""Where it has to be asked of some values: text past ASCII, containment, arrays of several dimensions."""


@pytest.fixture(scope="module")
def conn(shared: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(shared.dsn, autocommit=True) as conn:
        conn.execute(
            "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'hex'"
        )
        yield conn


def said(
    conn: psycopg.Connection[Any], column: Column, raws: Sequence[bytes], asked: Sequence[Comparison]
) -> list[Any]:
    """For each comparison what PostgreSQL says of each image."""
    rows = [{column.name: msgspec.Raw(raw)} for raw in raws]
    scope = Scope(Catalog(), NOW_US)
    conditions: list[sql.Composable] = [sql.SQL("({}) IS TRUE").format(where(each, "i", scope)) for each in asked]
    statement = sql.SQL("SELECT ARRAY[{}] FROM {} ORDER BY i.{}").format(
        joined(", ", conditions), images_of([column], rows, "i"), sql.Identifier(ordinal([column]))
    )
    found = [list(verdicts) for (verdicts,) in conn.execute(statement, parameters(statement)).fetchall()]
    return [list(of_one) for of_one in zip(*found, strict=True)]


def check(conn: psycopg.Connection[Any], column: Column, raws: Sequence[bytes], asked: Sequence[Comparison]) -> int:
    """How many verdicts memory could not give."""
    unsure = 0
    for each, expected in zip(asked, said(conn, column, raws, asked), strict=True):
        judge = compile_filter(each)
        for raw, verdict in zip(raws, expected, strict=True):
            mine = judge(RowVersion({column.name: msgspec.Raw(raw)}, NOW_US))
            assert mine is None or mine is verdict, (each.operator, each.values, raw)
            unsure += mine is None
    return unsure


def comparisons_of(operand: Operand, operator: Operator, values: Sequence[Value]) -> list[Comparison]:
    match operator:
        case Operator.NULL | Operator.NNULL | Operator.EMPTY | Operator.NEMPTY:
            return [Comparison(operand, operator)]
        case Operator.IN | Operator.NIN:
            return [Comparison(operand, operator, tuple(values[i : i + 3])) for i in range(len(values))]
        case Operator.BETWEEN | Operator.NBETWEEN:
            return [Comparison(operand, operator, (low, high)) for low in values[::3] for high in values[::2]]
    return [Comparison(operand, operator, (value,)) for value in values]


@pytest.mark.parametrize("type_", EQUAL)
def test_operators_of_a_type(conn: psycopg.Connection[Any], type_: str):
    pg_type = named(type_)
    column = Column("x", 1, pg_type, POSIX_LIKE.get(type_, NO_COLLATION))
    if type_ == "mood":
        labels = sql.SQL(", ").join(map(sql.Literal, pg_type.labels))
        conn.execute(sql.SQL("DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ({})").format(labels))
    known = [*images(conn, type_, EQUAL[type_]), b"null"]
    moments = [Now(), Now(months=-1), Now(microseconds=5)] if pg_type.name.startswith(("date", "timestamp")) else []
    unsure = 0
    for operator in allowed(pg_type) - LEFT:
        raws = images(conn, "text", EQUAL[type_]) if is_of_text(pg_type, operator) else known[:-1]
        values: list[Value] = [*moments, *map(Literal, raws)]
        unsure += check(conn, column, known, comparisons_of(Field(column), operator, values))
    assert (unsure == 0) is (type_ not in PARTLY)


def is_of_text(type_: PgType, operator: Operator) -> bool:
    return operator in PATTERNS and type_.kind is not TypeKind.ARRAY


@pytest.mark.parametrize(
    "type_",
    ["date", "timestamp with time zone", "time without time zone", "time with time zone", "integer[]", "jsonb", "json"],
)
def test_functions_of_a_type(conn: psycopg.Connection[Any], type_: str):
    column = Column("x", 1, named(type_))
    known = [*images(conn, type_, EQUAL.get(type_, DOCUMENTS)), b"null"]
    values = [Literal(b"%d" % number) for number in (-44, -1, 0, 1, 2, 3, 11, 12, 24, 34, 48, 56, 59, 2026)]
    for function in functions(column.type):
        for operator in allowed(PgType("integer")):
            check(conn, column, known, comparisons_of(Field(column, function), operator, values))


@pytest.mark.parametrize("type_", ["json", "jsonb"])
@pytest.mark.parametrize("members", PLACES)
def test_operators_of_places_in_json(conn: psycopg.Connection[Any], type_: str, members: tuple[str, ...]):
    column = Column("x", 1, PgType(type_))
    known = [*images(conn, type_, DOCUMENTS), b"null"]
    texts = [
        Literal(normalize_literal(TEXT, text))
        for text in ("", "1", "x", "zero", "deep", "1.50", "true", "é\né", "[2, 3]")
    ]
    numbers = [Literal(number) for number in (b"0", b"1", b"1.5", b"100", b"-1")]
    for operator in allowed(TEXT) - LEFT:
        check(conn, column, known, comparisons_of(Path(column, members, TEXT), operator, texts))
    for operator in allowed(PgType("numeric")):
        path = Path(column, members, PgType("numeric", TypeKind.QUOTED))
        check(conn, column, known, comparisons_of(path, operator, numbers))


def test_most_is_decided_in_memory(conn: psycopg.Connection[Any]):
    """Else all of this would prove nothing."""
    column = Column("x", 1, TEXT, C)
    known = images(conn, "text", ["", "a", "B", "ab%", "b_"])
    for operator in allowed(TEXT) - LEFT:
        values = [Literal(raw) for raw in known]
        assert check(conn, column, known, comparisons_of(Field(column), operator, values)) == 0
    part = Field(Column("x", 1, PgType("date")), Function.WEEK)
    assert check(conn, part.column, [b'"2026-11-24"'], [Comparison(part, Operator.EQ, (Literal(b"48"),))]) == 0
