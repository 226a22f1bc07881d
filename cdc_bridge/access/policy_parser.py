"""Parse the condition of a policy, as far as it is understood.

PostgreSQL prints parentheses around each operator with its operands and around each AND, OR and NOT, and prints every
cast of what an operator compares, so that the types on both of its sides are the operator's own.

A comparison of a column with claims or literals is decided in memory, once PostgreSQL has given their values for a
principal. What is not understood with certainty is `Opaque`: PostgreSQL evaluates it for each row.

A row is visible where the whole condition is true, so false and NULL are alike at the top and beneath AND and OR. A NOT
is pushed down to the comparisons, where it reverses the operator and leaves NULL what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from cdc_bridge.access.policy_claims import (
    LITERALS,
    FunctionName,
    Group,
    Kind,
    NotUnderstood,
    Token,
    Unit,
    grouped,
    is_of_claims,
    printed,
    tokens,
)
from cdc_bridge.model.catalog import Column, TypeKind
from cdc_bridge.model.filter import Comparison, Field, Literal, Operator

WHOLE_NUMBERS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
"""The types of whole numbers, which compare with each other, and the first number that each cannot hold."""


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """A column compared with the value of `expression`. With IN and NIN that is an array, as in `= ANY` and `<> ALL`.

    `cast` is the type that the column is cast to, empty without a cast. `text` is the whole comparison.
    """

    column: Column
    operator: Operator
    expression: str
    cast: str
    text: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A comparison that needs no value: a test for NULL, or of a boolean column."""

    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Constant:
    """A condition on claims alone, the same for all rows."""

    expression: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """A condition that only PostgreSQL can evaluate."""

    text: str


Condition: TypeAlias = AllOf | AnyOf | Compared | Settled | Constant | Opaque

_TRUE, _FALSE = Literal(b"true"), Literal(b"false")


def flag(column: Column, *, is_set: bool) -> Settled:
    """Test a boolean column for true or for false."""
    return Settled(Comparison(Field(column), Operator.EQ, (_TRUE if is_set else _FALSE,)))


def negated(condition: Condition) -> Condition:
    """Return what is true where `condition` is false."""
    match condition:
        case AllOf(parts):
            return AnyOf(tuple(map(negated, parts)))
        case AnyOf(parts):
            return AllOf(tuple(map(negated, parts)))
        case Compared(operator=operator, text=text):
            return replace(condition, operator=_NEGATED[operator], text=f"(NOT {text})")
        case Settled(comparison):
            return Settled(_negated_comparison(comparison))
        case Constant(expression):
            return Constant(f"(NOT ({expression}))")
        case Opaque(text):
            return Opaque(f"(NOT {text})")
    assert_never(condition)


_NEGATED = {
    Operator.EQ: Operator.NEQ,
    Operator.NEQ: Operator.EQ,
    Operator.LT: Operator.GTE,
    Operator.GTE: Operator.LT,
    Operator.GT: Operator.LTE,
    Operator.LTE: Operator.GT,
    Operator.IN: Operator.NIN,
    Operator.NIN: Operator.IN,
    Operator.NULL: Operator.NNULL,
    Operator.NNULL: Operator.NULL,
}


def _negated_comparison(comparison: Comparison) -> Comparison:
    if comparison.operator is Operator.EQ:  # of a boolean column
        return replace(comparison, values=(_FALSE if comparison.values == (_TRUE,) else _TRUE,))
    return replace(comparison, operator=_NEGATED[comparison.operator])


# --- the parser ---

_MIRRORED = {
    Operator.EQ: Operator.EQ,
    Operator.NEQ: Operator.NEQ,
    Operator.LT: Operator.GT,
    Operator.GT: Operator.LT,
    Operator.LTE: Operator.GTE,
    Operator.GTE: Operator.LTE,
}
_OPERATORS = {
    "=": Operator.EQ,
    "<>": Operator.NEQ,
    "<": Operator.LT,
    "<=": Operator.LTE,
    ">": Operator.GT,
    ">=": Operator.GTE,
}
_OF_ARRAYS = {("=", "ANY"): Operator.IN, ("<>", "ALL"): Operator.NIN}


