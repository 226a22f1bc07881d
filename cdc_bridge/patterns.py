"""Questions about text: what it begins with, what it contains; and what an array contains."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cdc_bridge import comparing
from cdc_bridge.catalog import TypeKind
from cdc_bridge.comparing import Undecided
from cdc_bridge.filter import Comparison, Operand, Operator, Path
from cdc_bridge.image import UNSURE, Image, Judge, Reading
from cdc_bridge.operands import OF_PATHS
from cdc_bridge.operands import way as way_of


def _within(text: str, part: str) -> bool:
    return part in text


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A question about text. `is_folded`: upper and lower case are the same to it."""

    matches: Callable[[str, str], bool]
    is_folded: bool = False
    is_negated: bool = False


PATTERNS: dict[Operator, _Pattern] = {
    Operator.IEQ: _Pattern(operator.eq, is_folded=True),
    Operator.NIEQ: _Pattern(operator.eq, is_folded=True, is_negated=True),
    Operator.CONTAINS: _Pattern(_within),
    Operator.NCONTAINS: _Pattern(_within, is_negated=True),
    Operator.ICONTAINS: _Pattern(_within, is_folded=True),
    Operator.NICONTAINS: _Pattern(_within, is_folded=True, is_negated=True),
    Operator.STARTS_WITH: _Pattern(str.startswith),
    Operator.NSTARTS_WITH: _Pattern(str.startswith, is_negated=True),
    Operator.ISTARTS_WITH: _Pattern(str.startswith, is_folded=True),
    Operator.NISTARTS_WITH: _Pattern(str.startswith, is_folded=True, is_negated=True),
    Operator.ENDS_WITH: _Pattern(str.endswith),
    Operator.NENDS_WITH: _Pattern(str.endswith, is_negated=True),
    Operator.IENDS_WITH: _Pattern(str.endswith, is_folded=True),
    Operator.NIENDS_WITH: _Pattern(str.endswith, is_folded=True, is_negated=True),
}


def pattern(comparison: Comparison) -> Judge | None:
    """The function that judges by it. None: memory cannot."""
    question = PATTERNS[comparison.operator]
    if comparison.operand.type.kind is TypeKind.ARRAY:
        return _contained(comparison) if question.matches is _within and not question.is_folded else None
    return _text_pattern(comparison, question)


def _text_pattern(comparison: Comparison, question: _Pattern) -> Judge | None:
    """Byte by byte whatever the collation, as in SQL. But the case of letters is the collation's affair."""
    way = way_of(comparison.operand, lambda type_, _: comparing.characters(type_))
    if way is None:
        return None
    try:
        (part,) = way.bounds(comparison.values)
    except Undecided:
        return None
    if not question.is_folded:
        return _of_text(_exact(question.matches, part), way.reading, question.is_negated)
    is_unfilled = comparison.operand.type.name == comparing.BPCHAR and question.matches is operator.eq
    if not part.isascii() or not _can_fold(comparison.operand, question):
        return None
    return _of_text(_folded(question.matches, part, is_unfilled=is_unfilled), way.reading, question.is_negated)


def _can_fold(operand: Operand, question: _Pattern) -> bool:
    collation = OF_PATHS if isinstance(operand, Path) else operand.column.collation
    return collation.has_plain_ascii and (collation.is_deterministic or question.matches is not operator.eq)


TextTest: TypeAlias = Callable[[str], bool | None]


def _exact(matches: Callable[[str, str], bool], part: str) -> TextTest:
    return lambda text: matches(text, part)


def _folded(matches: Callable[[str, str], bool], part: str, *, is_unfilled: bool) -> TextTest:
    """Past ASCII nobody but PostgreSQL knows. `is_unfilled`: the blanks that fill a char(n) do not count."""
    lower = part.lower()
    if is_unfilled:
        unfilled = lower.rstrip(" ")
        return lambda text: matches(text.rstrip(" ").lower(), unfilled) if text.isascii() else None
    return lambda text: matches(text.lower(), lower) if text.isascii() else None


def _of_text(test: TextTest, reading: Reading, is_negated: bool) -> Judge:
    def judge_text(image: Image) -> bool | None:
        value = image.read(reading)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        verdict = test(value)
        return verdict if verdict is None else verdict is not is_negated

    return judge_text


def _contained(comparison: Comparison) -> Judge | None:
    """Arrays contain arrays as sets do. A NULL is in none of them, and no array with one in another."""
    is_negated = comparison.operator is Operator.NCONTAINS
    way = way_of(comparison.operand, comparing.elements)
    if way is None:
        return None
    try:
        (wanted,) = way.bounds(comparison.values)
    except Undecided:
        return None
    reading = way.reading
    is_hopeless = comparing.NULL_ELEMENT in wanted

    def judge_contained(image: Image) -> bool | None:
        value = image.read(reading)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        return (not is_hopeless and wanted <= value) is not is_negated

    return judge_contained
