"""Read what a filter compares: a column, a function of it (year, number of elements), or a place in a document.

Text is judged by what it begins with, contains or ends with, arrays by what they contain. As in `comparing`, a value is
read exactly or not at all. It may also be None: PostgreSQL's NULL.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from cdc_bridge.model import instants
from cdc_bridge.model.catalog import Collation, PgType, TypeKind
from cdc_bridge.model.filter import Comparison, Function, Literal, Operand, Operator, Path, Value
from cdc_bridge.model.instants import DAY_US, HOUR_US, SECOND_US
from cdc_bridge.model.row import split_array, split_object
from cdc_bridge.query import comparing
from cdc_bridge.query.comparing import NULL, READERS_MAX, Read, Undecided, order, read_numeric, read_text
from cdc_bridge.query.row_version import UNSURE, ColumnReader, Judge, RowVersion

NUMBER_BYTES_MAX = 10_000
"""PostgreSQL may refuse numbers that are longer, or that an exponent makes longer."""

Part: TypeAlias = Callable[[int, int], int]
"""Takes days since 1970 and the microseconds of the day."""


OF_PATHS = Collation(has_plain_ascii=False)
"""The database's own collation. Nothing is known of it but that equal text has equal bytes."""


@dataclass(frozen=True, slots=True)
class OperandReader:
    """Reads an operand of a row, and the literals that it is compared with."""

    source: ColumnReader
    literal: Read

    def bounds(self, values: tuple[Value, ...]) -> tuple[Any, ...]:
        """Read the values. `$NOW` stays what it is. Raises `Undecided`."""
        return tuple(self.literal(value.raw) if isinstance(value, Literal) else value for value in values)


def operand_reader(operand: Operand, of_column: Callable[[PgType, Collation], Read | None]) -> OperandReader | None:
    """Return how to read an operand, or None when memory cannot.

    `of_column` reads a column of a type; the results of functions and what is in JSON have readers of their own.
    """
    column = operand.column
    read: Read | None
    if isinstance(operand, Path):
        read, literal = path(operand), of_column(operand.type, OF_PATHS)
        if literal is not None and operand.type.name == "text":
            literal = read_text  # as `path` gives it, whatever a column of text would be read as
    elif operand.function is not None:
        read, literal = function(operand.function, column.type), of_column(operand.type, OF_PATHS)
        if literal is not None:
            literal = order(operand.type, OF_PATHS)  # functions give integers
    else:
        read = literal = of_column(column.type, column.collation)
    return None if read is None or literal is None else OperandReader(ColumnReader(column.name, read), literal)


@lru_cache(READERS_MAX)
def function(function_: Function, type_: PgType) -> Read | None:
    """Return how to read the result of a function, or None when memory cannot."""
    if function_ is Function.COUNT:
        if type_.kind is TypeKind.ARRAY:
            return _cardinality
        return _json_length if type_.is_json else None
    part = _PARTS[function_]
    if type_.name in ("time without time zone", "time with time zone"):
        return _clock_part(part) if function_ in _OF_CLOCK else None
    if type_.name == "date":
        return _part_of(instants.read_date, part) if function_ not in _OF_CLOCK else None
    read = _STAMPS.get(type_.name)
    return _part_of(read, part) if read else None


def path(path_: Path) -> Read | None:
    """Return how to read a place in a JSON document, as text or as a number, or None when memory cannot."""
    if not path_.column.type.is_json or not path_.members:
        return None
    is_jsonb = path_.column.type.name == "jsonb"
    match path_.type.name:
        case "text":
            return _text_at(path_.members, is_jsonb)
        case "numeric":
            return _number_at(path_.members, is_jsonb)
    return None


def _part_of(read: Callable[[bytes], instants.Instant], part: Part) -> Read:
    """Return how to read a part of an instant. An infinite one has none."""

    def read_part(raw: bytes) -> int | None:
        try:
            instant = read(raw)
        except (ValueError, OverflowError) as error:
            raise Undecided from error
        return part(*divmod(instant, DAY_US)) if isinstance(instant, int) else None

    return read_part


def _clock_part(part: Part) -> Read:
    """Return how to read a part of a time. Midnight at the end of a day is its hour 24."""

    def read_clock_part(raw: bytes) -> int:
        try:
            return part(0, instants.read_clock(raw))
        except ValueError as error:
            raise Undecided from error

    return read_clock_part