def parse(
    expression: str, columns: Mapping[str, Column], functions: frozenset[FunctionName] = frozenset()
) -> Condition:
    """Parse an expression as `pg_get_expr` prints it. `functions` are those that depend on claims alone."""
    try:
        parts = tokens(expression)
        units = grouped(parts)
    except NotUnderstood:
        return Opaque(f"({expression})")
    enums = {column.type.name for column in columns.values() if column.type.labels}
    return _Parser(expression, parts, columns, functions, LITERALS | enums).condition(units)


@dataclass(frozen=True, slots=True)
class _Parser:
    """Parses one expression. The units that its methods take are a part of the expression."""

    expression: str
    tokens: Sequence[Token]
    columns: Mapping[str, Column]
    functions: frozenset[FunctionName]
    literals: frozenset[str]

    def condition(self, units: Sequence[Unit]) -> Condition:
        if not units:
            return Opaque(f"({self.expression})")
        if len(units) == 1 and isinstance(units[0], Group):
            return self.condition(units[0].units) if _is_bracketed(units[0]) else self._whole(units)
        if len(units) == 1 and _is_word(units[0], "TRUE", "FALSE"):
            return AllOf() if _is_word(units[0], "TRUE") else AnyOf()
        if self._is_of_claims(units):
            return Constant(self._text(units))
        return self._composed(units) or self._leaf(units) or self._opaque(units)

    def _whole(self, units: Sequence[Unit]) -> Condition:
        return Constant(self._text(units)) if self._is_of_claims(units) else self._opaque(units)

    def _composed(self, units: Sequence[Unit]) -> Condition | None:
        words = {unit.text for unit in units if isinstance(unit, Token) and _is_word(unit, "AND", "OR", "NOT", "CASE")}
        if words in ({"AND"}, {"OR"}):
            parts = tuple(map(self.condition, _split(units, *words)))
            return AllOf(parts) if words == {"AND"} else AnyOf(parts)
        if words == {"NOT"} and _is_word(units[0], "NOT"):
            return negated(self.condition(units[1:]))
        return None

    def _leaf(self, units: Sequence[Unit]) -> Condition | None:
        if len(units) == 1:
            column = self._column(units)
            return flag(column, is_set=True) if column is not None and column.type.name == "boolean" else None
        return self._tested(units) or self._compared(units)

    def _tested(self, units: Sequence[Unit]) -> Condition | None:
        """`IS NULL` and `IS TRUE`, also with NOT."""
        column = self._column(units[:1])
        if column is None or not _is_word(units[1], "IS") or len(units) > 4:
            return None
        is_negated = _is_word(units[2], "NOT") if len(units) == 4 else False
        condition = _test(column, units[-1]) if len(units) == 3 or is_negated else None
        return negated(condition) if condition is not None and is_negated else condition

    def _compared(self, units: Sequence[Unit]) -> Condition | None:
        signs = [position for position, unit in enumerate(units) if _is_operator(unit)]
        if len(signs) != 1:
            return None
        left, sign, right = units[: signs[0]], units[signs[0]], units[signs[0] + 1 :]
        assert isinstance(sign, Token)
        if len(right) == 2 and _is_word(right[0], "ANY", "ALL"):
            return self._compared_with_array(units, left, sign, right)
        operator = _OPERATORS.get(sign.text)
        if operator is None:
            return None
        found = self._comparison(units, left, operator, right)
        return found or self._comparison(units, right, _MIRRORED[operator], left)

    def _compared_with_array(
        self, units: Sequence[Unit], left: Sequence[Unit], sign: Token, right: Sequence[Unit]
    ) -> Condition | None:
        """`= ANY (...)` and `<> ALL (...)`, but not with a SELECT, of which the rows are not an array."""
        quantifier, array = right
        if not isinstance(array, Group) or not _is_bracketed(array) or not isinstance(quantifier, Token):
            return None
        operator = _OF_ARRAYS.get((sign.text, quantifier.text))
        return self._comparison(units, left, operator, array.units) if operator else None

    def _comparison(
        self, units: Sequence[Unit], left: Sequence[Unit], operator: Operator, right: Sequence[Unit]
    ) -> Condition | None:
        column, cast = self._column(left), ""
        if column is None and len(left) > 2 and _is_cast(left[1]):
            column, cast = self._column(left[:1]), printed([unit for unit in left[2:] if isinstance(unit, Token)])
            if any(isinstance(unit, Group) for unit in left[2:]):
                return None
        if column is None or not is_comparable(column, operator, cast) or not self._is_of_claims(right):
            return None
        return Compared(column, operator, self._text(right), cast, f"({self._text(units)})")

    def _column(self, units: Sequence[Unit]) -> Column | None:
        """Return the column that the units are, with or without parentheses."""
        if len(units) != 1:
            return None
        (unit,) = units
        if isinstance(unit, Group):
            return self._column(unit.units) if unit.bracket == "(" else None
        return self.columns.get(unit.name) if unit.name is not None else None

    def _is_of_claims(self, units: Sequence[Unit]) -> bool:
        if not units:
            return False
        start, end = units[0].start, units[-1].end
        inside = [token for token in self.tokens if start <= token.start < end]
        return is_of_claims(inside, self.functions, self.literals)

    def _opaque(self, units: Sequence[Unit]) -> Opaque:
        return Opaque(f"({self._text(units)})")

    def _text(self, units: Sequence[Unit]) -> str:
        return self.expression[units[0].start : units[-1].end]


