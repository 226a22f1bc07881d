"""What row-level security lets a principal see of a table, as a filter.

Permissive policies add up, restrictive ones take away; without a permissive one nothing is seen. What compares columns
with claims becomes part of the filter; the rest stays a `Policy`, for PostgreSQL to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cdc_bridge.access.conditions import Condition
from cdc_bridge.access.deciding import needed, opaque_parts, to_filter
from cdc_bridge.access.policy_claims import FunctionName
from cdc_bridge.access.policy_parser import parse
from cdc_bridge.model.catalog import Collection, Column
from cdc_bridge.model.evaluation import ClaimValue
from cdc_bridge.model.filter import Filter, Policy
from cdc_bridge.model.grants import RowPolicy
from cdc_bridge.query.normal_form import all_of, any_of

PARSED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Unjudgeable(Exception):
    """A policy, or one of several, cannot be evaluated for the rows of changes."""

    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class Guard:
    """The policies that apply to a role, read for one collection."""

    collection: Collection
    policies: Sequence[RowPolicy]
    functions: frozenset[FunctionName]

    def needed(self) -> tuple[str, ...]:
        """The expressions of claims of which the worth has to be known. Raises `Unjudgeable`."""
        return tuple(dict.fromkeys(text for policy in self.policies for text in needed(self._condition(policy))))

    def filter(self, values: Mapping[str, ClaimValue]) -> Filter:
        """The rows that are seen by whom for those are the values."""
        permissive = [self._one(policy, values) for policy in self.policies if policy.is_permissive]
        restrictive = [self._one(policy, values) for policy in self.policies if not policy.is_permissive]
        return all_of([any_of(permissive), *restrictive])

    def opaque(self) -> list[Filter]:
        """The parts that PostgreSQL has to evaluate, whatever the claims are. Raises `Unjudgeable`."""
        ordered = sorted(self.policies, key=lambda policy: not policy.is_permissive)
        return [self._opaque(policy, text) for policy in ordered for text in opaque_parts(self._condition(policy))]

    def _one(self, policy: RowPolicy, values: Mapping[str, ClaimValue]) -> Filter:
        return to_filter(self._condition(policy), values, lambda text: self._opaque(policy, text))

    def _opaque(self, policy: RowPolicy, text: str) -> Policy:
        columns = tuple([self.collection.by_name[name] for name in policy.columns])
        return Policy(self.collection.relation.name, text, columns, policy.name)

    def _condition(self, policy: RowPolicy) -> Condition:
        if policy.obstacle:
            raise Unjudgeable(policy.name, policy.obstacle)
        for name in policy.columns:
            if name not in self.collection.by_name:
                raise Unjudgeable(policy.name, f'it uses the column "{name}", which is excluded')
        return _parsed(policy.expression, self.collection.columns, self.functions)


@lru_cache(PARSED_MAX)
def _parsed(expression: str, columns: tuple[Column, ...], functions: frozenset[FunctionName]) -> Condition:
    return parse(expression, {column.name: column for column in columns}, functions)
