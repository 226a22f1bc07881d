"""What one change means to the groups of subscriptions that it may concern, found out in three steps.

1. Memory judges which rows each group's filter lets through, as they were and as they are (`judge_all`).
2. Where it cannot, the database is asked: `cases` go out, `decide` takes the answers in.
3. What is shown of rows that their images do not have is asked for as well: `completions`, `complete`.

A step without questions costs nothing. Then each group has its events, or a `CannotTell` in their place.
Equal questions are asked once, whoever asks. Never reads the clock or the network; the stream may wait between steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Change, Operation, Row
from cdc_bridge.cursor import Mark
from cdc_bridge.filters.filter import EVERYTHING, Filter, of_the_past
from cdc_bridge.filters.image import Image, Judge
from cdc_bridge.hub.rendering import Encoders, Matches, Rendering, Shown, needs_old_rows
from cdc_bridge.index.matching import Group, Index
from cdc_bridge.projection import Projection
from cdc_bridge.questions import Case, Completed, Completion, Failure, Verdicts
from cdc_bridge.sight import Sight
from cdc_bridge.subscription import Event

Member = TypeVar("Member")


@dataclass(frozen=True, slots=True)
class CannotTell:
    """In the place of a group's events: the database could not say what the change means to it."""

    reason: str


@dataclass(slots=True)
class _Positions:
    """Of one group: the rows that are let through, and those of which memory cannot say it."""

    old: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    unsure_old: list[int] = field(default_factory=list)
    unsure_new: list[int] = field(default_factory=list)
    failure: str = ""

    def __bool__(self) -> bool:
        """Whether any row may be let through."""
        return bool(self.old or self.new or self.unsure_old or self.unsure_new)

    def note(self, position: int, verdict: bool | None, *, of_old: bool) -> None:
        if verdict is not False:
            certain, unsure = (self.old, self.unsure_old) if of_old else (self.new, self.unsure_new)
            (unsure if verdict is None else certain).append(position)

    def why_unsettled(self) -> str:
        """Empty when it is known which rows are let through."""
        return self.failure or ("nobody has been asked about some rows" if self.unsure_old or self.unsure_new else "")

    def settle(self, let_through: frozenset[int], *, of_old: bool) -> None:
        """The database has decided: of the unsure ones, these are let through."""
        if of_old:
            self.old = sorted([*self.old, *let_through.intersection(self.unsure_old)])
            self.unsure_old = []
        else:
            self.new = sorted([*self.new, *let_through.intersection(self.unsure_new)])
            self.unsure_new = []


@dataclass(slots=True)
class _Question:
    """The rows that a filter is asked about, and on whose behalf: those who are unsure about some of them."""

    positions: set[int] = field(default_factory=set)
    unsure: dict[Sight, list[_Positions]] = field(default_factory=dict)

    @property
    def in_order(self) -> list[int]:
        return sorted(self.positions)


