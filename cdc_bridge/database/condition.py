"""A comparison as SQL.

PostgreSQL defines what a filter means; `predicate` follows it in memory. Where it leaves a choice:

- Text is searched byte by byte (COLLATE "C"), whatever its collation, and `_i...` in lower case as the column's
  collation has it. That is what LIKE and ILIKE do, but for collations that call different texts equal: there they are
  errors, or were before PostgreSQL 18. Regular expressions read those by the database's own collation.
- citext is text without case: so it is for each of these operators, not only for `_i...`.
- The null of a jsonb is NULL: the JSON of a row version does not distinguish them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from psycopg import sql

from cdc_bridge.database.expressions import (
    Name,
    Parameter,
    TypeName,
    carrier,
    characters,
    collate,
    collation,
    compare,
    home,
    is_citext,
    is_scalar,
    joined,
    literal,
    operand,
    qualified,
    restored,
    text,
)
from cdc_bridge.model.catalog import Collation, PgType, TypeKind
from cdc_bridge.model.filter import POSITIVES, Comparison, Literal, Operator, Value


@dataclass(frozen=True, slots=True)
class _Side:
    """The left side of a comparison, and the time."""

    value: sql.Composable
    type: PgType
    collation: Collation
    now_us: int

    def literal(self, value: Value) -> sql.Composable:
        return literal(value, self.type, self.now_us)

    @property
    def characters(self) -> sql.Composed:
        return characters(self.value, self.type, self.collation)

    @property
    def known(self) -> sql.Composable:
        """Return the value for comparisons that would be true of the null of a jsonb."""
        return sql.SQL("nullif({}, 'null'::jsonb)").format(self.value) if self.type.name == "jsonb" else self.value


def condition(comparison: Comparison, alias: str, now_us: int) -> sql.Composable:
    """Return the comparison as a condition on the row that goes by `alias`, at this moment."""
    asked = comparison.operand
    side = _Side(operand(alias, asked), asked.type, collation(asked), now_us)
    return _COMPARISONS[comparison.operator](side, comparison.values)


_Build: TypeAlias = Callable[[_Side, tuple[Value, ...]], sql.Composable]


def _compared(operator: str) -> _Build:
    return lambda side, values: _compare(side, operator, values[0])


def _compare(side: _Side, operator: str, value: Value) -> sql.Composable:
    left = side.value if operator == "=" else side.known
    if side.type.name == "json":  # which has no equality of its own
        left, type_ = sql.SQL("{}::jsonb").format(side.known), PgType("jsonb")
        return sql.SQL("nullif({}, 'null'::jsonb) {} {}").format(left, sql.SQL(operator), literal(value, type_, 0))
    return compare(left, operator, side.literal(value), side.type)


def _between(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    return sql.SQL("({} AND {})").format(_compare(side, ">=", values[0]), _compare(side, "<=", values[1]))


def _in(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    """Send all values as one parameter, where that is possible."""
    literals = [value for value in values if isinstance(value, Literal)]
    if side.type.name == "json" or len(literals) < len(values):
        return sql.SQL("({})").format(joined(" OR ", [_compare(side, "=", value) for value in values]))
    if not is_scalar(side.type) or (home(side.type) and not is_citext(side.type)):
        return _in_structures(side, literals)
    return sql.SQL("{left} {equal} ANY ({array}::{type}[])").format(
        left=side.value,
        equal=qualified("=", side.type),
        array=Parameter([text(value, side.type) for value in literals]),
        type=TypeName(side.type),
    )


def _in_structures(side: _Side, values: list[Literal]) -> sql.Composed:
    wanted = b",".join(b'{"v":' + value.raw + b"}" for value in values)
    return sql.SQL(
        "EXISTS (SELECT FROM pg_catalog.json_to_recordset({wanted}::json) AS l(v {type}) WHERE {equal})"
    ).format(
        wanted=Parameter("[" + wanted.decode() + "]"),
        type=TypeName(carrier(side.type)),
        equal=compare(side.value, "=", restored(Name("l", "v"), side.type), side.type),
    )


def _is_null(side: _Side, _: tuple[Value, ...]) -> sql.Composable:
    if not side.type.is_json:
        return sql.SQL("{} IS NULL").format(side.value)
    return sql.SQL("({value} IS NULL OR pg_catalog.{type}_typeof({value}) = 'null')").format(
        value=side.value, type=TypeName(side.type)
    )


def _is_empty(side: _Side, _: tuple[Value, ...]) -> sql.Composable:
    """Blanks alone are empty in a char(n), as they are equal to ''. A cast to text is what cuts them off."""
    if side.type.is_json:
        return _is_null(side, ())
    return sql.SQL("coalesce({}::text, '') COLLATE \"C\" = ''").format(side.value)


def _equal_without_case(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    return sql.SQL("pg_catalog.lower({left}::text{collation}) = pg_catalog.lower({right}::text{collation})").format(
        left=side.value, right=side.literal(values[0]), collation=collate(side.collation)
    )


def _like(pattern: str, *, folded: bool = False) -> _Build:
    """`pattern` has a `{}` where the text goes, of which every character stands for itself."""

    def build(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
        wanted = Parameter(pattern.format(_escaped(_as_text(values[0], side.type))))
        if folded or is_citext(side.type):
            template = (
                'pg_catalog.lower({left}) COLLATE "C" LIKE pg_catalog.lower({wanted}::text{collation}) COLLATE "C"'
            )
        else:
            template = '({left}) COLLATE "C" LIKE {wanted}::text'
        return sql.SQL(template).format(left=side.characters, wanted=wanted, collation=collate(side.collation))

    return build


def _contains(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    if side.type.kind is TypeKind.ARRAY:
        return sql.SQL("{} OPERATOR(pg_catalog.@>) {}").format(side.value, side.literal(values[0]))
    if side.type.is_json:
        return sql.SQL("{}::jsonb @> {}").format(side.value, literal(values[0], PgType("jsonb"), side.now_us))
    return _like("%{}%")(side, values)


def _regex(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    by = sql.SQL("") if side.collation.is_deterministic else sql.SQL(' COLLATE "default"')
    return sql.SQL("({}){} {} {}::text").format(
        side.characters,
        by,
        sql.SQL("~*" if is_citext(side.type) else "~"),
        Parameter(_as_text(values[0], side.type)),
    )


def _meets(template: str) -> _Build:
    """Call PostGIS, in the schema of its types."""

    def build(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
        place = home(side.type)
        schema = Name(place[0] if place else "pg_catalog")
        right = sql.SQL("{schema}.ST_GeomFromGeoJSON({wanted}::text)::{type}").format(
            schema=schema, wanted=Parameter(_as_text(values[0], PgType("json"))), type=TypeName(side.type)
        )
        return sql.SQL(template).format(schema=schema, left=side.value, right=right)

    return build


def _not(build: _Build) -> _Build:
    """Return the negation of a condition, which is not true of NULL either.

    IS DISTINCT FROM, since a composite IS NOT NULL only when no field of it is NULL.
    """

    def contrary(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
        known = replace(side, value=side.known)
        return sql.SQL("({} IS DISTINCT FROM NULL AND NOT ({}))").format(known.value, build(known, values))

    return contrary


def _as_text(value: Value, type_: PgType) -> str:
    assert isinstance(value, Literal)
    return text(value, type_) if is_scalar(type_) else value.raw.decode()


def _escaped(literal_text: str) -> str:
    return literal_text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


_POSITIVE: dict[Operator, _Build] = {
    Operator.EQ: _compared("="),
    Operator.LT: _compared("<"),
    Operator.LTE: _compared("<="),
    Operator.GT: _compared(">"),
    Operator.GTE: _compared(">="),
    Operator.IN: _in,
    Operator.BETWEEN: _between,
    Operator.NULL: _is_null,
    Operator.EMPTY: _is_empty,
    Operator.IEQ: _equal_without_case,
    Operator.CONTAINS: _contains,
    Operator.ICONTAINS: _like("%{}%", folded=True),
    Operator.STARTS_WITH: _like("{}%"),
    Operator.ISTARTS_WITH: _like("{}%", folded=True),
    Operator.ENDS_WITH: _like("%{}"),
    Operator.IENDS_WITH: _like("%{}", folded=True),
    Operator.REGEX: _regex,
    Operator.INTERSECTS: _meets("{schema}.ST_Intersects({left}, {right})"),
    Operator.INTERSECTS_BBOX: _meets("{left} OPERATOR({schema}.&&) {right}"),
}
_COMPARISONS = {**_POSITIVE, **{negation: _not(_POSITIVE[each]) for negation, each in POSITIVES.items()}}
