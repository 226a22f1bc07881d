"""A parsed filter: names are columns, and values are of their column's type.

A filter is a value. Equal filters are equal values, whatever form the client sent, so that they are evaluated once.

There is no NOT: each operator has its own negation. So evaluating a filter needs no third truth value. A comparison
with NULL is not true, as in a WHERE clause.

Three read it: `predicate` in memory, `where` as SQL, `index_keys` to find it among many. They have to agree.

One filter contains what a client asked for and what it may see. Of the latter, a `Policy` is evaluated by PostgreSQL,
and a `Required` part also holds for old versions of rows.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

from cdc_bridge.model.catalog import Column, PgType, Reference


class Operator(enum.Enum):
    """Operators by their names in Directus. Comments say what they do with NULL where it differs from plain SQL."""

    EQ = "_eq"
    NEQ = "_neq"
    LT = "_lt"
    LTE = "_lte"
    GT = "_gt"
    GTE = "_gte"
    IN = "_in"
    NIN = "_nin"
    BETWEEN = "_between"  # both ends belong to it
    NBETWEEN = "_nbetween"
    NULL = "_null"  # no values
    NNULL = "_nnull"  # no values
    EMPTY = "_empty"  # no values: NULL or ''
    NEMPTY = "_nempty"
    IEQ = "_ieq"
    NIEQ = "_nieq"
    CONTAINS = "_contains"  # of text: LIKE; of arrays and jsonb: @>
    NCONTAINS = "_ncontains"
    ICONTAINS = "_icontains"
    NICONTAINS = "_nicontains"
    STARTS_WITH = "_starts_with"
    NSTARTS_WITH = "_nstarts_with"
    ISTARTS_WITH = "_istarts_with"
    NISTARTS_WITH = "_nistarts_with"
    ENDS_WITH = "_ends_with"
    NENDS_WITH = "_nends_with"
    IENDS_WITH = "_iends_with"
    NIENDS_WITH = "_niends_with"
    REGEX = "_regex"  # PostgreSQL's ~
    INTERSECTS = "_intersects"  # PostGIS
    NINTERSECTS = "_nintersects"
    INTERSECTS_BBOX = "_intersects_bbox"
    NINTERSECTS_BBOX = "_nintersects_bbox"


BY_WORD = {operator.value: operator for operator in Operator}
POSITIVES = {BY_WORD[f"_n{word[1:]}"]: each for word, each in BY_WORD.items() if f"_n{word[1:]}" in BY_WORD}
"""Operators that negate another one, with that one."""


class Function(enum.Enum):
    """Functions of a column: `year(created)`. All of them give an integer."""

    YEAR = "year"
    MONTH = "month"
    WEEK = "week"  # ISO 8601
    DAY = "day"
    WEEKDAY = "weekday"  # 0 is Sunday
    HOUR = "hour"
    MINUTE = "minute"
    SECOND = "second"
    COUNT = "count"  # the elements of a json or jsonb array, or of an array


INTEGER = PgType("integer")


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as `row_to_json` writes it in a column of its type, so that it compares with the values of rows:
    `7`, `"text"`, `1.50`, `"2026-11-24T10:00:00+00:00"`. Never `null`.
    """

    raw: bytes


@dataclass(frozen=True, slots=True)
class Now:
    """`$NOW`, moved by so much. It is asked for with each change: see `instants.now_at`."""

    months: int = 0
    microseconds: int = 0


Value: TypeAlias = Literal | Now


@dataclass(frozen=True, slots=True)
class Field:
    """A column, or a function of it."""

    column: Column
    function: Function | None = None

    @property
    def type(self) -> PgType:
        return self.column.type if self.function is None else INTEGER


@dataclass(frozen=True, slots=True)
class Path:
    """A path into a json or jsonb column, member by member; `"0"` is also the first element of an array.

    What is there is compared as text; when the values are numbers, as numeric, and what is no number there is NULL.
    """

    column: Column
    members: tuple[str, ...]
    type: PgType


Operand: TypeAlias = Field | Path


@dataclass(frozen=True, slots=True)
class Comparison:
    """`values` are sorted and unique for IN and NIN, [low, high] for BETWEEN, and at most one for the others."""

    operand: Operand
    operator: Operator
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class And:
    """Rows that match all parts. Without parts: every row."""

    parts: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    """Rows that match at least one part. Without parts: no row. (A client's empty `_or` is an empty `And`.)"""

    parts: tuple[Filter, ...]


class Quantifier(enum.Enum):
    """JOINED is a LEFT JOIN with the row that a foreign key names: if there is none, its columns are NULL."""

    JOINED = "joined"
    SOME = "some"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Related:
    """A condition on the rows that a relation leads to. `filter` has columns of the other table."""

    reference: Reference
    quantifier: Quantifier
    filter: Filter


@dataclass(frozen=True, slots=True)
class Policy:
    """A row-level security policy, or a part of one, that only PostgreSQL can evaluate for a principal.

    `expression` is its condition, or a part of it, as PostgreSQL prints it: it calls the table by `table`, and uses
    these columns of it. `name` is the policy's own, for the log.
    """

    table: str
    expression: str
    columns: tuple[Column, ...]
    name: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Required:
    """A condition that decides who may see a row. Old versions must meet it too, with other tables as they are now."""

    filter: Filter


Filter: TypeAlias = And | Or | Comparison | Related | Policy | Required

EVERYTHING = And()
NOTHING = Or(())


