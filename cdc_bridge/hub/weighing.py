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
from typing import Generic, TypeVar

from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Change, Operation, Row
from cdc_bridge.cursor import Mark
from cdc_bridge.filters.filter import EVERYTHING, Filter, of_the_past
from cdc_bridge.filters.image import Image, Judge
from cdc_bridge.hub.rendering import Encoders, Matches, Rendering, needs_old_rows
from cdc_bridge.index.matching import Group, Index
from cdc_bridge.projection import Projection
from cdc_bridge.questions import Case, Completed, Completion, Failure, Verdict
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
        self._asked: list[list[int]] = []
        self._deciding: dict[tuple[Filter, bool], list[_Positions]] = {}
        self._completing: dict[tuple[Projection, bool], list[int]] = {}
        self._completions: dict[tuple[Projection, bool], dict[int, Row]] = {}
        self._incomplete: dict[Projection, str] = {}

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
                self._deciding.setdefault((of_the_past(filter_), True), []).append(found)
            if found.unsure_new:
                self._deciding.setdefault((filter_, False), []).append(found)
        return [self._case(filter_, unsure, of_old=of_old) for (filter_, of_old), unsure in self._deciding.items()]

    def _case(self, filter_: Filter, unsure: Sequence[_Positions], *, of_old: bool) -> Case:
        positions = sorted({i for each in unsure for i in (each.unsure_old if of_old else each.unsure_new)})
        self._asked.append(positions)
        rows = self.change.old if of_old else self.change.new
        return Case(self.collection, self._catalog, filter_, tuple([rows[i] for i in positions]), self._now_us)

    def decide(self, verdicts: Sequence[Verdict]) -> None:
        """The answers to `cases`, in their order."""
        asked = zip(self._deciding.items(), self._asked, strict=True)
        for verdict, (((_, of_old), unsure), positions) in zip(verdicts, asked, strict=True):
            for each in unsure:
                if isinstance(verdict, Failure):
                    each.failure = verdict.reason
                else:
                    each.settle(_let_through(positions, verdict), of_old=of_old)

    # --- 3: what images do not have ---

    def completions(self) -> list[Completion]:
        needed: dict[tuple[Projection, bool], set[int]] = {}
        for group, matches in self._found():
            projection = group.subscription.query.projection
            if not projection.is_flat:
                needed.setdefault((projection, False), set()).update(matches.new)
                needed.setdefault((projection, True), set()).update(self._old_rows(group, matches))
        self._completing = {key: sorted(positions) for key, positions in needed.items() if positions}
        return [self._completion(key, positions) for key, positions in self._completing.items()]

    def _completion(self, key: tuple[Projection, bool], positions: Sequence[int]) -> Completion:
        projection, of_old = key
        rows = self.change.old if of_old else self.change.new
        images = tuple([rows[i] for i in positions])
        return Completion(self.collection, self._catalog, projection, images, self._now_us)

    def complete(self, completed: Sequence[Completed]) -> None:
        """The answers to `completions`, in their order."""
        for answer, (key, positions) in zip(completed, self._completing.items(), strict=True):
            if isinstance(answer, Failure):
                self._incomplete[key[0]] = answer.reason
            else:
                self._completions[key] = dict(zip(positions, answer, strict=True))

    def fail(self, reason: str) -> None:
        """Nobody answers: what was asked for cannot be told."""
        for unsure in self._deciding.values():
            for each in unsure:
                if each.unsure_old or each.unsure_new:
                    each.failure = reason
        for projection, _ in self._completing:
            self._incomplete.setdefault(projection, reason)

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
        if reason := self._incomplete.get(projection):
            return reason
        needed = [(matches.new, False), (self._old_rows(group, matches), True)]
        is_complete = all((projection, of_old) in self._completions for positions, of_old in needed if positions)
        return "" if is_complete else "nobody has been asked what the rows show"

    def _old_rows(self, group: Group[Member], matches: Matches) -> set[int]:
        """Those that are shown as they were, or compared. Who asks for old values gets them of rows that enter too."""
        if not needs_old_rows(group.subscription, self.collection):
            return set()
        has_entered = group.subscription.old and self.change.operation is Operation.UPDATE
        return {*matches.old, *(matches.new if has_entered else ())}


def _let_through(positions: Sequence[int], verdict: Sequence[bool]) -> frozenset[int]:
    return frozenset(i for i, is_let_through in zip(positions, verdict, strict=True) if is_let_through)
