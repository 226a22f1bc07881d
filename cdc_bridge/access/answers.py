"""What PostgreSQL has said of claims and policies: what an expression of claims is worth for somebody, and whether what
only PostgreSQL can judge can be judged of an image of a row. Each is asked once, and kept.

Bound: `KNOWN_MAX` answers of each kind. Policy: past it all are forgotten, and asked for again; but only where there is
`make_room`, so that what all that are here need at once may be more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.evaluation import Case, ClaimValue, Failure, Worth
from cdc_bridge.model.filter import Filter
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.ports import RowEvaluator

KNOWN_MAX = 100_000

Subject: TypeAlias = tuple[str | None, int, Filter]


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Whether a role can have policies evaluated of an image of a row: all together, since each may keep the others
    from being evaluated (see `reading.scripts`).
    """

    collection: Collection
    policies: Filter
    principal: Principal

    @property
    def subject(self) -> Subject:
        """Which of the role's principals asks makes no difference."""
        return self.principal.role, self.collection.relation_id, self.policies


@dataclass(eq=False)
class Unanswered(Exception):
    """PostgreSQL has to be asked this first; then the request can be judged again."""

    catalog: Catalog
    worths: tuple[Worth, ...] = ()
    probes: tuple[Probe, ...] = ()


class Answers:
    """See the module's docstring. They hold for one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._values: dict[Worth, ClaimValue | Failure] = {}
        self._obstacles: dict[Subject, str] = {}

    def values(self, expressions: Sequence[str], principal: Principal) -> Mapping[str, ClaimValue]:
        """What has no value for this principal is left out. Raises `Unanswered`."""
        worths = [Worth(principal, expression) for expression in expressions]
        if missing := tuple(worth for worth in worths if worth not in self._values):
            raise Unanswered(self._catalog, worths=missing)
        found = {worth.expression: self._values[worth] for worth in worths}
        return {expression: value for expression, value in found.items() if isinstance(value, ClaimValue)}

    def obstacle(self, probe: Probe) -> str:
        """Why it cannot be judged; empty when it can. Raises `Unanswered`."""
        if probe.subject not in self._obstacles:
            raise Unanswered(self._catalog, probes=(probe,))
        return self._obstacles[probe.subject]

    def forget_obstacles(self) -> None:
        """All who were judged together have been told. What was in the way may be gone the next time."""
        self._obstacles = {subject: reason for subject, reason in self._obstacles.items() if not reason}

    def make_room(self) -> None:
        for kept in (self._values, self._obstacles):
            if len(kept) > KNOWN_MAX:
                kept.clear()

    async def learn(self, unanswered: Sequence[Unanswered], evaluator: RowEvaluator) -> None:
        """Raises `SourceUnavailable`."""
        await self._learn_values(dict.fromkeys(worth for each in unanswered for worth in each.worths), evaluator)
        await self._learn_obstacles({probe.subject: probe for each in unanswered for probe in each.probes}, evaluator)

    async def _learn_values(self, asked: Iterable[Worth], evaluator: RowEvaluator) -> None:
        if worths := list(asked):
            self._values.update(zip(worths, await evaluator.value(worths), strict=True))

    async def _learn_obstacles(self, probes: Mapping[Subject, Probe], evaluator: RowEvaluator) -> None:
        """Policies are evaluated of no row: that takes all rights that evaluating them takes. What takes too long now
        is left to when rows are judged; whom it concerns gets fresh data then.
        """
        cases = [
            Case(probe.collection, self._catalog, probe.policies, (), 0, (SecurityContext(probe.principal),))
            for probe in probes.values()
        ]
        for subject, verdict in zip(probes, await evaluator.decide(cases) if cases else (), strict=True):
            reasons = [reason for context, reason in verdict.failures.items() if context not in verdict.failed_for_now]
            self._obstacles[subject] = next(iter(reasons), "")