def leaves(filter_: Filter) -> Iterator[Comparison | Related | Policy]:
    """Yield the leaves of a filter, without those inside a condition on another table."""
    match filter_:
        case And(parts) | Or(parts):
            for part in parts:
                yield from leaves(part)
        case Required(inner):
            yield from leaves(inner)
        case _:
            yield filter_


def relations(filter_: Filter) -> Iterator[Related]:
    """Yield the conditions on other tables, without those inside of others."""
    return (leaf for leaf in leaves(filter_) if isinstance(leaf, Related))


def of_the_past(filter_: Filter) -> Filter:
    """Return the part of a filter that an old version of a row can be checked by: its own columns.

    Its related rows may have changed or gone, and `$NOW` was another time when it began to match. Where these would
    decide, the old version counts as matching: a superfluous `delete` does no harm, a missing one would leave the row
    on the client for ever.
    """
    match filter_:
        case And(parts):
            past = tuple(map(of_the_past, parts))
            return filter_ if past == parts else conjunction(*past)
        case Or(parts):
            past = tuple(map(of_the_past, parts))
            return filter_ if past == parts else disjunction(*past)
        case Comparison(values=values) if not any(isinstance(value, Now) for value in values):
            return filter_
        case Policy() | Required():
            return filter_
    return EVERYTHING


def conjunction(*filters: Filter) -> Filter:
    """Return a flat `And`."""
    return _flat(And, filters, decisive=NOTHING)


def disjunction(*filters: Filter) -> Filter:
    """Return a flat `Or`."""
    return _flat(Or, filters, decisive=EVERYTHING)


def _flat(kind: type[And | Or], filters: Iterable[Filter], decisive: Filter) -> Filter:
    parts: dict[Filter, None] = {}
    for each in filters:
        if each == decisive:
            return decisive
        parts.update(dict.fromkeys(each.parts if isinstance(each, kind) else (each,)))
    return next(iter(parts)) if len(parts) == 1 else kind(tuple(parts))


# Filters in normal form: what means the same is equal, where that costs little, however a client spelled it. Parts
# stand in one order, alternatives that equal one operand are one `_in`, and what is decided already is left out.

_RANKED_VALUES_MAX = 8


def all_of(parts: Iterable[Filter]) -> Filter:
    """Return the filter that all of these together are, in normal form."""
    whole = conjunction(*parts)
    return And(tuple(sorted(whole.parts, key=_rank))) if isinstance(whole, And) else whole


def any_of(parts: Iterable[Filter]) -> Filter:
    """Return the filter that matches what any of these does, in normal form."""
    whole = disjunction(*parts)
    if isinstance(whole, Or):
        whole = disjunction(*_joined(whole.parts))
    return Or(tuple(sorted(whole.parts, key=_rank))) if isinstance(whole, Or) else whole


def member_of(operand: Operand, values: Iterable[Value]) -> Filter:
    """Return `_in` of these values."""
    ordered = _in_order(values)
    return Comparison(operand, Operator.EQ if len(ordered) == 1 else Operator.IN, ordered) if ordered else NOTHING


def none_of(operand: Operand, values: Iterable[Value]) -> Filter:
    """Return `_nin` of these values."""
    ordered = _in_order(values)
    return Comparison(operand, Operator.NEQ if len(ordered) == 1 else Operator.NIN, ordered)


def related(reference: Reference, quantifier: Quantifier, condition: Filter) -> Filter:
    """Return a condition on related rows, without it where it decides nothing: an outer join always has a row."""
    if condition == NOTHING:
        return EVERYTHING if quantifier is Quantifier.NONE else NOTHING
    if condition == EVERYTHING and quantifier is Quantifier.JOINED:
        return EVERYTHING
    return Related(reference, quantifier, condition)


def _in_order(values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(sorted(set(values), key=_value_rank))


def _joined(parts: Iterable[Filter]) -> list[Filter]:
    memberships: dict[Operand, list[tuple[Value, ...]]] = {}
    others: list[Filter] = []
    for part in parts:
        if isinstance(part, Comparison) and part.operator in (Operator.EQ, Operator.IN):
            memberships.setdefault(part.operand, []).append(part.values)
        else:
            others.append(part)
    return [*(member_of(operand, chain(*lists)) for operand, lists in memberships.items()), *others]


def _rank(filter_: Filter) -> tuple[Any, ...]:
    match filter_:
        case Comparison(operand, operator, values):
            # Long lists that begin alike have no order between them: it would cost too much.
            ranks = tuple(map(_value_rank, values[:_RANKED_VALUES_MAX]))
            return 0, *_operand_rank(operand), operator.value, len(values), ranks
        case Related(reference, quantifier, condition):
            return 1, reference.name, quantifier.value, _rank(condition)
        case And(parts):
            return 2, tuple(map(_rank, parts))
        case Or(parts):
            return 3, tuple(map(_rank, parts))
        case Required(inner):
            return 4, _rank(inner)
        case Policy(table, expression):
            return 5, table, expression


def _operand_rank(operand: Operand) -> tuple[int, str, tuple[str, ...], str]:
    if isinstance(operand, Field):
        return operand.column.number, operand.function.value if operand.function else "", (), ""
    return operand.column.number, "", operand.members, operand.type.name


def _value_rank(value: Value) -> tuple[bytes, int, int]:
    return (value.raw, 0, 0) if isinstance(value, Literal) else (b"", value.months, value.microseconds)
