"""The condition of a policy as far as it is understood: what `parser` makes of its text.

What compares a column with claims or literals can be decided in memory, once PostgreSQL has said what those are worth
for somebody. What is not understood with certainty is `Opaque`: PostgreSQL has to evaluate it for each row. A row is
seen where the whole is true. False and NULL are alike at the top, and so they are beneath ANDs and ORs; a NOT is
pushed down to comparisons, where it turns the operator round and leaves NULL what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from cdc_bridge.model.catalog import Column
from cdc_bridge.model.filter import Comparison, Field, Literal, Operator

WHOLE_NUMBERS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
"""Types that are compared with each other as what they are, and the first number that each does not have."""


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """A column, compared with what `expression` is worth. With IN and NIN it is an array, as in `= ANY` and `<> ALL`.

    `cast` is the type as which the column is compared; empty where it is compared as it is. `text` is all of it.
    """

    column: Column
    operator: Operator
    expression: str
    cast: str
    text: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A comparison that needs no value: whether a column is NULL, or what a flag says."""

    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Constant:
    """It is the same for all rows."""

    expression: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """Only PostgreSQL knows."""

    text: str


Condition: TypeAlias = AllOf | AnyOf | Compared | Settled | Constant | Opaque


def flag(column: Column, *, is_set: bool) -> Settled:
    """It says true, or it says false."""
    return Settled(Comparison(Field(column), Operator.EQ, (_TRUE if is_set else _FALSE,)))


def negated(condition: Condition) -> Condition:
    """What is true where `condition` is false."""
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
_TRUE, _FALSE = Literal(b"true"), Literal(b"false")


def _negated_comparison(comparison: Comparison) -> Comparison:
    """A flag is the other one, or NULL."""
    if comparison.operator is Operator.EQ:
        return replace(comparison, values=(_FALSE if comparison.values == (_TRUE,) else _TRUE,))
    return replace(comparison, operator=_NEGATED[comparison.operator])
