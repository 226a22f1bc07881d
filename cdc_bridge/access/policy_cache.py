"""What PostgreSQL has said about claims and policies: the value of an expression of claims for a principal, and whether
it can evaluate a policy for the rows of changes. Each question is asked once, and its answer kept.

Rule: nothing here waits. Unknown answers are collected in `Questions` during a pass over one or many requests. The
caller has all of them looked up in one call, keeps the answers, and repeats the pass.

Bound: `KNOWN_MAX` answers of each kind. Policy: past it all are forgotten, but only in `make_room`, so that requests
that are parsed together may need more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.evaluation import Case, ClaimExpression, ClaimValue, Failure, Verdict
from cdc_bridge.model.filter import Filter
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.query.literals import Literals

KNOWN_MAX = 100_000

Subject: TypeAlias = tuple[str | None, int, Filter]
"""The role, the table and the policies of a probe."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Can a role have these policies evaluated for the rows of changes?

    Policies are probed together, since each may keep the others from being evaluated (see `database.sessions`).
    """

    collection: Collection
    policies: Filter
    principal: Principal

    @property
    def subject(self) -> Subject:
        """The answer is the same for all principals of the role."""
        return self.principal.role, self.collection.relation_id, self.policies

    def case(self, catalog: Catalog) -> Case:
        """Evaluate the policies for no row: this needs the same privileges as evaluating them for one."""
        return Case(self.collection, catalog, self.policies, (), 0, (SecurityContext(self.principal),))


@dataclass(slots=True, eq=False)
class Questions:
    """What PostgreSQL has to be asked before requests can be parsed by `catalog`. True while there is anything.

    `is_tentative`: the rules that apply are not known yet, so a refusal may not be final.
    """

    catalog: Catalog
    literals: Literals = field(default_factory=Literals)
    claims: dict[ClaimExpression, None] = field(default_factory=dict)
    probes: dict[Subject, Probe] = field(default_factory=dict)
    is_tentative: bool = False

    def __bool__(self) -> bool:
        return bool(self.literals.missing or self.claims or self.probes)

    def add(self, others: Questions) -> None:
        self.literals.missing.update(others.literals.missing)
        self.claims.update(others.claims)
        self.probes.update(others.probes)


class PolicyCache:
    """See the module's docstring. The answers hold for one catalog."""

    def __init__(self) -> None:
        self._values: dict[ClaimExpression, ClaimValue | Failure] = {}
        self._obstacles: dict[Subject, str] = {}

    def values(
        self, expressions: Sequence[str], principal: Principal, questions: Questions
    ) -> Mapping[str, ClaimValue] | None:
        """Return the values of the expressions for this principal, without those that could not be evaluated. None: not
        all are known yet.
        """
        asked = [ClaimExpression(principal, expression) for expression in expressions]
        missing = [each for each in asked if each not in self._values]
        if missing:
            questions.claims.update(dict.fromkeys(missing))
            return None
        found = {each.expression: self._values[each] for each in asked}
        return {expression: value for expression, value in found.items() if isinstance(value, ClaimValue)}

    def obstacle(self, probe: Probe, questions: Questions) -> str:
        """Return why the policies cannot be evaluated; empty when they can, or when it is not known yet."""
        if probe.subject not in self._obstacles:
            questions.probes[probe.subject] = probe
        return self._obstacles.get(probe.subject, "")

    def forget_obstacles(self) -> None:
        """Ask again the next time, since the obstacle may be gone by then.

        Call it when all requests that were parsed together have been answered.
        """
        self._obstacles = {subject: reason for subject, reason in self._obstacles.items() if not reason}

    def make_room(self) -> None:
        for kept in (self._values, self._obstacles):
            if len(kept) > KNOWN_MAX:
                kept.clear()

    def keep_values(self, values: Iterable[tuple[ClaimExpression, ClaimValue | Failure]]) -> None:
        self._values.update(values)

    def keep_verdicts(self, verdicts: Iterable[tuple[Probe, Verdict]]) -> None:
        """A probe that took too long counts as passed: subscribers get fresh data if rows take too long as well."""
        for probe, verdict in verdicts:
            reasons = [reason for context, reason in verdict.failures.items() if context not in verdict.failed_for_now]
            self._obstacles[probe.subject] = next(iter(reasons), "")
