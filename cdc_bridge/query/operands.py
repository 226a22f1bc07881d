"""Read what filters compare in a row: a column, a function of it (year, number of elements), or a place in a document.

As in `comparing`, a value is read exactly or not at all. It may also be None: PostgreSQL's NULL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from cdc_bridge.model import instants
from cdc_bridge.model.catalog import Collation, PgType, TypeKind
from cdc_bridge.model.filter import INTEGER, Function, Literal, Now, Operand, Path, Value
from cdc_bridge.model.instants import DAY_US, HOUR_US, SECOND_US, now_at
from cdc_bridge.model.row import Row, RowValues, split_array, split_object
from cdc_bridge.query import operators
from cdc_bridge.query.comparing import NULL, ORDERED, READERS_MAX, UNREADABLE, Read, read_numeric, read_text


class ColumnReader(NamedTuple):
    """A column and how its values are read; equal readers read once."""

    column: str
    read: Read


UNSURE: Any = object()
"""Read where memory cannot tell. NULL is read as None."""

_UNREAD: Any = object()


def raw_value(row: RowValues, column: str) -> bytes | None:
    """Return None for NULL, and for a column that is younger than the row. (A `json` may have blanks around it.)"""
    value = row.get(column)
    if value is None:
        return None
    raw = bytes(value).strip()
    return None if raw == NULL else raw


def read_value(read: Read, raw: bytes | None) -> Any:
    """Return None for NULL, UNSURE, or a value to compare."""
    if raw is None:
        return None
    try:
        return read(raw)
    except UNREADABLE:
        return UNSURE


class RowVersion:
    """A row as filters look at it at one moment, in microseconds since 1970. What has been read of it is kept."""

    __slots__ = ("_known", "_row", "now_us")

    def __init__(self, row: RowValues, now_us: int) -> None:
        self._row = row.columns if isinstance(row, Row) else row
        self._known: dict[Hashable, Any] = {}
        self.now_us = now_us

    def is_null(self, column: str) -> bool:
        return self._raw(column) is None

    def read(self, reader: ColumnReader) -> Any:
        """Return None for NULL, UNSURE, or a value to compare."""
        value = self._known.get(reader, _UNREAD)
        if value is _UNREAD:
            column, read = reader
            value = self._known[reader] = read_value(read, self._raw(column))
        return value

    def at(self, now: Now) -> int:
        """Return what `$NOW` is for this row. To move it by months takes a while."""
        if not now.months:
            return now_at(now, self.now_us)
        instant = self._known.get(now)
        if instant is None:
            instant = self._known[now] = now_at(now, self.now_us)
        return int(instant)

    def _raw(self, column: str) -> bytes | None:
        raw = self._known.get(column, _UNREAD)
        if raw is _UNREAD:
            raw = self._known[column] = raw_value(self._row, column)
        return raw  # type: ignore[no-any-return]


class RowVersions(dict[int, RowVersion]):
    """The versions of some rows at one moment by their positions, each made when it is first looked at."""

    __slots__ = ("_now_us", "_rows")

    def __init__(self, rows: Sequence[RowValues], now_us: int) -> None:
        super().__init__()
        self._rows = rows
        self._now_us = now_us

    def __missing__(self, position: int) -> RowVersion:
        version = self[position] = RowVersion(self._rows[position], self._now_us)
        return version


Judge: TypeAlias = Callable[[RowVersion], bool | None]
"""Judges a row by a filter. None: the database has to say."""


# --- operands ---

NUMBER_BYTES_MAX = 10_000
"""PostgreSQL may refuse numbers that are longer, or that an exponent makes longer."""

Part: TypeAlias = Callable[[int, int], int]
"""Takes days since 1970 and the microseconds of the day."""


OF_PATHS = Collation(has_plain_ascii=False)
"""The database's own collation. Nothing is known of it but that equal text has equal bytes."""


ReadType: TypeAlias = Callable[[PgType, Collation], Read | None]
"""Returns how to read columns of a type, or None."""


class OperandReader(NamedTuple):
    """Reads an operand of a row, and the literals that it is compared with."""

    source: ColumnReader
    literal: Read

    def bounds(self, values: tuple[Value, ...]) -> tuple[Any, ...] | None:
        """Read the values, or return None when memory cannot. `$NOW` stays what it is."""
        try:
            return tuple([self.literal(value.raw) if isinstance(value, Literal) else value for value in values])
        except UNREADABLE:
            return None


