"""What a filter does with the rows of a change: as far as memory is certain, and as the database says of the rest.

Rule: a `Side` that has rows of which memory is unsure is settled once its `Question` is answered, for each of those who
ask by itself, and never for one of whom there is a failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.engine.event_encoder import Matches
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.ports import Verdict

RowsSeen: TypeAlias = Mapping[SecurityContext, Sequence[int]]
"""The rows that are let through, for those who ask and to whom any is."""


@dataclass(slots=True)
class Side:
    """The rows of a change, as they were or as they are, before one filter: those that it lets through for sure, those
    of which memory cannot say it, and what the database says of these.
    """

    certain: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)
    seen: RowsSeen | None = None
    failures: Mapping[SecurityContext, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether any row may be let through."""
        return bool(self.certain or self.unsure)

    def why_unsettled(self, context: SecurityContext) -> str:
        """Empty when it is known which rows are let through."""
        if not self.unsure:
            return ""
        return self.failures.get(context, "") or ("nobody has been asked about some rows" if self.seen is None else "")

    def let_through(self, context: SecurityContext) -> Sequence[int]:
        if not self.unsure or self.seen is None:
            return self.certain
        seen = set(self.seen.get(context, ())).intersection(self.unsure)
        return sorted([*self.certain, *seen]) if seen else self.certain

    def concerns_all(self) -> bool:
        """Whether more are concerned than those who are let see a row that memory was unsure of."""
        return bool(self.certain or (self.unsure and self.seen is None))

    def concerned(self) -> Iterator[SecurityContext]:
        if self.unsure:
            yield from self.seen or ()
            yield from self.failures


@dataclass(slots=True)
class Judged:
    """What a filter does with the rows of a change."""

    old: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)

    def __bool__(self) -> bool:
        return bool(self.old or self.new)

    @property
    def is_asked(self) -> bool:
        """Whether the database is."""
        return bool(self.old.unsure or self.new.unsure)

    def why_unsettled(self, context: SecurityContext) -> str:
        return self.old.why_unsettled(context) or self.new.why_unsettled(context)

    def matches(self, context: SecurityContext) -> Matches:
        return Matches(self.old.let_through(context), self.new.let_through(context))

    def concerned(self, asking: Mapping[SecurityContext, object]) -> Iterable[SecurityContext]:
        """Of these who ask, those to whom any row may be let through."""
        if self.old.concerns_all() or self.new.concerns_all():
            return asking
        found = dict.fromkeys([*self.old.concerned(), *self.new.concerned()])
        return [context for context in found if context in asking]


@dataclass(slots=True)
class Question:
    """The rows that a filter is asked about, on behalf of whom, and where the answer goes to."""

    positions: set[int] = field(default_factory=set)
    contexts: dict[SecurityContext, None] = field(default_factory=dict)
    sides: list[Side] = field(default_factory=list)

    @property
    def in_order(self) -> list[int]:
        return sorted(self.positions)

    def decide(self, verdict: Verdict) -> None:
        seen: dict[SecurityContext, list[int]] = {}
        for position, contexts in zip(self.in_order, verdict.seen_by, strict=True):
            for context in contexts:
                seen.setdefault(context, []).append(position)
        self._answer(seen, verdict.failures)

    def fail(self, reason: str) -> None:
        """Nobody answers. Does nothing where somebody has."""
        if any(side.seen is None for side in self.sides):
            self._answer(None, dict.fromkeys(self.contexts, reason))

    def _answer(self, seen: RowsSeen | None, failures: Mapping[SecurityContext, str]) -> None:
        for side in self.sides:
            side.seen, side.failures = seen, failures
