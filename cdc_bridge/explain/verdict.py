"""Say what a subscription does with a change, and which of its conditions say so.

The events are those of the engine (`find_matches`, `Match`), so they are what a bridge sends. Each condition is judged
by itself besides: in memory where memory can decide, else by PostgreSQL, with the role and claims of the client.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cdc_bridge.engine.collection_registry import CollectionRegistry
from cdc_bridge.engine.evaluation import judged_at, settle
from cdc_bridge.engine.event_encoder import EventEncoder
from cdc_bridge.engine.filter_index import TableIndex
from cdc_bridge.engine.match import Match, find_matches
from cdc_bridge.model.catalog import Catalog, Collection, RowPolicy
from cdc_bridge.model.change import Change, Operation
from cdc_bridge.model.filter import EVERYTHING, Filter, Policy, of_the_past
from cdc_bridge.model.subscription import Event, EventKind, Reason, Subscription
from cdc_bridge.ports import EvaluationRequest, Failure, RowEvaluator
from cdc_bridge.query.operands import RowVersion
from cdc_bridge.query.predicate import compile_filter

_KINDS = {Operation.INSERT: EventKind.CREATE, Operation.UPDATE: EventKind.UPDATE, Operation.DELETE: EventKind.DELETE}


class Truth(enum.StrEnum):
    """`UNKNOWN`: a policy is NULL, which lets nothing through. `ERROR`: it cannot be evaluated."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Condition:
    """One of the conditions of a subscription. `kind` is `filter` (a part of the client's), `rule` or `policy`; `null`
    says whether a policy is NULL. `text` says which one. `obstacle`: why it cannot be evaluated.
    """

    kind: str
    text: str
    filter: Filter
    is_permissive: bool = False
    obstacle: str = ""

    def __str__(self) -> str:
        if self.kind == "filter":
            return f"the filter {self.text}"
        return "the filter of the rule" if self.kind == "rule" else f'the {self.quality} policy "{self.text}"'

    @property
    def quality(self) -> str:
        return "permissive" if self.is_permissive else "restrictive"


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict of a condition on the old and on the new version; None where there is no version."""

    condition: Condition
    old: Truth | None = None
    new: Truth | None = None
    reason: str = ""

    def of(self, version: str) -> Truth | None:
        return self.new if version == "new" else self.old


class Outcome(enum.StrEnum):
    """`RESYNC`: the client gets fresh data. `UNKNOWN`: the table is not as it was when the change was written."""

    DELIVERED = "delivered"
    NOT_DELIVERED = "not_delivered"
    RESYNC = "resync"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of one change. `causes` say why the row is not delivered, or leaves: `filter`, `rule`, `policy`,
    `event` or `layout`, each with a sentence.
    """

    change: Change
    outcome: Outcome
    judged: tuple[Judged, ...] = ()
    events: tuple[Event, ...] = ()
    causes: tuple[tuple[str, str], ...] = field(default=())


def policy_conditions(collection: Collection, policies: Sequence[RowPolicy]) -> list[Condition]:
    """Return two conditions for each policy: whether it is true, and whether it is NULL."""
    table, by_name = collection.relation.name, collection.by_name
    found = []
    for policy in policies:
        excluded = [name for name in policy.columns if name not in by_name]
        obstacle = policy.obstacle or (f'it uses the column "{excluded[0]}", which is excluded' if excluded else "")
        used = tuple([by_name[name] for name in policy.columns if name in by_name])
        for kind, text in (("policy", policy.expression), ("null", f"({policy.expression}) IS NULL")):
            leaf = Policy(table, text, used, policy.name)
            found.append(Condition(kind, policy.name, leaf, policy.is_permissive, obstacle))
    return found


