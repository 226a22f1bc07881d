"""What one change means to the groups of subscriptions that it may concern, found out in three steps.

1. Memory judges which rows each filter lets through, as they were and as they are (`judge_all`).
2. Where it cannot, the database is asked: `cases` go out, `decide` takes the answers in.
3. What is shown of rows that their images do not have is asked for as well: `completions`, `complete`.

A step without questions costs nothing. Then each group has its events, or a `CannotTell` in their place.
Equal questions are asked once, on behalf of all who ask. `split` takes apart what needs an answer and what does not, so
that the second can be sent at once. Never reads the clock or the network.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from cdc_bridge.engine.event_encoder import EventEncoder, Matches, Shown, needs_old_rows
from cdc_bridge.engine.filter_index import FilterGroup, FilterIndex, Group
from cdc_bridge.engine.judging import Judged, Question, Side
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.change import Change, Operation
from cdc_bridge.model.cursor import EventPosition
from cdc_bridge.model.filter import Filter, of_the_past
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import Event, Projection
from cdc_bridge.model.table import Table
from cdc_bridge.ports import Case, Completed, Completion, Failure, Verdict
from cdc_bridge.query.row_version import RowVersion, RowVersions

Member = TypeVar("Member")


@dataclass(frozen=True, slots=True)
class CannotTell:
    """In the place of a group's events: the database could not say what the change means to it."""

    reason: str


