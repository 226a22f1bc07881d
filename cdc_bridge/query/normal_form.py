"""Filters put together so that what means the same is equal where that costs little, however a client spelled it.

Parts stand in one order, equalities of one operand that are alternatives are one `_in`, and what is decided already is
left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from cdc_bridge.model.catalog import Reference
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    And,
    Comparison,
    Field,
    Filter,
    Literal,
    Operand,
    Operator,
    Or,
    Policy,
    Quantifier,
    Related,
    Required,
    Value,
    conjunction,
    disjunction,
)

_RANKED_VALUES_MAX = 8


def all_of(parts: Iterable[Filter]) -> Filter:
    """Every row that is in all of them."""
    whole = conjunction(*parts)
    return And(tuple(sorted(whole.parts, key=_rank))) if isinstance(whole, And) else whole


def any_of(parts: Iterable[Filter]) -> Filter:
    """Every row that is in one of them."""
    whole = disjunction(*parts)
    if isinstance(whole, Or):
        whole = disjunction(*_joined(whole.parts))
    return Or(tuple(sorted(whole.parts, key=_rank))) if isinstance(whole, Or) else whole


def member_of(operand: Operand, values: Iterable[Value]) -> Filter:
    """`_in`."""
    ordered = in_order(values)
    if not ordered:
        return NOTHING
    return Comparison(operand, Operator.EQ if len(ordered) == 1 else Operator.IN, ordered)


def none_of(operand: Operand, values: Iterable[Value]) -> Filter:
    """`_nin`."""
    ordered = in_order(values)
    return Comparison(operand, Operator.NEQ if len(ordered) == 1 else Operator.NIN, ordered)


def related(reference: Reference, quantifier: Quantifier, condition: Filter) -> Filter:
    """Without the step to the other table where it decides nothing: an outer join always has a row."""
    if condition == NOTHING:
        return EVERYTHING if quantifier is Quantifier.NONE else NOTHING
    if condition == EVERYTHING and quantifier is Quantifier.JOINED:
        return EVERYTHING
    return Related(reference, quantifier, condition)


def in_order(values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(sorted(set(values), key=_value_rank))


def _joined(parts: Iterable[Filter]) -> list[Filter]:
    memberships: dict[Operand, list[tuple[Value, ...]]] = {}
    others: list[Filter] = []
    for part in parts:
        if isinstance(part, Comparison) and part.operator in (Operator.EQ, Operator.IN):
            memberships.setdefault(part.operand, []).append(part.values)
        else:
            others.append(part)
    return [*(member_of(operand, chain(*lists)) for operand, lists in memberships.items()), *others]


def _rank(filter_: Filter) -> tuple[Any, ...]:
    match filter_:
        case Comparison(operand, operator, values):
            return 0, *_operand_rank(operand), operator.value, len(values), _value_ranks(values)
        case Related(reference, quantifier, condition):
            return 1, reference.name, quantifier.value, _rank(condition)
        case And(parts):
            return 2, tuple(map(_rank, parts))
        case Or(parts):
            return 3, tuple(map(_rank, parts))
        case Required(inner):
            return 4, _rank(inner)
        case Policy(table, expression):
            return 5, table, expression


def _operand_rank(operand: Operand) -> tuple[int, str, tuple[str, ...], str]:
    if isinstance(operand, Field):
        return operand.column.number, operand.function.value if operand.function else "", (), ""
    return operand.column.number, "", operand.members, operand.type.name


def _value_ranks(values: tuple[Value, ...]) -> tuple[tuple[bytes, int, int], ...]:
    """Of long lists that are alike in the beginning the order is left open: it would cost too much."""
    return tuple(map(_value_rank, values[:_RANKED_VALUES_MAX]))


def _value_rank(value: Value) -> tuple[bytes, int, int]:
    return (value.raw, 0, 0) if isinstance(value, Literal) else (b"", value.months, value.microseconds)
