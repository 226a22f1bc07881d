"""Row-level security as a filter: the rows of a table that its policies let a principal see.

Permissive policies add up, restrictive ones take away; without a permissive one nothing is visible. Comparisons of
columns with claims become part of the filter. The rest stays a `Policy`, which PostgreSQL evaluates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, assert_never

from cdc_bridge.access.policy_claims import FunctionName
from cdc_bridge.access.policy_parser import (
    WHOLE_NUMBERS,
    AllOf,
    AnyOf,
    Compared,
    Condition,
    Constant,
    Opaque,
    Settled,
    parse,
)
from cdc_bridge.model.catalog import Collection, Column, RowPolicy
from cdc_bridge.model.filter import (
    EVERYTHING,
    NOTHING,
    Comparison,
    Field,
    Filter,
    Literal,
    Operator,
    Policy,
    all_of,
    any_of,
    conjunction,
    disjunction,
    member_of,
    none_of,
)
from cdc_bridge.model.row import split_array
from cdc_bridge.ports import ClaimValue
from cdc_bridge.query.comparing import NULL

PARSED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class UnsupportedPolicy(Exception):
    """A policy cannot be evaluated for the rows of changes. `policy` is its name, or the names of several."""

    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class RlsPolicy:
    """The policies that apply to a role in one table. Every method raises `UnsupportedPolicy`."""

    collection: Collection
    policies: Sequence[RowPolicy]
    functions: frozenset[FunctionName]

    def needed(self) -> tuple[str, ...]:
        """Return the expressions of claims that the filter depends on."""
        return tuple(dict.fromkeys(text for policy in self.policies for text in needed(self._condition(policy))))

    def filter(self, values: Mapping[str, ClaimValue]) -> Filter:
        """Return the filter for a principal. `values` are those that the expressions of claims have for it."""
        permissive = [self._one(policy, values) for policy in self.policies if policy.is_permissive]
        restrictive = [self._one(policy, values) for policy in self.policies if not policy.is_permissive]
        return all_of([any_of(permissive), *restrictive])

    def opaque(self) -> list[Filter]:
        """Return the parts that PostgreSQL has to evaluate, whatever the claims are."""
        ordered = sorted(self.policies, key=lambda policy: not policy.is_permissive)
        parts = [(policy, part) for policy in ordered for part in parts_of(self._condition(policy))]
        return [self._opaque(policy, part.text) for policy, part in parts if isinstance(part, Opaque)]

    def _one(self, policy: RowPolicy, values: Mapping[str, ClaimValue]) -> Filter:
        return to_filter(self._condition(policy), values, lambda text: self._opaque(policy, text))

    def _opaque(self, policy: RowPolicy, text: str) -> Policy:
        columns = tuple([self.collection.by_name[name] for name in policy.columns])
        return Policy(self.collection.relation.name, text, columns, policy.name)

    def _condition(self, policy: RowPolicy) -> Condition:
        if policy.obstacle:
            raise UnsupportedPolicy(policy.name, policy.obstacle)
        for name in policy.columns:
            if name not in self.collection.by_name:
                raise UnsupportedPolicy(policy.name, f'it uses the column "{name}", which is excluded')
        return _parsed(policy.expression, self.collection.columns, self.functions)


@lru_cache(PARSED_MAX)
def _parsed(expression: str, columns: tuple[Column, ...], functions: frozenset[FunctionName]) -> Condition:
    return parse(expression, {column.name: column for column in columns}, functions)


# --- one condition ---


def parts_of(condition: Condition) -> Iterator[Condition]:
    """Yield the parts of a condition that have no parts."""
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.parts:
            yield from parts_of(part)
    else:
        yield condition


def needed(condition: Condition) -> Iterator[str]:
    """Yield the expressions of claims in a condition."""
    return (part.expression for part in parts_of(condition) if isinstance(part, Compared | Constant))


def to_filter(condition: Condition, values: Mapping[str, ClaimValue], opaque: Callable[[str], Filter]) -> Filter:
    """Return the rows for which `condition` is true.

    `opaque` makes the filter of a part that PostgreSQL has to evaluate: one that was not understood, or whose
    expression of claims has no value here (evaluating it failed) or a value of another type than the column.
    """
    match condition:
        case AllOf(parts):
            return conjunction(*(to_filter(part, values, opaque) for part in parts))
        case AnyOf(parts):
            return disjunction(*(to_filter(part, values, opaque) for part in parts))
        case Settled(comparison):
            return comparison
        case Compared(expression=expression, text=text):
            found = _compared(condition, values[expression]) if expression in values else None
            return opaque(text) if found is None else found
        case Constant(expression):
            value = values.get(expression)
            if value is None or value.type != "boolean":
                return opaque(expression)
            return EVERYTHING if value.raw == b"true" else NOTHING
        case Opaque(text):
            return opaque(text)
    assert_never(condition)


def _compared(compared: Compared, value: ClaimValue) -> Filter | None:
    """Return the comparison as a filter; None if a filter might not mean the same."""
    field, operator, raw = Field(compared.column), compared.operator, value.raw
    is_array = operator in (Operator.IN, Operator.NIN)
    if is_array and not value.type.endswith("[]"):
        return None
    read = _reader(compared, value.type.removesuffix("[]") if is_array else value.type)
    if read is None:
        return None
    if raw is None or raw == NULL:
        return NOTHING
    items = [bytes(item).strip() for item in split_array(raw)] if is_array else [raw]
    if is_array and any(item[:1] == b"[" for item in items):  # arrays of several dimensions are left to PostgreSQL
        return None
    literals = [literal for item in items if item != NULL and (literal := read(item)) is not None]
    match operator:
        case Operator.EQ | Operator.IN:
            return member_of(field, literals)
        case Operator.NEQ | Operator.NIN:
            if not items:
                return EVERYTHING
            if NULL in items:
                return NOTHING
            return none_of(field, literals) if literals else Comparison(field, Operator.NNULL)
    return Comparison(field, operator, tuple(literals)) if literals else None


# --- the values of claims ---

_Read: TypeAlias = Callable[[bytes], Literal | None]
"""Converts a value to the column's type. None: no value of the column is equal to it."""

_WHOLE_TEXT = re.compile(rb'"(?:0|-?[1-9][0-9]{0,18})"')
_UUID_TEXT = re.compile(rb'"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"')


def _reader(compared: Compared, type_: str) -> _Read | None:
    """Return how to read a value of the type `type_`. None: the column is not compared as this type."""
    name = compared.column.type.name
    if compared.cast != "text" or name == "text":
        if name in WHOLE_NUMBERS and type_ in WHOLE_NUMBERS:
            return lambda raw: _whole(name, raw)
        return Literal if type_ == name else None
    if type_ != "text":
        return None
    if name == "uuid":
        return lambda raw: Literal(raw) if _UUID_TEXT.fullmatch(raw) else None
    if name in WHOLE_NUMBERS:
        return lambda raw: _whole(name, raw[1:-1]) if _WHOLE_TEXT.fullmatch(raw) else None
    return Literal


def _whole(name: str, raw: bytes) -> Literal | None:
    end = WHOLE_NUMBERS[name]
    return Literal(raw) if -end <= int(raw) < end else None