class Weighing(Generic[Member]):
    """See the module's docstring. `now_us`: the moment of `$NOW`, in microseconds since 1970."""

    def __init__(self, change: Change, collection: Collection, catalog: Catalog, table: Table, now_us: int) -> None:
        self.change = change
        self.collection = collection
        self._catalog = catalog
        self._table = table
        self._now_us = now_us
        self._judged: dict[FilterGroup[Member], Judged] = {}
        self._every_row: list[FilterGroup[Member]] = []
        self._questions: dict[tuple[Filter, bool], Question] = {}
        self._completing: dict[Shown, list[int]] = {}
        self._completions: dict[Shown, dict[int, RowValues]] = {}
        self._incomplete: dict[tuple[Projection, SecurityContext], str] = {}
        self._elsewhere: set[Group[Member]] = set()
        self.parts: list[Weighing[Member]] = []

    def __bool__(self) -> bool:
        """Whether it concerns anybody."""
        return bool(self._judged or self._every_row)

    # --- 1: memory ---

    def judge_all(self, index: FilterIndex[Member]) -> None:
        """For all groups that the index finds."""
        rows = (*self.change.old, *self.change.new)
        versions = RowVersions(rows, self._now_us)
        for group, positions in index.candidates(self.collection.relation_id, rows, self._table.key).items():
            self._judge(group, versions, positions)

    def judge_one(self, filters: FilterGroup[Member]) -> None:
        """For one group, which no index holds."""
        versions = RowVersions((*self.change.old, *self.change.new), self._now_us)
        self._judge(filters, versions, range(len(versions)))

    def _judge(self, filters: FilterGroup[Member], images: Sequence[RowVersion], positions: Sequence[int]) -> None:
        if filters.is_everything:
            self._every_row.append(filters)
            return
        judged = Judged()
        begin = len(self.change.old)
        for position in positions:
            of_old = position < begin
            verdict = (filters.former if of_old else filters.predicate)(images[position])
            if verdict is not False:
                side = judged.old if of_old else judged.new
                (side.unsure if verdict is None else side.certain).append(position if of_old else position - begin)
        if judged:
            self._judged[filters] = judged

    # --- between: what can be told without asking, and what cannot ---

    def split(self) -> None:
        """Leave only what memory can tell. The rest is in `parts`, one for each filter that has to be asked about."""
        for filters, judged in list(self._judged.items()):
            if judged.is_asked:
                del self._judged[filters]
                self.parts.append(self._part({filters: judged}, []))
            elif nested := [group for group in filters.groups if _is_completed(group)]:
                self.parts.append(self._part({filters: judged}, [], but=set(filters.groups).difference(nested)))
                self._elsewhere.update(nested)
        for filters in self._every_row:
            if nested := [group for group in filters.groups if _is_completed(group)]:
                self.parts.append(self._part({}, [filters], but=set(filters.groups).difference(nested)))
                self._elsewhere.update(nested)

    def _part(
        self,
        judged: dict[FilterGroup[Member], Judged],
        every_row: list[FilterGroup[Member]],
        but: Iterable[Group[Member]] = (),
    ) -> Weighing[Member]:
        part: Weighing[Member] = Weighing(self.change, self.collection, self._catalog, self._table, self._now_us)
        part._judged, part._every_row = judged, every_row
        part._elsewhere.update(but)
        return part

    def restrict(self, groups: Set[Group[Member]]) -> None:
        """Ask and tell nothing but what concerns these."""
        self._judged = {each: judged for each, judged in self._judged.items() if not groups.isdisjoint(each.groups)}
        self._every_row = [each for each in self._every_row if not groups.isdisjoint(each.groups)]
        self._elsewhere.update(group for group in self._concerned() if group not in groups)

    @property
    def groups(self) -> list[Group[Member]]:
        """All that it may concern."""
        return [group for group in self._concerned() if group not in self._elsewhere]

    @property
    def subject(self) -> Hashable:
        """What is asked about, whatever the rows and whoever asks: as slow once as another time."""
        filters = frozenset(each.filter for each in (*self._judged, *self._every_row))
        return self.collection.relation_id, filters, frozenset(g.subscription.query.projection for g in self.groups)

    def _concerned(self) -> Iterator[Group[Member]]:
        for filters in (*self._judged, *self._every_row):
            yield from filters.groups

    # --- 2: what it could not judge ---

    def cases(self) -> list[Case]:
        for filters, judged in self._judged.items():
            if judged.old.unsure:
                self._ask(of_the_past(filters.filter), filters, judged.old, of_old=True)
            if judged.new.unsure:
                self._ask(filters.filter, filters, judged.new, of_old=False)
        return [self._case(*asked, question) for asked, question in self._questions.items()]

    def _ask(self, filter_: Filter, filters: FilterGroup[Member], side: Side, *, of_old: bool) -> None:
        """The same filter is one question, whoever asks."""
        question = self._questions.get((filter_, of_old))
        if question is None:
            question = self._questions[filter_, of_old] = Question()
        question.positions.update(side.unsure)
        question.contexts.update(dict.fromkeys(filters.by_context))
        question.sides.append(side)

    def _case(self, filter_: Filter, of_old: bool, question: Question) -> Case:
        rows = self.change.old if of_old else self.change.new
        images = tuple([rows[i] for i in question.in_order])
        return Case(self.collection, self._catalog, filter_, images, self._now_us, tuple(question.contexts))

    def decide(self, verdicts: Sequence[Verdict]) -> None:
        """The answers to `cases`, in their order."""
        for verdict, question in zip(verdicts, self._questions.values(), strict=True):
            question.decide(verdict)

    # --- 3: what images do not have ---

    def completions(self) -> list[Completion]:
        needed: dict[Shown, set[int]] = {}
        for group, matches in self._found():
            projection, context = group.subscription.query.projection, group.subscription.asked_by
            if not projection.is_flat:
                needed.setdefault((projection, context, False), set()).update(matches.new)
                needed.setdefault((projection, context, True), set()).update(self._old_rows(group, matches))
        self._completing = {shown: sorted(positions) for shown, positions in needed.items() if positions}
        return [self._completion(shown, positions) for shown, positions in self._completing.items()]

    def _completion(self, shown: Shown, positions: Sequence[int]) -> Completion:
        projection, context, of_old = shown
        rows = self.change.old if of_old else self.change.new
        images = tuple([rows[i] for i in positions])
        return Completion(self.collection, self._catalog, projection, images, self._now_us, context)

    def complete(self, completed: Sequence[Completed]) -> None:
        """The answers to `completions`, in their order."""
        for answer, (shown, positions) in zip(completed, self._completing.items(), strict=True):
            if isinstance(answer, Failure):
                projection, context, _ = shown
                self._incomplete[projection, context] = answer.reason
            else:
                self._completions[shown] = dict(zip(positions, answer, strict=True))

    def fail(self, reason: str) -> None:
        """Nobody answers: what was asked for cannot be told."""
        for question in self._questions.values():
            question.fail(reason)
        for projection, context, _ in self._completing:
            self._incomplete.setdefault((projection, context), reason)

    # --- then ---

    def told(
        self, event_position: EventPosition | None
    ) -> Iterator[tuple[Group[Member], tuple[Event, ...] | CannotTell]]:
        """The events of each group that has any, or why it has to start anew."""
        rendering = EventEncoder(self.change, self._table, event_position, self._completions)
        for group, matches in self._found():
            if reason := self._why_incomplete(group, matches):
                yield group, CannotTell(reason)
            elif events := rendering.events(group.subscription, matches):
                yield group, events
        for filters, judged in self._judged.items():
            for context in judged.concerned(filters.by_context) if judged.is_asked else ():
                if reason := judged.why_unsettled(context):
                    yield from ((group, CannotTell(reason)) for group in filters.by_context[context])

    def _found(self) -> Iterator[tuple[Group[Member], Matches]]:
        if not self._elsewhere:
            return self._found_anywhere()
        return ((group, matches) for group, matches in self._found_anywhere() if group not in self._elsewhere)

    def _found_anywhere(self) -> Iterator[tuple[Group[Member], Matches]]:
        if self._every_row:
            every_row = Matches.every_row(self.change)
            for filters in self._every_row:
                yield from ((group, every_row) for group in filters.groups)
        for filters, judged in self._judged.items():
            if judged.is_asked:
                yield from self._found_by_asking(filters, judged)
            else:
                matches = Matches(judged.old.certain, judged.new.certain)
                yield from ((group, matches) for group in filters.groups)

    def _found_by_asking(self, filters: FilterGroup[Member], judged: Judged) -> Iterator[tuple[Group[Member], Matches]]:
        for context in judged.concerned(filters.by_context):
            matches = judged.matches(context)
            if (matches.old or matches.new) and not judged.why_unsettled(context):
                yield from ((group, matches) for group in filters.by_context[context])

    def _why_incomplete(self, group: Group[Member], matches: Matches) -> str:
        """Empty when what its rows show is at hand."""
        projection = group.subscription.query.projection
        if projection.is_flat or group.subscription.query.aggregate:
            return ""
        context = group.subscription.asked_by
        if reason := self._incomplete.get((projection, context)):
            return reason
        needed = [(matches.new, False), (self._old_rows(group, matches), True)]
        is_complete = all(
            (projection, context, of_old) in self._completions for positions, of_old in needed if positions
        )
        return "" if is_complete else "nobody has been asked what the rows show"

    def _old_rows(self, group: Group[Member], matches: Matches) -> set[int]:
        """Those that are shown as they were, or compared. Who asks for old values gets them of rows that enter too."""
        if not needs_old_rows(group.subscription):
            return set()
        has_entered = group.subscription.old and self.change.operation is Operation.UPDATE
        return {*matches.old, *(matches.new if has_entered else ())}


def _is_completed(group: Group[Member]) -> bool:
    """Whether the database is asked what its rows show."""
    query = group.subscription.query
    return not (query.projection.is_flat or query.aggregate)