def _year(day: int, _: int) -> int:
    """Return the year. There is none between -1, which is 1 BC, and 1."""
    year = instants.civil(day)[0]
    return year if year > 0 else year - 1


def _week(day: int, _: int) -> int:
    """Return the ISO week, which belongs to the year that has its Thursday."""
    thursday = day - (day + 3) % 7 + 3
    return (thursday - instants.day_number(instants.civil(thursday)[0], 1, 1)) // 7 + 1


_STAMPS: dict[str, Callable[[bytes], instants.Instant]] = {
    "timestamp without time zone": instants.read_timestamp,
    "timestamp with time zone": instants.read_timestamptz,
}
_OF_CLOCK = frozenset({Function.HOUR, Function.MINUTE, Function.SECOND})
_PARTS: dict[Function, Part] = {
    Function.YEAR: _year,
    Function.MONTH: lambda day, _: instants.civil(day)[1],
    Function.WEEK: _week,
    Function.DAY: lambda day, _: instants.civil(day)[2],
    Function.WEEKDAY: lambda day, _: (day + 4) % 7,
    Function.HOUR: lambda _, clock_us: clock_us // HOUR_US,
    Function.MINUTE: lambda _, clock_us: clock_us // (60 * SECOND_US) % 60,
    Function.SECOND: lambda _, clock_us: clock_us // SECOND_US % 60,
}


def _json_length(raw: bytes) -> int | None:
    return len(_items(raw)) if raw[:1] == b"[" else None


def _cardinality(raw: bytes) -> int:
    """Count the elements. An array of several dimensions cannot be told from one of JSON arrays."""
    items = _items(raw)
    if raw[:1] != b"[" or any(item[:1] == b"[" for item in items):
        raise Undecided
    return len(items)


@lru_cache(READERS_MAX)
def _text_at(members: tuple[str, ...], is_jsonb: bool) -> Read:
    def read_text_at(raw: bytes) -> str | None:
        found = _at(raw, members, is_jsonb)
        if found is None:
            return None
        return read_text(found) if found[:1] == b'"' else found.decode()

    return read_text_at


@lru_cache(READERS_MAX)
def _number_at(members: tuple[str, ...], is_jsonb: bool) -> Read:
    def read_number_at(raw: bytes) -> Any:
        found = _at(raw, members, is_jsonb)
        if found is None or found[:1] not in b"-0123456789":
            return None
        if len(found) > NUMBER_BYTES_MAX or _LONG_EXPONENT.search(found):
            raise Undecided
        return read_numeric(found)

    return read_number_at


_LONG_EXPONENT = re.compile(rb"[eE][+-]?0*[1-9][0-9]{3}")
_INDEX = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_ODD_INDEX = re.compile(r"\s*[+-]?[0-9]+")


# A json (not a jsonb) may hold what no text can; whether anything is found beside it is for PostgreSQL to say.
_UNREADABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def _at(raw: bytes, members: tuple[str, ...], is_jsonb: bool) -> bytes | None:
    """Return what `#>` finds, or None; for null too."""
    if not is_jsonb and _UNREADABLE.search(raw):
        raise Undecided
    for position, member in enumerate(members):
        if raw[:1] == b"{":
            if not is_jsonb and position < len(members) - 1:
                _refuse_repeated(raw)
            found = _members(raw).get(member)
        else:
            found = _item(_items(raw), member) if raw[:1] == b"[" else None
        if found is None:
            return None
        raw = bytes(found).strip()
    return None if raw == NULL else raw


def _item(items: list[bytes], member: str) -> bytes | None:
    """Return an element of an array. A negative position counts from the end."""
    if not _INDEX.fullmatch(member):
        if _ODD_INDEX.fullmatch(member):
            raise Undecided
        return None
    index = int(member)
    return items[index] if -len(items) <= index < len(items) else None


def _items(raw: bytes) -> list[bytes]:
    try:
        return [bytes(item).strip() for item in split_array(raw)]
    except ValueError as error:
        raise Undecided from error


def _members(raw: bytes) -> Any:
    try:
        return split_object(raw)
    except ValueError as error:
        raise Undecided from error


def _refuse_repeated(raw: bytes) -> None:
    """Raise `Undecided` for a name that comes twice: PostgreSQL's paths take the last one only at their end."""
    try:
        json.loads(raw, object_pairs_hook=_unrepeated, parse_int=str)
    except (ValueError, RecursionError) as error:
        raise Undecided from error


def _unrepeated(members: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in members}) < len(members):
        raise Undecided


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
