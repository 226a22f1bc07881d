"""Filters of a story, and what they mean: worked out here once more, in the plainest way.

Each of them lets the row of the `MARKER` through, so that everybody is told of the end. Their columns are made of a
row's slot and version, so that each change may take a row into a filter or out of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.torture.tables import PARENT_KINDS, Row

Truth: TypeAlias = bool | None
"""As in SQL: None is neither."""

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "_eq": lambda value, given: value == given,
    "_neq": lambda value, given: value != given,
    "_ieq": lambda value, given: value.lower() == given.lower(),
    "_lt": lambda value, given: value < given,
    "_lte": lambda value, given: value <= given,
    "_gt": lambda value, given: value > given,
    "_gte": lambda value, given: value >= given,
    "_in": lambda value, given: value in given,
    "_nin": lambda value, given: value not in given,
    "_between": lambda value, given: given[0] <= value <= given[1],
    "_nbetween": lambda value, given: not given[0] <= value <= given[1],
    "_contains": lambda value, given: given in value,
    "_ncontains": lambda value, given: given not in value,
    "_icontains": lambda value, given: given.lower() in value.lower(),
    "_starts_with": lambda value, given: value.startswith(given),
    "_nstarts_with": lambda value, given: not value.startswith(given),
    "_istarts_with": lambda value, given: value.lower().startswith(given.lower()),
    "_ends_with": lambda value, given: value.endswith(given),
    "_nends_with": lambda value, given: not value.endswith(given),
    "_regex": lambda value, given: re.search(given, value) is not None,
}
_OF_NULL: Mapping[str, Callable[[Any], bool]] = {
    "_null": lambda value: value is None,
    "_nnull": lambda value: value is not None,
    "_empty": lambda value: value in (None, ""),
    "_nempty": lambda value: value not in (None, ""),
}
_ASKING = ("_regex", "_ieq", "_icontains", "_istarts_with")


@dataclass(frozen=True, slots=True)
class Simple:
    """A condition on one column, or on the `kind` of the row that `parent` names, which never changes."""

    column: str
    operator: str
    given: Any

    @property
    def asks(self) -> bool:
        """Whether only the database can say it, at least of some rows: case is a matter of its own beyond ASCII."""
        return self.operator in _ASKING or self.column == "parent.kind"

    def query(self) -> dict[str, Any]:
        condition: dict[str, Any] = {self.operator: list(self.given) if isinstance(self.given, tuple) else self.given}
        for name in reversed(self.column.split(".")):
            condition = {name: condition}
        return condition

    def held(self, row: Row) -> Truth:
        """Of a row as it was. What it led to counts for nothing: it may be gone, for all that the bridge knows."""
        return True if self.column == "parent.kind" else self.holds(row)

    def holds(self, row: Row) -> Truth:
        if self.column == "parent.kind":
            parent = row["parent"]
            value = None if parent is None else PARENT_KINDS[parent]
        else:
            value = row[self.column]
        if self.operator in _OF_NULL:
            return _OF_NULL[self.operator](value)
        return None if value is None else _OPERATORS[self.operator](value, self.given)


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Filter, ...]

    @property
    def asks(self) -> bool:
        return any(part.asks for part in self.parts)

    def query(self) -> dict[str, Any]:
        return {"_and": [part.query() for part in self.parts]}

    def holds(self, row: Row) -> Truth:
        return _all({part.holds(row) for part in self.parts})

    def held(self, row: Row) -> Truth:
        return _all({part.held(row) for part in self.parts})


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Filter, ...]

    @property
    def asks(self) -> bool:
        return any(part.asks for part in self.parts)

    def query(self) -> dict[str, Any]:
        return {"_or": [part.query() for part in self.parts]}

    def holds(self, row: Row) -> Truth:
        return _any({part.holds(row) for part in self.parts})

    def held(self, row: Row) -> Truth:
        return _any({part.held(row) for part in self.parts})


def _all(found: set[Truth]) -> Truth:
    return False if False in found else None if None in found else True


def _any(found: set[Truth]) -> Truth:
    return True if True in found else None if None in found else False


Filter: TypeAlias = Simple | AllOf | AnyOf

_WITH_MARKER = (
    Simple("room", "_eq", 0),
    Simple("room", "_eq", 0),
    Simple("room", "_neq", 3),
    Simple("room", "_in", (0, 2)),
    Simple("room", "_nin", (1, 3)),
    Simple("room", "_lt", 2),
    Simple("room", "_between", (0, 2)),
    Simple("room", "_nbetween", (1, 2)),
    Simple("room", "_nnull", given=True),
    Simple("slot", "_lte", 20),
    Simple("tag", "_eq", "m%_a"),
    Simple("tag", "_ieq", "M%_A"),
    Simple("tag", "_in", ("", "max", "m%_a")),
    Simple("tag", "_contains", "%_"),
    Simple("tag", "_icontains", "M%"),
    Simple("tag", "_ncontains", "x"),
    Simple("tag", "_starts_with", "m"),
    Simple("tag", "_istarts_with", "M"),
    Simple("tag", "_nends_with", "x"),
    Simple("tag", "_nempty", given=True),
    Simple("tag", "_regex", "^[mM]%"),
    Simple("tag", "_regex", "(%|x$)"),
)
_WITHOUT_MARKER = (
    Simple("room", "_eq", 3),
    Simple("room", "_gte", 2),
    Simple("room", "_null", given=True),
    Simple("slot", "_between", (5, 30)),
    Simple("slot", "_gt", 100_000),
    Simple("tag", "_empty", given=True),
    Simple("tag", "_ends_with", "x"),
    Simple("tag", "_nstarts_with", "m"),
    Simple("tag", "_regex", "^ä"),
)
_OF_PARENT = (Simple("parent.kind", "_eq", "odd"), Simple("parent", "_in", (1, 3)), Simple("parent.kind", "_neq", "x"))


def make(chance: random.Random, *, has_parent: bool) -> Filter:
    one = chance.choice(_OF_PARENT) if has_parent and chance.random() < 0.3 else chance.choice(_WITH_MARKER)
    match chance.random():
        case number if number < 0.5:
            return one
        case number if number < 0.75:
            return AllOf((one, make(chance, has_parent=has_parent)))
        case _:
            others = chance.sample(_WITHOUT_MARKER, chance.randint(1, 2))
            return AnyOf((*others, one) if chance.random() < 0.5 else (AllOf((others[0], others[-1])), one))
