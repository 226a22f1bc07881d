"""Conditions that a row has to meet for a filter to match it: what the filter is found by in the index.

A filter has a disjunction of keys, each of which the index looks up: an operand is one of these values (or NULL), or it
lies in this interval. A row that meets no key certainly does not match; of a row that meets one, the filter itself has
to say. A filter without keys has to be evaluated for every row.

For a conjunction the keys of any of its parts will do, so it takes those that cost least. A disjunction needs the keys
of all its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, assert_never

from cdc_bridge.engine.compact_dict import CompactDict, ItemSet, with_item, without_item
from cdc_bridge.engine.intervals import Interval, IntervalTree
from cdc_bridge.model.catalog import TypeKind
from cdc_bridge.model.filter import (
    And,
    Comparison,
    Field,
    Filter,
    Literal,
    Operand,
    Operator,
    Or,
    Policy,
    Related,
    Required,
    Value,
)
from cdc_bridge.model.row import Row
from cdc_bridge.query import comparing
from cdc_bridge.query.operands import UNSURE, ColumnReader, OperandReader, operand_reader, raw_value, read_value

# The cost of an equal value is the number of groups that share it. The cost of an interval depends on future
# rows. These guesses say from which number on an interval is better than a value that many groups share.
COST_OF_READER = 8  # one more value to read of every row
COST_OF_BOUNDED = 64
COST_OF_HALF_OPEN = 1024
COST_OF_NULL = 4096

Item = TypeVar("Item", bound=Hashable)

_FIRST = (0,)
"""The only position of a single row."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value is one of these. NULL is None."""

    reader: ColumnReader
    values: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """The value compares as in SQL, and lies in the interval."""

    reader: ColumnReader
    interval: Interval


IndexKey: TypeAlias = OneOf | Within
IndexKeys: TypeAlias = tuple[IndexKey, ...]
"""The keys of a filter, of which a matching row has one. If there are none, no row matches."""

Cost: TypeAlias = Callable[[IndexKey], int]
"""Estimates how many filters that do not match are found together with one that has this key."""


def index_keys(filter_: Filter, cost: Cost) -> IndexKeys | None:
    """Return the cheapest keys that are known, or None when there are none."""
    match filter_:
        case Comparison():
            return _comparison(filter_)
        case And(parts):
            ordered = sorted(parts, key=_looks_inside)
            found = [keys for part in ordered if (keys := index_keys(part, cost)) is not None]
            return min((*_intersections(found), *found), key=lambda keys: sum(map(cost, keys)), default=None)
        case Or(parts):
            return _union(index_keys(part, cost) for part in parts)
        case Required(inner):
            return index_keys(inner, cost)
        case Related() | Policy():
            return None
    assert_never(filter_)


def is_decided(filter_: Filter, keys: IndexKeys | None) -> bool:
    """Whether the filter matches the rows that meet a key, and no others, where memory can read their values."""
    is_equality = isinstance(filter_, Comparison) and filter_.operator is Operator.EQ
    return is_equality and keys is not None and len(keys) == 1 and isinstance(keys[0], OneOf)


def _looks_inside(filter_: Filter) -> bool:
    """Whether it compares something inside of a value. Among parts of equal cost such a part comes last: it costs more
    to read, and clients can think of any number of places in a document.
    """
    return isinstance(filter_, Comparison) and not _is_column(filter_.operand)


def _is_column(operand: Operand) -> bool:
    return isinstance(operand, Field) and operand.function is None


def _union(alternatives: Iterable[IndexKeys | None]) -> IndexKeys | None:
    """Return all keys, no value twice: what is put into the index twice would be dropped twice."""
    values: dict[ColumnReader, dict[Hashable, None]] = {}
    others: dict[IndexKey, None] = {}
    for keys in alternatives:
        if keys is None:
            return None
        for key in keys:
            if isinstance(key, OneOf):
                values.setdefault(key.reader, {}).update(dict.fromkeys(key.values))
            else:
                others[key] = None
    return *(OneOf(reader, tuple(known)) for reader, known in values.items()), *others


