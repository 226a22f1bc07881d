"""A policy's condition for somebody whose claims are known: a filter, as far as memory can judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import assert_never

from cdc_bridge.access.conditions import WHOLE_NUMBERS, AllOf, AnyOf, Compared, Condition, Constant, Opaque, Settled
from cdc_bridge.model.catalog import Column
from cdc_bridge.model.evaluation import ClaimValue
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    Comparison,
    Field,
    Filter,
    Literal,
    Operator,
    conjunction,
    disjunction,
)
from cdc_bridge.model.row import split_array
from cdc_bridge.query.comparing import NULL
from cdc_bridge.query.normal_form import member_of, none_of


def needed(condition: Condition) -> tuple[str, ...]:
    """The expressions of claims that have to be evaluated, each once."""
    return tuple(dict.fromkeys(_needed(condition)))


def opaque_parts(condition: Condition) -> Iterator[str]:
    """The parts that PostgreSQL has to evaluate, whatever the claims are."""
    match condition:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from opaque_parts(part)
        case Opaque(text):
            yield text


def to_filter(condition: Condition, values: Mapping[str, ClaimValue], opaque: Callable[[str], Filter]) -> Filter:
    """The rows of which `condition` is true.

    `opaque` makes a filter of a condition that PostgreSQL has to evaluate: of what was not understood, and of what has
    no value here, as when evaluating it failed, or one of another type than the column's.
    """
    match condition:
        case AllOf(parts):
            return conjunction(*(to_filter(part, values, opaque) for part in parts))
        case AnyOf(parts):
            return disjunction(*(to_filter(part, values, opaque) for part in parts))
        case Settled(comparison):
            return comparison
        case Compared(expression=expression, text=text):
            found = _compared(condition, values[expression]) if expression in values else None
            return opaque(text) if found is None else found
        case Constant(expression):
            value = values.get(expression)
            if value is None or value.type != "boolean":
                return opaque(expression)
            return EVERYTHING if value.raw == b"true" else NOTHING
        case Opaque(text):
            return opaque(text)
    assert_never(condition)


def _needed(condition: Condition) -> Iterator[str]:
    match condition:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from _needed(part)
        case Compared(expression=expression) | Constant(expression):
            yield expression


def _compared(compared: Compared, value: ClaimValue) -> Filter | None:
    """None: it is not certain that a filter would say the same."""
    is_array = compared.operator in (Operator.IN, Operator.NIN)
    if is_array and not value.type.endswith("[]"):
        return None
    reads = _reading(compared, value.type.removesuffix("[]") if is_array else value.type)
    if reads is None:
        return None
    if value.raw is None or value.raw == NULL:
        return NOTHING
    if is_array:
        return _among(compared, value.raw, reads)
    literal = reads(value.raw)
    if compared.operator in (Operator.EQ, Operator.NEQ):
        return _member(compared.column, compared.operator, [literal])
    return None if literal is None else Comparison(Field(compared.column), compared.operator, (literal,))


def _among(compared: Compared, raw: bytes, reads: Reads) -> Filter | None:
    """`= ANY` or `<> ALL`. Arrays of several dimensions are PostgreSQL's affair."""
    items = [bytes(item).strip() for item in split_array(raw)]
    if any(item[:1] == b"[" for item in items):
        return None
    literals = [reads(item) for item in items if item != NULL]
    if compared.operator is Operator.IN:
        return _member(compared.column, Operator.EQ, literals)
    if not items:
        return EVERYTHING
    return NOTHING if NULL in items else _member(compared.column, Operator.NEQ, literals)


def _member(column: Column, operator: Operator, literals: Iterable[Literal | None]) -> Filter:
    """The column is one of these (EQ), or none of them (NEQ). None is what no value of its type is equal to."""
    known = [each for each in literals if each is not None]
    if operator is Operator.EQ:
        return member_of(Field(column), known)
    return none_of(Field(column), known) if known else Comparison(Field(column), Operator.NNULL)


Reads = Callable[[bytes], Literal | None]
"""A value as one of the column; None where no value of the column is equal to it."""

_WHOLE_TEXT = re.compile(rb'"(0|-?[1-9][0-9]{0,18})"')
_UUID_TEXT = re.compile(rb'"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"')


def _reading(compared: Compared, type_: str) -> Reads | None:
    """How a value of the type `type_` is read; None where that is not what the column is compared as."""
    name = compared.column.type.name
    if compared.cast != "text" or name == "text":
        if name in WHOLE_NUMBERS and type_ in WHOLE_NUMBERS:
            return lambda raw: _whole(name, raw)
        return Literal if type_ == name else None
    if type_ != "text":
        return None
    if name == "uuid":
        return lambda raw: Literal(raw) if _UUID_TEXT.fullmatch(raw) else None
    return (lambda raw: _printed_whole(name, raw)) if name in WHOLE_NUMBERS else Literal


def _printed_whole(name: str, raw: bytes) -> Literal | None:
    found = _WHOLE_TEXT.fullmatch(raw)
    return _whole(name, found[1]) if found else None


def _whole(name: str, raw: bytes) -> Literal | None:
    end = WHOLE_NUMBERS[name]
    return Literal(raw) if -end <= int(raw) < end else None
