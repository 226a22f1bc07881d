"""One image of a row, as the comparisons of many filters look at it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias, overload

from cdc_bridge.model.filter import Now
from cdc_bridge.model.row import RowValues
from cdc_bridge.query import moment
from cdc_bridge.query.comparing import NULL, Read, Undecided

Aspect: TypeAlias = tuple[str, Read]
"""A column and how it is read; equal ones are read once."""

UNSURE: Any = object()
"""What is read where memory cannot tell. NULL is read as None."""

_UNREAD: Any = object()


class RowVersion:
    """One image of a row at one moment, in microseconds since 1970. It keeps what has been read of it."""

    __slots__ = ("_known", "_row", "now_us")

    def __init__(self, row: RowValues, now_us: int) -> None:
        self._row = row
        self._known: dict[Hashable, Any] = {}
        self.now_us = now_us

    def is_null(self, name: str) -> bool:
        return self._raw(name) is None

    def read(self, aspect: Aspect) -> Any:
        """None for NULL, UNSURE, or a value to compare."""
        value = self._known.get(aspect, _UNREAD)
        if value is _UNREAD:
            value = self._known[aspect] = self._read(*aspect)
        return value

    def at(self, now: Now) -> int:
        """What `$NOW` is for this image. To move it by months takes a while."""
        if not now.months:
            return moment.at(now, self.now_us)
        instant = self._known.get(now)
        if instant is None:
            instant = self._known[now] = moment.at(now, self.now_us)
        return int(instant)

    def _read(self, name: str, read: Read) -> Any:
        raw = self._raw(name)
        if raw is None:
            return None
        try:
            return read(raw)
        except Undecided:
            return UNSURE

    def _raw(self, name: str) -> bytes | None:
        """None for NULL, and for a column that is younger than the image. (A `json` may have blanks around it.)"""
        raw = self._known.get(name, _UNREAD)
        if raw is _UNREAD:
            value = self._row.get(name)
            raw = None if value is None else bytes(value).strip()
            raw = self._known[name] = None if raw == NULL else raw
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
"""None: the database has to say."""