def operand_reader(operand: Operand, of_column: ReadType) -> OperandReader | None:
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
        read = function(operand.function, column.type)
        literal = int if of_column(INTEGER, OF_PATHS) else None
    else:
        read = literal = of_column(column.type, column.collation)
    return None if read is None or literal is None else OperandReader(ColumnReader(column.name, read), literal)


@lru_cache(READERS_MAX)
def function(function_: Function, type_: PgType) -> Read | None:
    """Return how to read the result of a function, or None when memory cannot."""
    if function_ not in operators.functions(type_):
        return None
    if function_ is Function.COUNT:
        return _cardinality if type_.kind is TypeKind.ARRAY else _json_length
    part = _PARTS[function_]
    if type_.name in operators.TIMES:  # midnight at the end of a day is its hour 24
        return lambda raw: part(0, instants.read_clock(raw))
    read = ORDERED[type_.name]

    def read_part(raw: bytes) -> int | None:
        """An infinite instant has no parts."""
        instant = read(raw)
        return part(*divmod(instant, DAY_US)) if isinstance(instant, int) else None

    return read_part


def path(path_: Path) -> Read | None:
    """Return how to read a place in a JSON document, as text or as a number, or None when memory cannot."""
    if not path_.column.type.is_json or not path_.members:
        return None
    return _reader_at(path_.members, path_.column.type.name == "jsonb", path_.type.name == "text")


def _year(day: int, _: int) -> int:
    """Return the year. There is none between -1, which is 1 BC, and 1."""
    year = instants.civil(day)[0]
    return year if year > 0 else year - 1


def _week(day: int, _: int) -> int:
    """Return the ISO week, which belongs to the year that has its Thursday."""
    thursday = day - (day + 3) % 7 + 3
    return (thursday - instants.day_number(instants.civil(thursday)[0], 1, 1)) // 7 + 1


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
        raise ValueError
    return len(items)


@lru_cache(READERS_MAX)
def _reader_at(members: tuple[str, ...], is_jsonb: bool, is_text: bool) -> Read:
    def read_text_at(raw: bytes) -> str | None:
        found = _at(raw, members, is_jsonb)
        if found is None:
            return None
        return read_text(found) if found[:1] == b'"' else found.decode()

    def read_number_at(raw: bytes) -> Any:
        found = _at(raw, members, is_jsonb)
        if found is None or found[:1] not in b"-0123456789":
            return None
        if len(found) > NUMBER_BYTES_MAX or _LONG_EXPONENT.search(found):
            raise ValueError
        return read_numeric(found)

    return read_text_at if is_text else read_number_at


_LONG_EXPONENT = re.compile(rb"[eE][+-]?0*[1-9][0-9]{3}")
_INDEX = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_ODD_INDEX = re.compile(r"\s*[+-]?[0-9]+")


# A json (not a jsonb) may hold what no text can; whether anything is found beside it is for PostgreSQL to say.
_IMPOSSIBLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def _at(raw: bytes, members: tuple[str, ...], is_jsonb: bool) -> bytes | None:
    """Return what `#>` finds, or None; for null too."""
    if not is_jsonb and _IMPOSSIBLE.search(raw):
        raise ValueError
    for position, member in enumerate(members):
        if raw[:1] == b"{":
            if not is_jsonb and position < len(members) - 1:
                json.loads(raw, object_pairs_hook=_refuse_repeated, parse_int=str)
            found = split_object(raw).get(member)
        else:
            found = _item(_items(raw), member) if raw[:1] == b"[" else None
        if found is None:
            return None
        raw = bytes(found).strip()
    return None if raw == NULL else raw


def _item(items: list[bytes], member: str) -> Any:
    """Return an element of an array. A negative position counts from the end."""
    if not _INDEX.fullmatch(member):
        if _ODD_INDEX.fullmatch(member):
            raise ValueError
        return None
    index = int(member)
    return items[index] if -len(items) <= index < len(items) else None


def _items(raw: bytes) -> list[bytes]:
    return [bytes(item).strip() for item in split_array(raw)]


def _refuse_repeated(members: list[tuple[str, Any]]) -> None:
    """Raise for a name that comes twice: PostgreSQL's paths take the last one only at their end."""
    if len(dict(members)) < len(members):
        raise ValueError