_SAME = frozenset(WHOLE_NUMBERS) | frozenset(
    {
        "boolean",
        "bytea",
        "character",
        "date",
        "double precision",
        "interval",
        "numeric",
        "oid",
        "real",
        "text",
        "time with time zone",
        "time without time zone",
        "timestamp with time zone",
        "timestamp without time zone",
        "uuid",
    }
)
"""Types for which operators without a schema are PostgreSQL's own, and mean the same as those of a filter."""
_EQUALITY = frozenset({Operator.EQ, Operator.NEQ, Operator.IN, Operator.NIN})
_WITH_ONE_TEXT = frozenset(WHOLE_NUMBERS) | {"uuid"}
"""Types for which two values are equal exactly when their texts are."""


def is_comparable(column: Column, operator: Operator, cast: str) -> bool:
    """Whether a filter on the column means the same as the comparison.

    A cast to the column's own type comes from a domain. As text, char(n) loses its blanks, and values of most types
    have several texts; varchar is always compared as text.
    """
    type_ = column.type
    if type_.name == "character varying":
        return cast == "text"
    if cast == "text" and type_.name in _WITH_ONE_TEXT:
        return operator in _EQUALITY
    return cast in ("", type_.name) and (type_.name in _SAME or bool(type_.labels))


def _test(column: Column, word: Unit) -> Condition | None:
    """A composite of NULLs is neither NULL nor not NULL. A JSON null is not NULL, but a row version has it as one."""
    if column.type.kind is TypeKind.COMPOSITE or column.type.is_json:
        return None
    if _is_word(word, "NULL"):
        return Settled(Comparison(Field(column), Operator.NULL))
    if column.type.name == "boolean" and _is_word(word, "TRUE", "FALSE"):
        is_known = Settled(Comparison(Field(column), Operator.NNULL))
        return AllOf((is_known, flag(column, is_set=_is_word(word, "TRUE"))))
    return None


def _split(units: Sequence[Unit], word: str) -> list[Sequence[Unit]]:
    parts: list[list[Unit]] = [[]]
    for unit in units:
        if _is_word(unit, word):
            parts.append([])
        else:
            parts[-1].append(unit)
    return list(parts)


def _is_bracketed(group: Group) -> bool:
    """Whether these are parentheses around an expression, not around a SELECT."""
    return group.bracket == "(" and bool(group.units) and not _is_word(group.units[0], "SELECT", "VALUES", "WITH")


def _is_word(unit: Unit, *words: str) -> bool:
    return isinstance(unit, Token) and unit.is_word(*words)


def _is_operator(unit: Unit) -> bool:
    return isinstance(unit, Token) and unit.kind is Kind.OPERATOR


def _is_cast(unit: Unit) -> bool:
    return isinstance(unit, Token) and unit.kind is Kind.CAST
