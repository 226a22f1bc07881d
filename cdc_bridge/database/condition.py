"""A comparison as SQL.

PostgreSQL is the one who says what a filter means; `predicate` follows it in memory. Where two readings were open:

- Text is searched byte by byte (COLLATE "C"), whatever its collation, and `_i...` in lower case as the column's
  collation has it. That is what LIKE and ILIKE do, but for collations that call different texts equal: there they are
  errors, or were before PostgreSQL 18. Regular expressions read those by the database's own collation.
- citext is text without case: so it is for each of these operators, not only for `_i...`.
- The null of a jsonb is NULL: the JSON of a row version does not distinguish them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from cdc_bridge.model.filter import Comparison, Literal, Operator, Value


@dataclass(frozen=True, slots=True)
class _Side:
    """The left side of a comparison, and what time it is."""

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
        """For comparisons that would be true of the null of a jsonb."""
        return sql.SQL("nullif({}, 'null'::jsonb)").format(self.value) if self.type.name == "jsonb" else self.value


def condition(comparison: Comparison, alias: str, now_us: int) -> sql.Composable:
    """Return the comparison as a condition on the row that goes by `alias`, at this moment."""
    asked = comparison.operand
    side = _Side(operand(alias, asked), asked.type, collation(asked), now_us)
    return _COMPARISONS[comparison.operator](side, comparison.values)


_Build: TypeAlias = Callable[[_Side, tuple[Value, ...]], sql.Composable]


def _ordered(operator: str) -> _Build:
    def build(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
        left = side.value if operator == "=" else side.known
        return _compared(side, left, operator, values[0])

    return build


def _compared(side: _Side, left: sql.Composable, operator: str, value: Value) -> sql.Composable:
    if side.type.name == "json":  # which has no equality of its own
        left, type_ = sql.SQL("{}::jsonb").format(side.known), PgType("jsonb")
        return sql.SQL("nullif({}, 'null'::jsonb) {} {}").format(left, sql.SQL(operator), literal(value, type_, 0))
    return compare(left, operator, side.literal(value), side.type)


def _between(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    low, high = values
    return sql.SQL("({} AND {})").format(
        _compared(side, side.known, ">=", low), _compared(side, side.known, "<=", high)
    )


def _outside(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    low, high = values
    return sql.SQL("({} OR {})").format(_compared(side, side.known, "<", low), _compared(side, side.known, ">", high))


def _in(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    return _among(side, values) or _every(" OR ", [_compared(side, side.value, "=", value) for value in values])


def _not_in(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    found = _among(side, values, is_negated=True)
    return found or _every(" AND ", [_compared(side, side.known, "<>", value) for value in values])


def _among(side: _Side, values: tuple[Value, ...], *, is_negated: bool = False) -> sql.Composable | None:
    """However many there are, they are one parameter. None where that cannot be."""
    literals = [value for value in values if isinstance(value, Literal)]
    if side.type.name == "json" or len(literals) < len(values):
        return None
    if not is_scalar(side.type) or (home(side.type) and not is_citext(side.type)):
        return _among_structures(side, literals, "NOT EXISTS" if is_negated else "EXISTS")
    return sql.SQL("{left} {operator} ({array}::{type}[])").format(
        left=side.known if is_negated else side.value,
        operator=_each_of(side.type, is_negated),
        array=Parameter([text(value, side.type) for value in literals]),
        type=TypeName(side.type),
    )


def _every(separator: str, parts: list[sql.Composable]) -> sql.Composable:
    return sql.SQL("({})").format(joined(separator, parts))


def _each_of(type_: PgType, is_negated: bool) -> sql.Composed:
    return sql.SQL("{} ALL" if is_negated else "{} ANY").format(qualified("<>" if is_negated else "=", type_))


def _among_structures(side: _Side, values: list[Literal], exists: str) -> sql.Composed:
    """IS DISTINCT FROM, since a composite IS NOT NULL only when no field of it is NULL."""
    wanted = b",".join(b'{"v":' + value.raw + b"}" for value in values)
    return sql.SQL(
        "({left} IS DISTINCT FROM NULL AND {exists}"
        " (SELECT FROM pg_catalog.json_to_recordset({wanted}::json) AS l(v {type}) WHERE {equal}))"
    ).format(
        left=side.value,
        exists=sql.SQL(exists),
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


def _without_case(operator: str) -> _Build:
    def build(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
        template = "pg_catalog.lower({left}::text{collation}) {operator} pg_catalog.lower({right}::text{collation})"
        return sql.SQL(template).format(
            left=side.value,
            right=side.literal(values[0]),
            operator=sql.SQL(operator),
            collation=collate(side.collation),
        )

    return build


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
        jsonb = literal(values[0], PgType("jsonb"), side.now_us)
        return sql.SQL("{} @> {}").format(_as_jsonb(side), jsonb)
    return _like("%{}%")(side, values)


def _as_jsonb(side: _Side) -> sql.Composable:
    return side.value if side.type.name == "jsonb" else sql.SQL("{}::jsonb").format(side.value)


def _regex(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
    by = sql.SQL("") if side.collation.is_deterministic else sql.SQL(' COLLATE "default"')
    return sql.SQL("({}){} {} {}::text").format(
        side.characters,
        by,
        sql.SQL("~*" if is_citext(side.type) else "~"),
        Parameter(_as_text(values[0], side.type)),
    )


def _meets(operator: str) -> _Build:
    """With PostGIS, whose names are those of the schema that its types are in."""

    def build(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
        place = home(side.type)
        template = (
            "{schema}.ST_Intersects({left}, {right})" if operator == "" else "{left} OPERATOR({schema}.&&) {right}"
        )
        right = sql.SQL("{schema}.ST_GeomFromGeoJSON({wanted}::text)::{type}").format(
            schema=Name(place[0] if place else "pg_catalog"),
            wanted=Parameter(_as_text(values[0], PgType("json"))),
            type=TypeName(side.type),
        )
        return sql.SQL(template).format(schema=Name(place[0] if place else "pg_catalog"), left=side.value, right=right)

    return build


def _not(build: _Build) -> _Build:
    """Return the negation of a condition. Both are NULL for NULL."""

    def contrary(side: _Side, values: tuple[Value, ...]) -> sql.Composable:
        return sql.SQL("NOT ({})").format(build(replace(side, value=side.known), values))

    return contrary


def _as_text(value: Value, type_: PgType) -> str:
    assert isinstance(value, Literal)
    return text(value, type_) if is_scalar(type_) else value.raw.decode()


def _escaped(literal_text: str) -> str:
    return literal_text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


_COMPARISONS: Mapping[Operator, _Build] = {
    Operator.EQ: _ordered("="),
    Operator.NEQ: _ordered("<>"),
    Operator.LT: _ordered("<"),
    Operator.LTE: _ordered("<="),
    Operator.GT: _ordered(">"),
    Operator.GTE: _ordered(">="),
    Operator.IN: _in,
    Operator.NIN: _not_in,
    Operator.BETWEEN: _between,
    Operator.NBETWEEN: _outside,
    Operator.NULL: _is_null,
    Operator.NNULL: _not(_is_null),
    Operator.EMPTY: _is_empty,
    Operator.NEMPTY: _not(_is_empty),
    Operator.IEQ: _without_case("="),
    Operator.NIEQ: _without_case("<>"),
    Operator.CONTAINS: _contains,
    Operator.NCONTAINS: _not(_contains),
    Operator.ICONTAINS: _like("%{}%", folded=True),
    Operator.NICONTAINS: _not(_like("%{}%", folded=True)),
    Operator.STARTS_WITH: _like("{}%"),
    Operator.NSTARTS_WITH: _not(_like("{}%")),
    Operator.ISTARTS_WITH: _like("{}%", folded=True),
    Operator.NISTARTS_WITH: _not(_like("{}%", folded=True)),
    Operator.ENDS_WITH: _like("%{}"),
    Operator.NENDS_WITH: _not(_like("%{}")),
    Operator.IENDS_WITH: _like("%{}", folded=True),
    Operator.NIENDS_WITH: _not(_like("%{}", folded=True)),
    Operator.REGEX: _regex,
    Operator.INTERSECTS: _meets(""),
    Operator.NINTERSECTS: _not(_meets("")),
    Operator.INTERSECTS_BBOX: _meets("&&"),
    Operator.NINTERSECTS_BBOX: _not(_meets("&&")),
}
