"""Judge text by what it begins with, contains or ends with, and arrays by what they contain."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from cdc_bridge.model.catalog import Collation, PgType, TypeKind
from cdc_bridge.model.filter import Comparison, Operand, Operator, Path
from cdc_bridge.query import comparing
from cdc_bridge.query.comparing import Read, Undecided
from cdc_bridge.query.operands import operand_reader
from cdc_bridge.query.row_version import UNSURE, ColumnReader, Judge, RowVersion


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A question about text. `is_folded`: upper and lower case are the same."""

    matches: Callable[[str, str], bool]
    is_folded: bool = False
    is_negated: bool = False


PATTERNS: dict[Operator, _Pattern] = {
    Operator.IEQ: _Pattern(operator.eq, is_folded=True),
    Operator.NIEQ: _Pattern(operator.eq, is_folded=True, is_negated=True),
    Operator.CONTAINS: _Pattern(operator.contains),
    Operator.NCONTAINS: _Pattern(operator.contains, is_negated=True),
    Operator.ICONTAINS: _Pattern(operator.contains, is_folded=True),
    Operator.NICONTAINS: _Pattern(operator.contains, is_folded=True, is_negated=True),
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
    """Return the function that judges by the comparison, or None when memory cannot."""
    question = PATTERNS[comparison.operator]
    if comparison.operand.type.kind is TypeKind.ARRAY:
        return _contained(comparison) if question.matches is operator.contains and not question.is_folded else None
    return _text_pattern(comparison, question)


def _text_pattern(comparison: Comparison, question: _Pattern) -> Judge | None:
    """Compare byte by byte whatever the collation, as SQL does. Only the case of letters depends on the collation."""
    read = _folded_characters if question.is_folded else _characters
    if question.is_folded and not _can_fold(comparison.operand, question):
        return None
    reader = operand_reader(comparison.operand, read)
    if reader is None:
        return None
    try:
        (part,) = reader.bounds(comparison.values)
    except Undecided:
        return None
    if comparison.operand.type.name == comparing.BPCHAR and question.matches is operator.eq:
        return _of_text(_equal_but_for_blanks, part, reader.source, question.is_negated)
    return _of_text(question.matches, part, reader.source, question.is_negated)


def _can_fold(operand: Operand, question: _Pattern) -> bool:
    """Return whether memory knows the case of letters. The collation of text inside JSON is not known."""
    if isinstance(operand, Path):
        return False
    collation = operand.column.collation
    return collation.has_plain_ascii and (collation.is_deterministic or question.matches is not operator.eq)


def _characters(type_: PgType, _: Collation) -> Read | None:
    return comparing.characters(type_)


def _folded_characters(type_: PgType, _: Collation) -> Read | None:
    return _read_folded if comparing.characters(type_) else None


def _read_folded(raw: bytes) -> str:
    """Return ASCII text in lower case; past ASCII only PostgreSQL knows it."""
    text = comparing.read_text(raw)
    if not text.isascii():
        raise Undecided
    return text.lower()


def _equal_but_for_blanks(text: str, other: str) -> bool:
    """Compare values of char(n), in which blanks at the end do not count."""
    return text.rstrip(" ") == other.rstrip(" ")


def _of_text(matches: Callable[[str, str], bool], part: str, source: ColumnReader, is_negated: bool) -> Judge:
    def judge_text(version: RowVersion) -> bool | None:
        text = version.read(source)
        if text is None or text is UNSURE:
            return None if text is UNSURE else False
        return matches(text, part) is not is_negated

    return judge_text


def _contained(comparison: Comparison) -> Judge | None:
    """Judge arrays as sets. No array contains a NULL, nor an array that has one."""
    is_negated = comparison.operator is Operator.NCONTAINS
    reader = operand_reader(comparison.operand, comparing.elements)
    if reader is None:
        return None
    try:
        (wanted,) = reader.bounds(comparison.values)
    except Undecided:
        return None
    source = reader.source
    is_hopeless = comparing.NULL_ELEMENT in wanted

    def judge_contained(version: RowVersion) -> bool | None:
        value = version.read(source)
        if value is None or value is UNSURE:
            return None if value is UNSURE else False
        return (not is_hopeless and wanted <= value) is not is_negated

    return judge_contained
