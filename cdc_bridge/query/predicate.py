"""Compile a filter to a function that judges one version of a row.

It says True or False where memory can tell exactly what a WHERE clause would, and None where only the database can.
Where one part of a filter is unsure the others may still settle it.

Every change is judged by whatever subscriptions may want it, so each comparison becomes the cheapest function that
does, and an operand of a row version is read once for all of them.

Text is compared byte by byte whatever its collation, as in SQL. Only the case of letters depends on the collation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, assert_never

from cdc_bridge.model.catalog import Collation, PgType, TypeKind
from cdc_bridge.model.filter import (
    POSITIVES,
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
from cdc_bridge.query.comparing import BPCHAR, NULL_ELEMENT, Read, characters, elements, equality, order, read_text
from cdc_bridge.query.operands import UNSURE, ColumnReader, Judge, ReadType, RowVersion, operand_reader
from cdc_bridge.query.operators import INSTANTS

__all__ = ["Judge", "RowVersion", "compile_filter"]


def compile_filter(filter_: Filter) -> Judge:
    """Return the function that judges by the filter. It can stand for the filter: no other one has it."""
    judge = _compiled(filter_)
    return judge if judge is not _unsure else lambda _: None


def _compiled(filter_: Filter) -> Judge:
    match filter_:
        case And(parts):
            return _combined(parts, decisive=False)
        case Or(parts):
            return _combined(parts, decisive=True)
        case Comparison():
            return _comparison(filter_)
        case Required(inner):
            return _compiled(inner)
        case Related() | Policy():
            return _unsure
    assert_never(filter_)


def _unsure(_: RowVersion) -> None:
    return None


def _combined(parts: tuple[Filter, ...], *, decisive: bool) -> Judge:
    """Judge by all parts, of which one that is `decisive` settles the whole."""
    judges = sorted(map(_compiled, parts), key=lambda judge: judge is _unsure)
    if len(judges) == 1:
        return judges[0]

    def judge_combined(version: RowVersion) -> bool | None:
        verdict: bool | None = not decisive
        for judge in judges:
            one = judge(version)
            if one is decisive:
                return decisive
            if one is None:
                verdict = None
        return verdict

    return judge_combined


def _comparison(comparison: Comparison) -> Judge:
    asked, operand = POSITIVES.get(comparison.operator, comparison.operator), comparison.operand
    is_negated = asked is not comparison.operator
    if asked is Operator.NULL:
        return _nullness(operand, is_null=not is_negated)
    if asked is Operator.EMPTY:
        # In a char(n) blanks alone are empty.
        is_empty = _is_blank if operand.type.name == BPCHAR else operator.not_
        return _absence(operand, characters, is_empty, is_absent=not is_negated)
    if judge := _compared(comparison, asked, is_negated):
        return judge
    is_unknown = _nullness(operand, is_null=True)
    return lambda version: False if is_unknown(version) else None  # with NULL no comparison is true


def _is_blank(text: str) -> bool:
    return not text.strip(" ")


def _nullness(operand: Operand, *, is_null: bool) -> Judge:
    """A composite of NULLs only IS NULL too, but does not look like it."""
    name = operand.column.name
    if isinstance(operand, Field) and operand.function is None and operand.type.kind is not TypeKind.COMPOSITE:
        return lambda version: version.is_null(name) is is_null
    return _absence(operand, equality, lambda _: False, is_absent=is_null)


def _absence(operand: Operand, of_column: ReadType, is_nothing: Callable[[Any], bool], *, is_absent: bool) -> Judge:
    """Judge whether there is no value, or one that counts as none. Without a reader only NULL can be judged."""
    name, reader = operand.column.name, operand_reader(operand, of_column)
    if reader is None:
        return lambda version: is_absent if version.is_null(name) else None
    source = reader.source

    def judge_absence(version: RowVersion) -> bool | None:
        value = version.read(source)
        return None if value is UNSURE else (value is None or is_nothing(value)) is is_absent

    return judge_absence


class _Test(NamedTuple):
    """The question of an operator about a value and its bound, with how columns are read and the bound is made."""

    holds: Callable[[Any, Any], bool]
    of_column: ReadType
    bound: Callable[[tuple[Any, ...]], Any] = operator.itemgetter(0)


def _folded(type_: PgType, collation: Collation) -> Read | None:
    return _read_folded if characters(type_) and collation.has_plain_ascii else None


def _folded_equality(type_: PgType, collation: Collation) -> Read | None:
    """Blanks at the end of a char(n) do not count."""
    if not collation.is_deterministic or not _folded(type_, collation):
        return None
    return _read_folded_bpchar if type_.name == BPCHAR else _read_folded


def _read_folded(raw: bytes) -> str:
    """Return ASCII text in lower case; past ASCII only PostgreSQL knows it."""
    text = read_text(raw)
    if not text.isascii():
        raise ValueError
    return text.lower()


def _read_folded_bpchar(raw: bytes) -> str:
    return _read_folded(raw).rstrip(" ")


_TESTS = {
    Operator.EQ: _Test(operator.eq, equality),
    Operator.IN: _Test(lambda value, bounds: value in bounds, equality, frozenset),
    Operator.LT: _Test(operator.lt, order),
    Operator.LTE: _Test(operator.le, order),
    Operator.GT: _Test(operator.gt, order),
    Operator.GTE: _Test(operator.ge, order),
    Operator.BETWEEN: _Test(lambda value, ends: ends[0] <= value <= ends[1], order, tuple),
    Operator.IEQ: _Test(operator.eq, _folded_equality),
    Operator.CONTAINS: _Test(operator.contains, characters),
    Operator.ICONTAINS: _Test(operator.contains, _folded),
    Operator.STARTS_WITH: _Test(str.startswith, characters),
    Operator.ISTARTS_WITH: _Test(str.startswith, _folded),
    Operator.ENDS_WITH: _Test(str.endswith, characters),
    Operator.IENDS_WITH: _Test(str.endswith, _folded),
}
_ARRAY_CONTAINS = _Test(lambda value, wanted: NULL_ELEMENT not in wanted and wanted <= value, elements)
"""Arrays contain each other as sets, but none contains a NULL, nor an array that has one."""


def _compared(comparison: Comparison, asked: Operator, is_negated: bool) -> Judge | None:
    """Return None when memory cannot judge by the comparison."""
    operand, is_array = comparison.operand, comparison.operand.type.kind is TypeKind.ARRAY
    test = _ARRAY_CONTAINS if is_array and asked is Operator.CONTAINS else _TESTS.get(asked)
    reader = operand_reader(operand, test.of_column) if test else None
    bounds = reader.bounds(comparison.values) if reader else None
    if test is None or reader is None or bounds is None:
        return None
    holds, source = test.holds, reader.source
    if any(isinstance(each, Now) for each in bounds):
        return _moving(test, source, bounds, is_negated) if operand.type.name in INSTANTS else None
    bound = test.bound(bounds)
    if comparison.operator is Operator.EQ:
        return _equal(source, bound)

    def judge_compared(version: RowVersion) -> bool | None:
        value = version.read(source)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        return holds(value, bound) is not is_negated

    return judge_compared


def _equal(source: ColumnReader, bound: Any) -> Judge:
    """Return a judge of equality. No bound equals None."""

    def judge_equal(version: RowVersion) -> bool | None:
        value = version.read(source)
        return None if value is UNSURE else value == bound

    return judge_equal


def _moving(test: _Test, source: ColumnReader, bounds: tuple[Any, ...], is_negated: bool) -> Judge:
    """Judge by bounds that are other ones at each moment."""

    def judge_moving(version: RowVersion) -> bool | None:
        value = version.read(source)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        bound = test.bound(tuple([version.at(each) if isinstance(each, Now) else each for each in bounds]))
        return test.holds(value, bound) is not is_negated

    return judge_moving