def _intersections(conjuncts: Iterable[IndexKeys | None]) -> Iterator[IndexKeys]:
    """Yield the intersections of a conjunction's intervals: two half-open ones make a bounded one."""
    common: dict[ColumnReader, Interval] = {}
    for keys in conjuncts:
        match keys:
            case (Within(reader, interval),):
                common[reader] = common.get(reader, Interval()) & interval
    for reader, interval in common.items():
        yield () if interval.is_empty else (Within(reader, interval),)


def _comparison(comparison: Comparison) -> IndexKeys | None:
    operand, values = comparison.operand, comparison.values
    match comparison.operator:
        case Operator.EQ | Operator.IN:
            return _one_of(operand, values)
        case Operator.GT | Operator.GTE | Operator.LT | Operator.LTE:
            return _beyond(operand, comparison.operator, values[0])
        case Operator.BETWEEN:
            ends = _beyond(operand, Operator.GTE, values[0]), _beyond(operand, Operator.LTE, values[1])
            return next(_intersections(ends), None)
        case Operator.NBETWEEN:
            return _union((_beyond(operand, Operator.LT, values[0]), _beyond(operand, Operator.GT, values[1])))
        case Operator.NULL:
            return _null(operand)
        case Operator.EMPTY:
            return _empty(operand)
    return None


def _one_of(operand: Operand, values: tuple[Value, ...]) -> IndexKeys | None:
    reader = operand_reader(operand, comparing.equality)
    bounds = None if reader is None else _bounds(reader, values)
    return None if reader is None or bounds is None else (OneOf(reader.source, tuple(dict.fromkeys(bounds))),)


_INTERVALS: dict[Operator, Callable[[Hashable], Interval]] = {
    Operator.GT: Interval.more_than,
    Operator.GTE: Interval.at_least,
    Operator.LT: Interval.less_than,
    Operator.LTE: Interval.at_most,
}


def _beyond(operand: Operand, operator: Operator, value: Value) -> IndexKeys | None:
    reader = operand_reader(operand, comparing.order)
    bounds = reader and _bounds(reader, (value,))
    return (Within(reader.source, _INTERVALS[operator](bounds[0])),) if reader and bounds else None


def _bounds(reader: OperandReader, values: tuple[Value, ...]) -> tuple[Hashable, ...] | None:
    """Return None when memory cannot tell. `$NOW` is another value each time."""
    return reader.bounds(values) if all(isinstance(value, Literal) for value in values) else None


def _null(operand: Operand) -> IndexKeys | None:
    """A composite of NULLs only is NULL too, but does not look like it."""
    if not _is_column(operand):
        reader = operand_reader(operand, comparing.equality)
        return (OneOf(reader.source, (None,)),) if reader else None
    if operand.type.kind is TypeKind.COMPOSITE:
        return None
    return (OneOf(ColumnReader(operand.column.name, bytes), (None,)),)


def _empty(operand: Operand) -> IndexKeys | None:
    """NULL or no text. Only the database knows what is empty among values that are no text."""
    reader = operand_reader(operand, comparing.equality) if comparing.characters(operand.type) else None
    return (OneOf(reader.source, (None, reader.literal(b'""'))),) if reader else None