class Weighing(Generic[Member]):
    """See the module's docstring. `now_us`: the moment of `$NOW`, in microseconds since 1970."""

    def __init__(
        self, change: Change, collection: Collection, catalog: Catalog, encoders: Encoders, now_us: int
    ) -> None:
        self.change = change
        self.collection = collection
        self._catalog = catalog
        self._encoders = encoders
        self._now_us = now_us
        self._positions: dict[Group[Member], _Positions] = {}
        self._verdicts: dict[Judge, _Positions] = {}
        self._every_row: dict[Group[Member], None] = {}
        self._deciding: dict[tuple[Filter, bool], _Question] = {}
        self._completing: dict[Shown, list[int]] = {}
        self._completions: dict[Shown, dict[int, Row]] = {}
        self._incomplete: dict[tuple[Projection, Sight], str] = {}

    def __bool__(self) -> bool:
        """Whether it concerns anybody."""
        return bool(self._positions or self._every_row)

    # --- 1: memory ---

    def judge_all(self, index: Index[Member]) -> None:
        """For all groups that the index finds."""
        images = self._images()
        key = self._encoders.key
        keys = None if key is None else [key(row) for row in (*self.change.old, *self.change.new)]
        for group, positions in index.candidates(self.collection.relation_id, images, keys).items():
            self._judge(group, images, positions)

    def judge_one(self, group: Group[Member]) -> None:
        """For one group, which no index holds."""
        images = self._images()
        self._judge(group, images, range(len(images)))

    def _images(self) -> list[Image]:
        """All rows as they were, then all as they are."""
        return [Image(row, self._now_us) for row in (*self.change.old, *self.change.new)]

    def _judge(self, group: Group[Member], images: Sequence[Image], positions: Sequence[int]) -> None:
        if group.subscription.query.filter == EVERYTHING:
            self._every_row[group] = None
            return
        if group.subscription.item is not None:  # it is found by other rows than its filter lets through
            found = self._judged(group, images, positions)
        elif (known := self._verdicts.get(group.predicate)) is None:
            found = self._verdicts[group.predicate] = self._judged(group, images, positions)
        else:
            found = known
        if found:
            self._positions[group] = found

    def _judged(self, group: Group[Member], images: Sequence[Image], positions: Sequence[int]) -> _Positions:
        found = _Positions()
        begin = len(self.change.old)
        for position in positions:
            of_old = position < begin
            verdict = (group.former if of_old else group.predicate)(images[position])
            if verdict is not False:
                found.note(position if of_old else position - begin, verdict, of_old=of_old)
        return found

    # --- 2: what it could not judge ---

    def cases(self) -> list[Case]:
        for group, found in self._positions.items():
            filter_ = group.subscription.query.filter
            if found.unsure_old:
                self._ask(of_the_past(filter_), group, found, of_old=True)
            if found.unsure_new:
                self._ask(filter_, group, found, of_old=False)
        return [self._case(*asked, question) for asked, question in self._deciding.items()]

    def _ask(self, filter_: Filter, group: Group[Member], unsure: _Positions, *, of_old: bool) -> None:
        """The same filter is one question, whoever asks."""
        question = self._deciding.get((filter_, of_old))
        if question is None:
            question = self._deciding[filter_, of_old] = _Question()
        question.positions.update(unsure.unsure_old if of_old else unsure.unsure_new)
        question.unsure.setdefault(group.subscription.asked_by, []).append(unsure)

    def _case(self, filter_: Filter, of_old: bool, question: _Question) -> Case:
        rows = self.change.old if of_old else self.change.new
        images = tuple([rows[i] for i in question.in_order])
        return Case(self.collection, self._catalog, filter_, images, self._now_us, tuple(question.unsure))

    def decide(self, verdicts: Sequence[Verdicts]) -> None:
        """The answers to `cases`, in their order."""
        for of_all, ((_, of_old), question) in zip(verdicts, self._deciding.items(), strict=True):
            for verdict, unsure in zip(of_all, question.unsure.values(), strict=True):
                if isinstance(verdict, Failure):
                    for each in unsure:
                        each.failure = verdict.reason
                else:
                    let_through = _let_through(question.in_order, verdict)
                    for each in unsure:
                        each.settle(let_through, of_old=of_old)

    # --- 3: what images do not have ---

    def completions(self) -> list[Completion]:
        needed: dict[Shown, set[int]] = {}
        for group, matches in self._found():
            projection = group.subscription.query.projection
            if not projection.is_flat:
                needed.setdefault((projection, group.subscription.asked_by, False), set()).update(matches.new)
                needed.setdefault((projection, group.subscription.asked_by, True), set()).update(
                    self._old_rows(group, matches)
                )
        self._completing = {shown: sorted(positions) for shown, positions in needed.items() if positions}
        return [self._completion(shown, positions) for shown, positions in self._completing.items()]

    def _completion(self, shown: Shown, positions: Sequence[int]) -> Completion:
        projection, sight, of_old = shown
        rows = self.change.old if of_old else self.change.new
        images = tuple([rows[i] for i in positions])
        return Completion(self.collection, self._catalog, projection, images, self._now_us, sight)

    def complete(self, completed: Sequence[Completed]) -> None:
        """The answers to `completions`, in their order."""
        for answer, (shown, positions) in zip(completed, self._completing.items(), strict=True):
            if isinstance(answer, Failure):
                projection, sight, _ = shown
                self._incomplete[projection, sight] = answer.reason
            else:
                self._completions[shown] = dict(zip(positions, answer, strict=True))

    def fail(self, reason: str) -> None:
        """Nobody answers: what was asked for cannot be told."""
        for question in self._deciding.values():
            for each in chain.from_iterable(question.unsure.values()):
                if each.unsure_old or each.unsure_new:
                    each.failure = reason
        for projection, sight, _ in self._completing:
            self._incomplete.setdefault((projection, sight), reason)

    # --- then ---

    def told(self, mark: Mark | None) -> Iterator[tuple[Group[Member], tuple[Event, ...] | CannotTell]]:
        """The events of each group that has any, or why it has to start anew."""
        rendering = Rendering(self.change, self._encoders, mark, self._completions)
        for group, matches in self._found():
            if reason := self._why_incomplete(group, matches):
                yield group, CannotTell(reason)
            elif events := rendering.events(group.subscription, matches):
                yield group, events
        for group, found in self._positions.items():
            if reason := found.why_unsettled():
                yield group, CannotTell(reason)

    def _found(self) -> Iterator[tuple[Group[Member], Matches]]:
        if self._every_row:
            every_row = Matches.every_row(self.change)
            for group in self._every_row:
                yield group, every_row
        for group, found in self._positions.items():
            if not found.why_unsettled() and (found.old or found.new):
                yield group, Matches(found.old, found.new)

    def _why_incomplete(self, group: Group[Member], matches: Matches) -> str:
        """Empty when what its rows show is at hand."""
        projection = group.subscription.query.projection
        if projection.is_flat or group.subscription.query.aggregate:
            return ""
        sight = group.subscription.asked_by
        if reason := self._incomplete.get((projection, sight)):
            return reason
        needed = [(matches.new, False), (self._old_rows(group, matches), True)]
        is_complete = all((projection, sight, of_old) in self._completions for positions, of_old in needed if positions)
        return "" if is_complete else "nobody has been asked what the rows show"

    def _old_rows(self, group: Group[Member], matches: Matches) -> set[int]:
        """Those that are shown as they were, or compared. Who asks for old values gets them of rows that enter too."""
        if not needs_old_rows(group.subscription):
            return set()
        has_entered = group.subscription.old and self.change.operation is Operation.UPDATE
        return {*matches.old, *(matches.new if has_entered else ())}


def _let_through(positions: Sequence[int], verdict: Sequence[bool]) -> frozenset[int]:
    return frozenset(i for i, is_let_through in zip(positions, verdict, strict=True) if is_let_through)
