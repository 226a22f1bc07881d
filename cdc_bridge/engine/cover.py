"""What a row has to be like for a filter to have a chance: a cover of the filter.

A cover is a disjunction of atoms, each of which an index answers: the field is one of these values, it lies in this
interval, it is NULL. A row that meets no atom is not let through, that is known; whether one that meets an atom is,
the filter itself has to say. A filter without a cover has to be asked about every row.

A conjunction is covered by the cover of any of its parts, so it takes the one that costs least. A disjunction needs
those of all its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from cdc_bridge.engine.intervals import Interval
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
from cdc_bridge.query import comparing, operands
from cdc_bridge.query.comparing import Undecided
from cdc_bridge.query.operands import Way
from cdc_bridge.query.row_version import Aspect


@dataclass(frozen=True, slots=True)
class OneOf:
    """What is read is one of these values."""

    aspect: Aspect
    values: tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """What is read compares as in SQL, and lies in the interval."""

    aspect: Aspect
    interval: Interval


@dataclass(frozen=True, slots=True)
class IsNull:
    """What is read is None."""

    aspect: Aspect


Atom: TypeAlias = OneOf | Within | IsNull
Cover: TypeAlias = tuple[Atom, ...]
"""No atoms: no row."""

Cost: TypeAlias = Callable[[Atom], int]
"""How many others are found in vain with what is covered by this atom: an estimate."""


def cover(filter_: Filter, cost: Cost) -> Cover | None:
    """The cheapest that is known. None: there is none."""
    match filter_:
        case Comparison():
            return _comparison(filter_)
        case And(parts):
            ordered = sorted(parts, key=_is_of_a_part)
            covers = [each for part in ordered if (each := cover(part, cost)) is not None]
            return min((*_narrowed(covers), *covers), key=lambda each: sum(map(cost, each)), default=None)
        case Or(parts):
            return _union(cover(part, cost) for part in parts)
        case Required(inner):
            return cover(inner, cost)
        case Related() | Policy():
            return None
    assert_never(filter_)


def _is_of_a_part(filter_: Filter) -> bool:
    """Whether it asks for something inside of a value. Of what costs the same it is the last to be taken, since to read
    it costs more, and of places in documents there are as many as clients can think of.
    """
    return isinstance(filter_, Comparison) and not _is_column(filter_.operand)


def _is_column(operand: Operand) -> bool:
    return isinstance(operand, Field) and operand.function is None


def _union(covers: Iterable[Cover | None]) -> Cover | None:
    """No value stands in it twice, since what is put somewhere twice would be dropped twice."""
    values: dict[Aspect, dict[Hashable, None]] = {}
    others: dict[Atom, None] = {}
    for each in covers:
        if each is None:
            return None
        for atom in each:
            if isinstance(atom, OneOf):
                values.setdefault(atom.aspect, {}).update(dict.fromkeys(atom.values))
            else:
                others[atom] = None
    return *(OneOf(aspect, tuple(known)) for aspect, known in values.items()), *others


def _narrowed(covers: Iterable[Cover | None]) -> Iterator[Cover]:
    """What the intervals of a conjunction have in common: of two half-open ones comes a bounded one."""
    common: dict[Aspect, Interval] = {}
    for each in covers:
        match each:
            case (Within(aspect, interval),):
                common[aspect] = common.get(aspect, Interval()) & interval
    for aspect, interval in common.items():
        yield () if interval.is_empty else (Within(aspect, interval),)


def _comparison(comparison: Comparison) -> Cover | None:
    operand, values = comparison.operand, comparison.values
    match comparison.operator:
        case Operator.EQ | Operator.IN:
            return _one_of(operand, values)
        case Operator.GT | Operator.GTE | Operator.LT | Operator.LTE:
            return _beyond(operand, comparison.operator, values[0])
        case Operator.BETWEEN:
            ends = _beyond(operand, Operator.GTE, values[0]), _beyond(operand, Operator.LTE, values[1])
            return next(_narrowed(ends), None)
        case Operator.NBETWEEN:
            return _union((_beyond(operand, Operator.LT, values[0]), _beyond(operand, Operator.GT, values[1])))
        case Operator.NULL:
            return _null(operand)
        case Operator.EMPTY:
            return _empty(operand)
    return None


def _one_of(operand: Operand, values: tuple[Value, ...]) -> Cover | None:
    way = operands.way(operand, comparing.equality)
    bounds = None if way is None else _bounds(way, values)
    return None if way is None or bounds is None else (OneOf(way.aspect, tuple(dict.fromkeys(bounds))),)


_INTERVALS: dict[Operator, Callable[[Hashable], Interval]] = {
    Operator.GT: Interval.more_than,
    Operator.GTE: Interval.at_least,
    Operator.LT: Interval.less_than,
    Operator.LTE: Interval.at_most,
}


def _beyond(operand: Operand, operator: Operator, value: Value) -> Cover | None:
    way = operands.way(operand, comparing.order)
    bounds = way and _bounds(way, (value,))
    return (Within(way.aspect, _INTERVALS[operator](bounds[0])),) if way and bounds else None


def _bounds(way: Way, values: tuple[Value, ...]) -> tuple[Hashable, ...] | None:
    """None: memory cannot tell. `$NOW` is another value each time."""
    try:
        return way.bounds(values) if all(isinstance(value, Literal) for value in values) else None
    except Undecided:
        return None


def _null(operand: Operand) -> Cover | None:
    """A composite of NULLs only is NULL too, but does not look like it."""
    if not _is_column(operand):
        way = operands.way(operand, comparing.equality)
        return (IsNull(way.aspect),) if way else None
    return None if operand.type.kind is TypeKind.COMPOSITE else (IsNull((operand.column.name, bytes)),)


def _empty(operand: Operand) -> Cover | None:
    """NULL or no text. Of what is no text only the database knows what is empty."""
    way = operands.way(operand, comparing.equality) if comparing.characters(operand.type) else None
    return (IsNull(way.aspect), OneOf(way.aspect, (way.literal(b'""'),))) if way else None