class KeyIndex(Generic[Item]):
    """Items by index keys, found by rows."""

    def __init__(self) -> None:
        self.readers: dict[ColumnReader, ReaderIndex[Item]] = {}
        """The values of a row that are read."""

    def add(self, keys: IndexKeys, item: Item) -> None:
        for key in keys:
            index = self.readers.get(key.reader)
            if index is None:
                index = self.readers[key.reader] = ReaderIndex()
            index.add(key, item)

    def remove(self, keys: IndexKeys, item: Item) -> None:
        """`keys` are those that it was added with."""
        for key in keys:
            index = self.readers[key.reader]
            index.remove(key, item)
            if not index:
                del self.readers[key.reader]

    def cost(self, key: IndexKey) -> int:
        """Estimate how many items are found in vain with one that is added with this key."""
        index = self.readers.get(key.reader)
        opening = COST_OF_READER if index is None else 0
        match key:
            case OneOf(_, values):
                opening += COST_OF_NULL if None in values else 0
                return opening + len(values).bit_length() + (0 if index is None else index.sharing(values))
            case Within(_, interval):
                return opening + (COST_OF_BOUNDED if interval.is_bounded else COST_OF_HALF_OPEN)
        assert_never(key)

    def find(self, rows: Sequence[Row]) -> tuple[dict[Item, Sequence[int]], bool]:
        """Return the items of which a row meets a key, each with the positions of these rows, in order. And whether
        that is certain: memory could read all values.
        """
        if len(rows) == 1:
            columns = rows[0].columns
            found: dict[Item, Sequence[int]] = {}
            is_certain = True
            for (column, read), index in self.readers.items():
                value = read_value(read, raw_value(columns, column))
                is_certain &= value is not UNSURE
                for items in index.at(value):
                    for item in items:
                        found[item] = _FIRST
            return found, is_certain
        several, is_certain = self._find(rows)
        return {item: sorted(positions) for item, positions in several.items()}, is_certain

    def _find(self, rows: Sequence[Row]) -> tuple[dict[Item, set[int]], bool]:
        found: dict[Item, set[int]] = {}
        is_certain = True
        distinct: dict[str, dict[bytes | None, list[int]]] = {}
        for (column, read), index in self.readers.items():
            by_raw = distinct.get(column)
            if by_raw is None:
                by_raw = distinct[column] = _by_raw_value(rows, column)
            for raw, positions in by_raw.items():
                value = read_value(read, raw)
                is_certain &= value is not UNSURE
                for items in index.at(value):
                    for item in items:
                        known = found.get(item)
                        if known is None:
                            found[item] = set(positions)
                        else:
                            known.update(positions)
        return found, is_certain


def _by_raw_value(rows: Sequence[Row], column: str) -> dict[bytes | None, list[int]]:
    """Return the rows' positions by what they have in a column."""
    found: dict[bytes | None, list[int]] = {}
    for position, row in enumerate(rows):
        found.setdefault(raw_value(row.columns, column), []).append(position)
    return found


class ReaderIndex(Generic[Item]):
    """Items by keys that read one value of a row."""

    def __init__(self) -> None:
        self._equal: ValueIndex[Item] = ValueIndex()
        self._within: IntervalTree[Item] = IntervalTree()

    def __bool__(self) -> bool:
        return bool(self._equal or self._within)

    def add(self, key: IndexKey, item: Item) -> None:
        match key:
            case OneOf(_, values):
                self._equal.add(values, item)
            case Within(_, interval):
                self._within.add(interval, item)
            case _:
                assert_never(key)

    def remove(self, key: IndexKey, item: Item) -> None:
        match key:
            case OneOf(_, values):
                self._equal.remove(values, item)
            case Within(_, interval):
                self._within.remove(interval, item)
            case _:
                assert_never(key)

    def sharing(self, values: Iterable[Hashable]) -> int:
        """Return how many items share one of these values, at most."""
        return max((len(self._equal.get(value, ())) for value in values), default=0)

    def at(self, value: Any) -> tuple[Iterable[Item], ...]:
        """Return the items that a value finds, in parts; an item may be in several."""
        if value is UNSURE:
            return self._equal.items_of_all(), self._within
        equal = self._equal.get(value, ())
        return (equal, self._within.at(value)) if self._within.nodes and value is not None else (equal,)


class ValueIndex(CompactDict[Hashable, ItemSet[Item]]):
    """Items by any of some values."""

    __slots__ = ()

    def add(self, values: Iterable[Hashable], item: Item) -> None:
        for value in values:
            self.put(value, with_item(self.get(value, ()), item))

    def remove(self, values: Iterable[Hashable], item: Item) -> None:
        """Raises `KeyError` when it is not there."""
        for value in values:
            items = without_item(self[value], item)
            if items:
                self[value] = items
            else:
                self.drop(value)

    def items_of_all(self) -> Iterator[Item]:
        for items in self.values():
            yield from items