class Judge:
    """See the module's docstring."""

    def __init__(
        self,
        subscription: Subscription,
        catalog: Catalog,
        evaluator: RowEvaluator,
        conditions: Sequence[Condition],
        *,
        has_policies: bool,
    ) -> None:
        """`has_policies`: row-level security applies, although there may be no policy."""
        self._subscription = subscription
        self._has_policies = has_policies
        self._catalog = catalog
        self._registry = CollectionRegistry()
        self._registry.adopt(catalog)
        self._whole = catalog.by_relation_id[subscription.collection.relation_id]
        self._evaluator = evaluator
        self._conditions = [each for each in conditions if each.filter != EVERYTHING]
        self._index: TableIndex[int] = TableIndex()
        self._index.add(subscription, 0)

    async def verdict(self, change: Change) -> Verdict:
        rows = change.new or change.old
        if rows and tuple(rows[0].columns) != self._registry.tables[change.relation_id].names:
            return Verdict(change, Outcome.UNKNOWN, causes=(("layout", "the table had other columns then"),))
        judged = tuple(_without_nulls(await self._judge(change)))
        events = await self._events(change)
        if events is None:
            return Verdict(change, Outcome.RESYNC, judged)
        is_left = any(event.reason is Reason.LEAVE for event in events)
        causes = tuple(self._causes(change, judged)) if is_left or not events else ()
        return Verdict(change, Outcome.DELIVERED if events else Outcome.NOT_DELIVERED, judged, events, causes)

    async def _events(self, change: Change) -> tuple[Event, ...] | None:
        """Return the events that the engine makes of a change. None: it would send fresh data."""
        table, now_us = self._registry.tables[change.relation_id], judged_at(change)
        if change.operation is Operation.TRUNCATE:
            is_whole = change.relation_id == table.collection.relation_id
            return EventEncoder(change, table.key).events(self._subscription) if is_whole else None
        matches: list[Match[int]] = [
            Match(change, table, self._catalog, now_us, group.filter, groups=group.by_context, matches=found)
            for group, found in find_matches(self._index, change, table.key, now_us)
        ]
        await settle(self._evaluator, matches)
        found = [events for match in matches for _, events in match.events(None)]
        return found[0] if found else ()

    async def obstacles(self) -> tuple[tuple[str, str], ...]:
        """Return the policies that cannot be evaluated whatever the row is, each with the reason."""
        policies = [each for each in self._conditions if each.kind == "policy"]
        context = self._subscription.context
        results = await self._evaluator.decide(
            [EvaluationRequest(self._whole, self._catalog, each.filter, (), 0, (context,)) for each in policies]
        )
        failures = [result.failures.get(context) for result in results]
        reasons = [each.obstacle or (_reason(f) if f else "") for each, f in zip(policies, failures, strict=True)]
        return tuple([(each.text, reason) for each, reason in zip(policies, reasons, strict=True) if reason])

    # --- condition by condition ---

    async def _judge(self, change: Change) -> list[Judged]:
        """Judge every condition, for the old and for the new version."""
        now_us, context = judged_at(change), self._subscription.context
        truths: dict[tuple[int, bool], Truth] = {}
        reasons: dict[int, str] = {}
        asked: dict[tuple[int, bool], EvaluationRequest] = {}
        for number, condition in enumerate(self._conditions):
            for is_old, rows in ((True, change.old), (False, change.new)):
                if not rows:
                    continue
                if condition.obstacle:
                    truths[number, is_old], reasons[number] = Truth.ERROR, condition.obstacle
                    continue
                filter_ = of_the_past(condition.filter) if is_old else condition.filter
                said = compile_filter(filter_)(RowVersion(rows[0], now_us))
                if said is None:
                    asked[number, is_old] = EvaluationRequest(
                        self._whole, self._catalog, filter_, (rows[0],), now_us, (context,)
                    )
                else:
                    truths[number, is_old] = Truth.TRUE if said else Truth.FALSE
        results = await self._evaluator.decide(list(asked.values()))
        for (number, is_old), result in zip(asked, results, strict=True):
            if failure := result.failures.get(context):
                truths[number, is_old], reasons[number] = Truth.ERROR, _reason(failure)
            else:
                truths[number, is_old] = Truth.TRUE if context in result.seen_by[0] else Truth.FALSE
        return [
            Judged(each, truths.get((i, True)), truths.get((i, False)), reasons.get(i, ""))
            for i, each in enumerate(self._conditions)
        ]

    def _causes(self, change: Change, judged: Sequence[Judged]) -> Iterator[tuple[str, str]]:
        """Yield why the row as it is after the change (of a DELETE, as it was) is not for the client."""
        version = "new" if change.new else "old"
        failed = [each for each in judged if each.of(version) is not Truth.TRUE]
        permissive = [each for each in judged if each.condition.is_permissive]
        for each in failed:
            if not each.condition.is_permissive:
                yield each.condition.kind, f"{each.condition} is {each.of(version)} of the {version} row"
        if self._has_policies and all(each in failed for each in permissive):
            said_all = ", ".join(f'"{each.condition.text}" is {each.of(version)}' for each in permissive)
            yield "policy", f"no permissive policy is true of the {version} row: {said_all or 'there is none'}"
        if not failed and (kind_ := _KINDS[change.operation]) not in self._subscription.wanted:
            wanted = sorted(each.value for each in self._subscription.wanted if each is not EventKind.INIT)
            yield "event", f"the client gets no {kind_.value}, but {', '.join(wanted) or 'nothing'}"


def _reason(failure: Failure) -> str:
    """Return the reason, without what a function says: that can be a row."""
    return "a function raised an error: the bridge's log has it" if failure.is_raised else failure.reason


def _without_nulls(judged: Sequence[Judged]) -> Iterator[Judged]:
    """Yield what is judged; a policy of which "is NULL" is true is unknown."""
    nulls = {each.condition.text: each for each in judged if each.condition.kind == "null"}
    for each in judged:
        if each.condition.kind == "policy":
            null = nulls[each.condition.text]
            old = Truth.UNKNOWN if null.old is Truth.TRUE else each.old
            new = Truth.UNKNOWN if null.new is Truth.TRUE else each.new
            yield Judged(each.condition, old, new, each.reason)
        elif each.condition.kind != "null":
            yield each
