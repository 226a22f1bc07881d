"""A version of a row, as the comparisons of many filters look at it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias, overload

from cdc_bridge.model.filter import Now
from cdc_bridge.model.instants import now_at
from cdc_bridge.model.row import Row, RowValues
from cdc_bridge.query.comparing import NULL, UNREADABLE, Read


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


class RowVersions(Sequence[RowVersion]):
    """The versions of some rows at one moment, each made when it is first looked at."""

    __slots__ = ("_made", "_rows", "now_us")

    def __init__(self, rows: Sequence[RowValues], now_us: int) -> None:
        self._rows = rows
        self._made: dict[int, RowVersion] = {}
        self.now_us = now_us

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> RowVersion: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[RowVersion]: ...
    def __getitem__(self, position: int | slice) -> RowVersion | Sequence[RowVersion]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        version = self._made.get(position)
        if version is None:
            version = self._made[position] = RowVersion(self._rows[position], self.now_us)
        return version


Judge: TypeAlias = Callable[[RowVersion], bool | None]
"""Judges a row by a filter. None: the database has to say."""
