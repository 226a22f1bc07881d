"""Reads clients' queries, as far as they may see what they ask for. What only PostgreSQL knows, it is asked: how a
value is spelled, and what `permits` needs.

Bound: `KNOWN_BYTES_MAX` of spelled values. Policy: past it all are forgotten; to ask again costs one round trip. What
all that are here need at once may be more, until somebody asks for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from cdc_bridge.access.answers import Unanswered
from cdc_bridge.access.permits import Permits
from cdc_bridge.engine.relating import tables_read
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError, forbidden_collection, forbidden_event
from cdc_bridge.model.filter import EVERYTHING
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.model.subscription import EVERY_EVENT, EventKind, Query, Subscription
from cdc_bridge.ports import RowEvaluator
from cdc_bridge.query.normal_form import all_of
from cdc_bridge.query.query import QueryLimits, resolve
from cdc_bridge.query.speller import Spelled, Spelling, Unspelled
from cdc_bridge.wanted import check_still_wanted

KNOWN_BYTES_MAX = 8 * 1024 * 1024
KNOWN_BYTES_EACH = 300
"""What an answer occupies besides its texts."""

AT_ONCE_MAX = 1000
"""Values that are asked for together."""

Unknown = Unspelled | Unanswered
"""What `learn` can mend."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A query, read for somebody. `rights` is a digest of what may be seen of its tables.

    `allowed` and `is_guarded` are as in `Subscription`.
    """

    collection: Collection
    query: Query
    context: SecurityContext
    rights: bytes = b""
    allowed: frozenset[EventKind] = EVERY_EVENT
    is_guarded: bool = False

    def require(self, event: EventKind | None) -> None:
        """Raises `RequestError` when somebody asks for an event alone that is not to be told."""
        if event is not None and event not in self.allowed:
            raise forbidden_event(event.value, self.collection.name)

    def narrowed(self, subscription: Subscription) -> Subscription:
        """To what may be seen of it."""
        return replace(
            subscription,
            collection=self.collection,
            query=self.query,
            context=self.context,
            rights=self.rights,
            allowed=self.allowed,
            is_guarded=self.is_guarded,
        )


class QueryParser:
    """See the module's docstring. Without an evaluator such values are refused. `urgent`: whom the stream has asked."""

    def __init__(
        self,
        evaluator: RowEvaluator | None,
        limits: QueryLimits,
        permits: Permits,
        *,
        urgent: RowEvaluator | None = None,
    ) -> None:
        self.permits = permits
        self._evaluator = evaluator
        self._urgent = urgent or evaluator
        self._limits = limits
        self._spelled: dict[Spelled, bytes | None] = {}
        self._spelled_bytes = 0

    async def read(
        self, raw: Mapping[str, Any], name: str, catalog: Catalog, principal: Principal, *, to_follow: bool
    ) -> Understood:
        """See `read_at_once`. Raises `RequestError` and `SourceUnavailable`."""
        while True:
            check_still_wanted()
            try:
                return self.read_at_once(raw, name, catalog, principal, to_follow=to_follow)
            except (Unspelled, Unanswered) as unknown:
                await self.learn(unknown)
            except RequestError:
                self.permits.forget_obstacles(catalog)
                raise

    def read_at_once(
        self, raw: Mapping[str, Any], name: str, catalog: Catalog, principal: Principal, *, to_follow: bool
    ) -> Understood:
        """`to_follow`: the policies that rows have to meet become part of the query; where rows are only read,
        PostgreSQL applies them by itself.

        Raises `RequestError`, and `Unspelled` or `Unanswered` when there is something to `learn` first.
        """
        asked = self._asked(raw, name, catalog, principal)
        return self._followed(asked, catalog, principal) if to_follow else asked

    def _asked(self, raw: Mapping[str, Any], name: str, catalog: Catalog, principal: Principal) -> Understood:
        """As far as the principal may see it by grants and rules."""
        spelling = Spelling(self._spelled)
        ruling = self.permits.ruling(principal, catalog, spelling)
        view = self.permits.view(principal, catalog, ruling.unseen)
        collection = view.by_name.get(name)
        if collection is None:
            raise forbidden_collection(name)
        query = resolve(raw, collection, self._limits, view, spelling=spelling, claims=principal.claim_values)
        ruled = ruling.context.rows_of(collection.relation_id)
        query = replace(query, filter=all_of([query.filter, ruled]))
        rule = self.permits.rule(principal, collection)
        allowed = EVERY_EVENT if rule is None else rule.events
        return Understood(collection, query, ruling.context, allowed=allowed, is_guarded=ruled != EVERYTHING)

    def _followed(self, asked: Understood, catalog: Catalog, principal: Principal) -> Understood:
        """And by policies."""
        collection, query = asked.collection, asked.query
        guard = self.permits.guard(catalog.by_relation_id[collection.relation_id], principal, catalog)
        rights = self.permits.rights(principal, tables_read(collection, query, asked.context), catalog)
        if guard == EVERYTHING:
            return replace(asked, rights=rights)
        query = replace(query, filter=all_of([query.filter, guard]), asked=query.filter)
        return replace(asked, query=query, rights=rights, is_guarded=True)

    def proofread(self, catalog: Catalog) -> None:
        """A catalog has come, or other rules: tell the operator what does not fit."""
        self.permits.proofread(catalog, Spelling(self._spelled))

    def sees_otherwise(self, catalog: Catalog) -> Callable[[Subscription], bool]:
        """A test: whether a subscription shows something else by this catalog, or by the rules as they are now."""
        known: dict[tuple[Principal, frozenset[int]], bytes | None] = {}

        def is_so(subscription: Subscription) -> bool:
            query, principal = subscription.query, subscription.context.principal
            asked = replace(query, filter=query.of_table, asked=None)
            tables = tables_read(subscription.collection, asked, subscription.context)
            if (principal, tables) not in known:
                known[principal, tables] = self._rights(principal, tables, catalog)
            return known[principal, tables] != subscription.rights

        return is_so

    def _rights(self, principal: Principal, tables: frozenset[int], catalog: Catalog) -> bytes | None:
        """None for whom we stumble over: what becomes of it, and says why, is for who judges it."""
        try:
            return self.permits.rights(principal, tables, catalog)
        except Exception:
            return None

    async def learn(self, unknown: Unknown) -> None:
        """Raises `SourceUnavailable`."""
        if self._spelled_bytes > KNOWN_BYTES_MAX:
            self._spelled.clear()
            self._spelled_bytes = 0
        self.permits.make_room()
        await self._learn([unknown], self._evaluator)

    async def learn_all(self, unknown: Sequence[Unknown]) -> None:
        """Nothing is forgotten before all is known, or it never would be. Raises `SourceUnavailable`."""
        for begin in range(0, len(unknown), AT_ONCE_MAX):
            await self._learn(unknown[begin : begin + AT_ONCE_MAX], self._urgent)

    async def _learn(self, unknown: Sequence[Unknown], evaluator: RowEvaluator | None) -> None:
        if evaluator is None:
            raise RequestError("SERVICE_UNAVAILABLE", "Nobody can say how a value of this type is spelled.")
        await self._spell((each.needed for each in unknown if isinstance(each, Unspelled)), evaluator)
        if unanswered := [each for each in unknown if isinstance(each, Unanswered)]:
            await self.permits.learn(unanswered, evaluator)

    async def _spell(self, needed: Iterable[Iterable[Spelled]], evaluator: RowEvaluator) -> None:
        values = list(dict.fromkeys(chain.from_iterable(needed)))
        for spelled, raw in zip(values, await evaluator.spell(values) if values else (), strict=True):
            self._spelled[spelled] = raw
            self._spelled_bytes += len(spelled[1]) + len(raw or b"") + KNOWN_BYTES_EACH
