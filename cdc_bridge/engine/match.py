"""Match one change against the subscriptions with one filter, in memory or with the help of the database.

`find_matches` decides in memory which rows each filter matches. A `Match` is for what memory cannot decide. It asks two
questions, each on behalf of all security contexts that need the answer:

1. Which rows does the filter match (`evaluation_requests`, `decide`)?
2. What do these rows show that a change does not carry, such as `author.name` (`nested_fields`, `complete`)?

Then `events` has the events of each group; None for a group that needs fresh data, as a question was not answered.
Nothing here reads the clock or the network.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Generic, TypeAlias, TypeVar

from cdc_bridge.engine.collection_registry import Table
from cdc_bridge.engine.event_encoder import EncodingKey, EventEncoder, needs_old_rows
from cdc_bridge.engine.filter_index import FilterGroup, Group, Matches, TableIndex
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.change import Change, Operation
from cdc_bridge.model.cursor import EventPosition
from cdc_bridge.model.encoding import RowKey
from cdc_bridge.model.filter import Filter, Policy, leaves, of_the_past
from cdc_bridge.model.row import RowValues
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import Event, Projection
from cdc_bridge.ports import Completed, EvaluationRequest, EvaluationResult, Failure, NestedFields
from cdc_bridge.query.operands import RowVersions

Member = TypeVar("Member", bound=Hashable)

Groups: TypeAlias = Mapping[SecurityContext, Sequence[Group[Member]]]
"""Groups by the context on whose behalf the database is asked."""


def find_matches(
    index: TableIndex[Member] | None, change: Change, key: RowKey | None, now_us: int
) -> list[tuple[FilterGroup[Member], Matches | None]]:
    """Return the filters that may let rows of a change through, and what each does with them. None: all rows match.

    `index` is the table's, None if the table has no subscriber. `now_us` is the moment of `$NOW`, in microseconds since
    1970.
    """
    if index is None:
        return []
    old, new = change.old, change.new
    rows = (*old, *new) if old and new else old or new
    found: list[tuple[FilterGroup[Member], Matches | None]] = []
    versions: RowVersions | None = None
    candidates, is_certain = index.find(rows, key)
    for filters, positions in candidates.items():
        if filters.is_everything:
            found.append((filters, None))
            continue
        if is_certain and filters.is_decided:
            found.append((filters, _split(positions, len(old))))
            continue
        if versions is None:
            versions = RowVersions(rows, now_us)
        matches = filters.match(versions, positions, len(old))
        if matches is not None:
            found.append((filters, matches))
    return found


def _split(positions: Sequence[int], old_count: int) -> Matches:
    """Return positions among the old and the new rows of a change, of which the old ones come first."""
    if not old_count:
        return Matches((), positions)
    return Matches([i for i in positions if i < old_count], [i - old_count for i in positions if i >= old_count])


class _Side:
    """The old or the new rows of a change, by one filter.

    `certain` are the rows that match for sure, `unsure` those that memory cannot decide. `seen` is what the database
    says of these for each context.

    Rule: a side with unsure rows is settled once the database has answered, and never for a context that failed.
    """

    __slots__ = ("certain", "failures", "seen", "unsure")

    def __init__(self, certain: Sequence[int], unsure: Sequence[int]) -> None:
        self.certain = certain
        self.unsure = unsure
        self.seen: dict[SecurityContext, list[int]] | None = None
        self.failures: Set[SecurityContext] = frozenset()

    def decide(self, result: EvaluationResult) -> None:
        self.seen = {}
        self.failures = result.failures.keys()
        for position, contexts in zip(self.unsure, result.seen_by, strict=True):
            for context in contexts:
                self.seen.setdefault(context, []).append(position)

    def is_settled(self, context: SecurityContext) -> bool:
        """Whether it is known which rows match."""
        return not self.unsure or (self.seen is not None and context not in self.failures)

    def let_through(self, context: SecurityContext) -> Sequence[int]:
        seen = self.seen.get(context) if self.seen else None
        return sorted([*self.certain, *seen]) if seen else self.certain

    def concerns_all(self) -> bool:
        """Whether every context is concerned, whatever the database says of the unsure rows."""
        return bool(self.certain or (self.unsure and self.seen is None))

    def concerned(self) -> list[SecurityContext]:
        return [*(self.seen or ()), *self.failures]


class Match(Generic[Member]):
    """See the module's docstring."""

    def __init__(
        self,
        change: Change,
        table: Table,
        catalog: Catalog,
        now_us: int,
        filter_: Filter,
        *,
        groups: Groups[Member],
        matches: Matches | None,
    ) -> None:
        """`matches` is what memory can tell. None: all rows match."""
        self.change = change
        self.collection = table.collection
        self._key = table.key
        self._catalog = catalog
        self._now_us = now_us
        self._filter = filter_
        self._groups = groups
        if matches is None:
            matches = Matches(range(len(change.old)), range(len(change.new)))
        self._old = _Side(matches.old, matches.unsure_old)
        self._new = _Side(matches.new, matches.unsure_new)
        self._completing: dict[EncodingKey, list[int]] = {}
        self._nested_values: dict[EncodingKey, dict[int, RowValues]] = {}
        self._incomplete: set[tuple[Projection, SecurityContext]] = set()

    @property
    def groups(self) -> list[Group[Member]]:
        """Return all groups that the change may concern."""
        return [group for groups in self._groups.values() for group in groups]

    @property
    def subject(self) -> Hashable:
        """Return what is asked about, without rows and contexts. A slow subject is expected to be slow again."""
        projections = frozenset([group.subscription.query.projection for group in self.groups])
        return self.collection.relation_id, self._filter, projections

    @property
    def has_policy(self) -> bool:
        """Whether the filter has a policy that only PostgreSQL can evaluate."""
        return any(isinstance(leaf, Policy) for leaf in leaves(self._filter))

    # --- which rows the filter lets through ---

    def evaluation_requests(self) -> list[EvaluationRequest]:
        asked = (
            (self._old, self.change.old, of_the_past(self._filter)),
            (self._new, self.change.new, self._filter),
        )
        contexts = tuple(self._groups)
        return [
            EvaluationRequest(
                self.collection, self._catalog, filter_, tuple([rows[i] for i in side.unsure]), self._now_us, contexts
            )
            for side, rows, filter_ in asked
            if side.unsure
        ]

    def decide(self, results: Sequence[EvaluationResult]) -> None:
        """Take the answers to `evaluation_requests`, in their order."""
        for side, result in zip([side for side in (self._old, self._new) if side.unsure], results, strict=True):
            side.decide(result)

    # --- what these rows show ---

    def nested_fields(self) -> list[NestedFields]:
        needed: dict[EncodingKey, set[int]] = {}
        self._incomplete.clear()
        for context in self._concerned():
            if (matches := self._matches(context)) is None:
                continue
            for group in self._groups[context]:
                projection = group.subscription.query.projection
                if not projection.is_flat:
                    needed.setdefault((projection, context, False), set()).update(matches.new)
                    needed.setdefault((projection, context, True), set()).update(self._old_rows(group, matches))
        self._completing = {shown: sorted(positions) for shown, positions in needed.items() if positions}
        return [self._nested_fields(shown, positions) for shown, positions in self._completing.items()]

    def _nested_fields(self, shown: EncodingKey, positions: Sequence[int]) -> NestedFields:
        projection, context, of_old = shown
        rows = self.change.old if of_old else self.change.new
        return NestedFields(
            self.collection, self._catalog, projection, tuple([rows[i] for i in positions]), self._now_us, context
        )

    def complete(self, completed: Sequence[Completed]) -> None:
        """Take the answers to `nested_fields`, in their order."""
        for answer, (shown, positions) in zip(completed, self._completing.items(), strict=True):
            if isinstance(answer, Failure):
                projection, context, _ = shown
                self._incomplete.add((projection, context))
            else:
                self._nested_values[shown] = dict(zip(positions, answer, strict=True))

    # --- what follows ---

    def events(self, event_position: EventPosition | None) -> Iterator[tuple[Group[Member], tuple[Event, ...] | None]]:
        """Yield the events of each group that has any. None: it needs fresh data."""
        encoder = EventEncoder(self.change, self._key, event_position, self._nested_values)
        for context in self._concerned():
            matches = self._matches(context)
            for group in self._groups[context]:
                if matches is None or not self._is_complete(group, matches):
                    yield group, None
                elif (matches.old or matches.new) and (events := encoder.events(group.subscription, matches)):
                    yield group, events

    def _concerned(self) -> Iterable[SecurityContext]:
        """Contexts to which a row may be let through."""
        if self._old.concerns_all() or self._new.concerns_all():
            return self._groups
        found = dict.fromkeys([*self._old.concerned(), *self._new.concerned()])
        return [context for context in found if context in self._groups]

    def _matches(self, context: SecurityContext) -> Matches | None:
        """Return the rows that are let through; None as long as that is not known."""
        if not (self._old.is_settled(context) and self._new.is_settled(context)):
            return None
        return Matches(self._old.let_through(context), self._new.let_through(context))

    def _is_complete(self, group: Group[Member], matches: Matches) -> bool:
        """Whether what its rows show is at hand."""
        if not group.is_nested:
            return True
        projection, context = group.subscription.query.projection, group.subscription.asked_by
        needed = ((matches.new, False), (self._old_rows(group, matches), True))
        return (projection, context) not in self._incomplete and all(
            (projection, context, of_old) in self._nested_values for positions, of_old in needed if positions
        )

    def _old_rows(self, group: Group[Member], matches: Matches) -> set[int]:
        """Return the rows that are shown as they were, or compared. Old values are shown of rows that enter too."""
        if not needs_old_rows(group.subscription):
            return set()
        has_entered = group.subscription.old and self.change.operation is Operation.UPDATE
        return {*matches.old, *(matches.new if has_entered else ())}
