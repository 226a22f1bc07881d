"""Compile a filter to a function that judges one version of a row.

It says True or False where memory can tell exactly what a WHERE clause would, and None where only the database can.
Where one part of a filter is unsure the others may still settle it.

Every change is judged by whatever subscriptions may want it, so each comparison becomes the cheapest function that
does, and an operand of a row version is read once for all of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias, assert_never

from cdc_bridge.model.catalog import TypeKind
from cdc_bridge.model.filter import (
    And,
    Comparison,
    Field,
    Filter,
    Now,
    Operand,
    Operator,
    Or,
    Policy,
    Related,
    Required,
)
from cdc_bridge.query import comparing
from cdc_bridge.query.comparing import Undecided
from cdc_bridge.query.operands import PATTERNS, operand_reader, pattern
from cdc_bridge.query.row_version import UNSURE, ColumnReader, Judge, RowVersion

__all__ = ["Judge", "RowVersion", "compile_filter"]


def compile_filter(filter_: Filter) -> Judge:
    """Return the function that judges by the filter. It can stand for the filter: no other one has it."""
    judge = _compiled(filter_)
    return judge if judge is not _unsure else lambda _: None


def _compiled(filter_: Filter) -> Judge:
    match filter_:
        case And(parts):
            return _all(_settling_first(parts))
        case Or(parts):
            return _any(_settling_first(parts))
        case Comparison():
            return _comparison(filter_)
        case Required(inner):
            return _compiled(inner)
        case Related() | Policy():
            return _unsure
    assert_never(filter_)


def _settling_first(parts: tuple[Filter, ...]) -> tuple[Judge, ...]:
    return tuple(sorted(map(_compiled, parts), key=lambda judge: judge is _unsure))


def _unsure(_: RowVersion) -> None:
    return None


def _all(judges: tuple[Judge, ...]) -> Judge:
    if len(judges) == 1:
        return judges[0]

    def judge_all(version: RowVersion) -> bool | None:
        verdict: bool | None = True
        for judge in judges:
            one = judge(version)
            if one is False:
                return False
            if one is None:
                verdict = None
        return verdict

    return judge_all


def _any(judges: tuple[Judge, ...]) -> Judge:
    if len(judges) == 1:
        return judges[0]

    def judge_any(version: RowVersion) -> bool | None:
        verdict: bool | None = False
        for judge in judges:
            one = judge(version)
            if one:
                return True
            if one is None:
                verdict = None
        return verdict

    return judge_any


def _comparison(comparison: Comparison) -> Judge:
    match comparison.operator:
        case Operator.NULL | Operator.NNULL:
            return _nullness(comparison.operand, is_null=comparison.operator is Operator.NULL)
        case Operator.EMPTY | Operator.NEMPTY:
            return _emptiness(comparison.operand, is_empty=comparison.operator is Operator.EMPTY)
        case operator_ if operator_ in _COMPARED:
            return _compared(comparison) or _unsure_unless_null(comparison.operand)
        case operator_ if operator_ in PATTERNS:
            return pattern(comparison) or _unsure_unless_null(comparison.operand)
    return _unsure_unless_null(comparison.operand)


def _unsure_unless_null(operand: Operand) -> Judge:
    """Judge by an operator that memory does not know: with NULL no comparison is true."""
    is_null = _nullness(operand, is_null=True)
    return lambda version: False if is_null(version) else None


def _nullness(operand: Operand, *, is_null: bool) -> Judge:
    if isinstance(operand, Field) and operand.function is None:
        return _column_nullness(operand, is_null)
    reader = operand_reader(operand, comparing.equality)
    if reader is None:
        name = operand.column.name
        return lambda version: is_null if version.is_null(name) else None
    source = reader.source

    def judge_nullness(version: RowVersion) -> bool | None:
        value = version.read(source)
        return None if value is UNSURE else (value is None) is is_null

    return judge_nullness


def _column_nullness(field: Field, is_null: bool) -> Judge:
    """Judge by IS NULL. A composite of NULLs only IS NULL too, but does not look like it."""
    name = field.column.name
    if field.column.type.kind is TypeKind.COMPOSITE:
        return lambda version: is_null if version.is_null(name) else None
    if is_null:
        return lambda version: version.is_null(name)
    return lambda version: not version.is_null(name)


def _emptiness(operand: Operand, *, is_empty: bool) -> Judge:
    """Judge by `_empty`. In a char(n) blanks alone are empty."""
    name = operand.column.name
    reader = operand_reader(operand, lambda type_, _: comparing.characters(type_))
    if reader is None:
        return lambda version: is_empty if version.is_null(name) else None
    source = reader.source
    blanks = " " if operand.type.name == comparing.BPCHAR else ""

    def judge_emptiness(version: RowVersion) -> bool | None:
        value = version.read(source)
        return None if value is UNSURE else (value is None or not value.strip(blanks)) is is_empty

    return judge_emptiness


Test: TypeAlias = Callable[[Any, tuple[Any, ...]], bool]

_EQUAL: dict[Operator, Test] = {
    Operator.EQ: lambda value, bounds: value == bounds[0],
    Operator.NEQ: lambda value, bounds: value != bounds[0],
    Operator.IN: lambda value, bounds: value in bounds,
    Operator.NIN: lambda value, bounds: value not in bounds,
}
_ORDERED: dict[Operator, Test] = {
    Operator.LT: lambda value, bounds: value < bounds[0],
    Operator.LTE: lambda value, bounds: value <= bounds[0],
    Operator.GT: lambda value, bounds: value > bounds[0],
    Operator.GTE: lambda value, bounds: value >= bounds[0],
    Operator.BETWEEN: lambda value, bounds: bounds[0] <= value <= bounds[1],
    Operator.NBETWEEN: lambda value, bounds: not bounds[0] <= value <= bounds[1],
}
_COMPARED: dict[Operator, Test] = {**_EQUAL, **_ORDERED}


def _compared(comparison: Comparison) -> Judge | None:
    reader = operand_reader(
        comparison.operand, comparing.equality if comparison.operator in _EQUAL else comparing.order
    )
    if reader is None:
        return None
    try:
        bounds = reader.bounds(comparison.values)
    except Undecided:
        return None
    if not any(isinstance(bound, Now) for bound in bounds):
        return _with_fixed(comparison.operator, reader.source, bounds)
    if comparison.operand.type.name not in _INSTANTS:
        return None
    return _with_moving(_COMPARED[comparison.operator], reader.source, bounds)


_INSTANTS = frozenset({"date", "timestamp without time zone", "timestamp with time zone"})
"""The types that `$NOW` compares with; all are read as microseconds since 1970."""


def _with_moving(test: Test, source: ColumnReader, bounds: tuple[Any, ...]) -> Judge:
    def judge_moving(version: RowVersion) -> bool | None:
        value = version.read(source)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        return test(value, tuple([version.at(bound) if isinstance(bound, Now) else bound for bound in bounds]))

    return judge_moving


def _with_fixed(operator_: Operator, source: ColumnReader, bounds: tuple[Any, ...]) -> Judge:
    match operator_:
        case Operator.EQ:
            return _equal(source, bounds[0])
        case Operator.IN:
            return _among(source, frozenset(bounds))
        case Operator.NIN:
            return _not_among(source, frozenset(bounds))
        case Operator.BETWEEN | Operator.NBETWEEN:
            return _between(source, *bounds, is_inside=operator_ is Operator.BETWEEN)
    return _by(_BY[operator_], source, bounds[0])


_BY: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.NEQ: operator.ne,
    Operator.LT: operator.lt,
    Operator.LTE: operator.le,
    Operator.GT: operator.gt,
    Operator.GTE: operator.ge,
}


def _equal(source: ColumnReader, bound: Any) -> Judge:
    """No bound equals None."""

    def judge_equal(version: RowVersion) -> bool | None:
        value = version.read(source)
        return None if value is UNSURE else value == bound

    return judge_equal


def _among(source: ColumnReader, bounds: frozenset[Any]) -> Judge:
    def judge_among(version: RowVersion) -> bool | None:
        value = version.read(source)
        return None if value is UNSURE else value in bounds

    return judge_among


def _not_among(source: ColumnReader, bounds: frozenset[Any]) -> Judge:
    def judge_not_among(version: RowVersion) -> bool | None:
        value = version.read(source)
        return None if value is UNSURE else value is not None and value not in bounds

    return judge_not_among


def _between(source: ColumnReader, low: Any, high: Any, *, is_inside: bool) -> Judge:
    def judge_between(version: RowVersion) -> bool | None:
        value = version.read(source)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        return (low <= value <= high) is is_inside

    return judge_between


def _by(compare: Callable[[Any, Any], bool], source: ColumnReader, bound: Any) -> Judge:
    def judge_by(version: RowVersion) -> bool | None:
        value = version.read(source)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        return compare(value, bound)

    return judge_by
