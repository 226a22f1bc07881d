"""Parse clients' queries, within the rights of the principal.

Rule: a pass over a request never waits. It collects every question that only PostgreSQL can answer: the text form of a
literal, the value of an expression of claims, whether a policy can be evaluated. All of them are looked up in one call,
and a second pass finds every answer in the caches. (A third one is needed only where the claims' values leave more of a
policy to PostgreSQL than its text showed.)

Bound: `KNOWN_BYTES_MAX` of normalized literals. Policy: past it all are forgotten; to ask again costs one round trip.
The literals of current requests may exceed it until the next request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cdc_bridge.access.access_policy import AccessPolicy, Questions
from cdc_bridge.access.rules import RulePolicy
from cdc_bridge.engine.dependents import tables_read
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError, forbidden_collection, forbidden_event, invalid_payload
from cdc_bridge.model.filter import EVERYTHING, all_of
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.model.subscription import EVERY_EVENT, EventKind, Item, Query, Subscription
from cdc_bridge.ports import RowEvaluator
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals, TypedText
from cdc_bridge.query.parser import parse_query
from cdc_bridge.wanted import check_still_wanted

KNOWN_BYTES_MAX = 8 * 1024 * 1024
KNOWN_BYTES_EACH = 300
"""The memory that an answer takes besides its texts."""

AT_ONCE_MAX = 1000
"""Questions of each kind that go into one call."""

Parsed = TypeVar("Parsed")


class NotYetKnown(Exception):
    """Raised when a query cannot be parsed before these questions are answered."""

    def __init__(self, questions: Questions) -> None:
        super().__init__()
        self.questions = questions


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """A query, parsed for a principal. `rights` is a digest of what the principal may see of its tables.

    `allowed` and `is_guarded` are as in `Subscription`.
    """

    collection: Collection
    query: Query
    context: SecurityContext
    rights: bytes = b""
    allowed: frozenset[EventKind] = EVERY_EVENT
    is_guarded: bool = False

    def require(self, event: EventKind | None) -> None:
        """Raise `RequestError` if a request is for one kind of event only, and that is not allowed."""
        if event is not None and event not in self.allowed:
            raise forbidden_event(event.value, self.collection.name)

    def narrowed(self, subscription: Subscription) -> Subscription:
        """Return the subscription, as far as it may be seen."""
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
    """See the module's docstring. `urgent` is asked for `judge`, while subscribers wait to go on."""

    def __init__(
        self,
        evaluator: RowEvaluator,
        limits: QueryLimits,
        access: AccessPolicy,
        *,
        urgent: RowEvaluator | None = None,
    ) -> None:
        self.access = access
        self._evaluator = evaluator
        self._urgent = urgent or evaluator
        self._limits = limits
        self._literals: dict[TypedText, bytes | None] = {}
        self._literals_bytes = 0

    # --- requests ---

    async def parse(
        self,
        raw: Mapping[str, Any],
        name: str,
        catalog: Catalog,
        principal: Principal,
        *,
        to_follow: bool,
        items: Sequence[Item] | None = None,
    ) -> ParsedQuery:
        """Parse a request's query. `to_follow`: the policies that rows have to meet become part of the query; where
        rows are only read, PostgreSQL applies them by itself. `items` are the keys of the rows asked for, None for all.

        Raises `RequestError` and `SourceUnavailable`.
        """
        return await self._complete(
            catalog, lambda questions: self._parse(raw, name, principal, questions, to_follow=to_follow, items=items)
        )

    async def parse_again(
        self, subscription: Subscription, name: str, catalog: Catalog, principal: Principal
    ) -> Subscription:
        """The same request by this catalog, for another principal. Raises as `parse` does."""
        return await self._complete(
            catalog, lambda questions: self._parse_again(subscription, name, principal, questions)
        )

    async def visible(self, catalog: Catalog, principal: Principal) -> Catalog:
        """Return what the principal may see of the catalog. Raises as `parse` does."""
        return await self._complete(catalog, lambda questions: self._view(principal, questions)[1])

    def judge(self, subscription: Subscription, name: str, catalog: Catalog) -> Subscription:
        """The same request by a new catalog. Raises `RequestError` and `NotYetKnown`."""
        questions = self._questions(catalog)
        judged = self._parse_again(subscription, name, subscription.context.principal, questions)
        if questions:
            raise NotYetKnown(questions)
        return judged

    # --- one pass ---

    def _parse(
        self,
        raw: Mapping[str, Any],
        name: str,
        principal: Principal,
        questions: Questions,
        *,
        to_follow: bool,
        items: Sequence[Item] | None = None,
    ) -> ParsedQuery:
        parsed = self._by_rules(raw, name, principal, questions, items)
        return self._by_policies(parsed, principal, questions) if to_follow else parsed

    def _by_rules(
        self,
        raw: Mapping[str, Any],
        name: str,
        principal: Principal,
        questions: Questions,
        items: Sequence[Item] | None,
    ) -> ParsedQuery:
        """Parse a query within what grants and rules allow the principal."""
        by_rules, view = self._view(principal, questions)
        collection = view.by_name.get(name)
        if collection is None:
            raise forbidden_collection(name)
        literals, claims = questions.literals, principal.claim_values
        query = parse_query(raw, collection, self._limits, view, literals=literals, claims=claims, items=items)
        ruled = by_rules.context.rows_of(collection.relation_id)
        query = replace(query, filter=all_of([query.filter, ruled]))
        rule = self.access.rules.rule(principal, collection)
        allowed = EVERY_EVENT if rule is None else rule.events
        return ParsedQuery(collection, query, by_rules.context, allowed=allowed, is_guarded=ruled != EVERYTHING)

    def _view(self, principal: Principal, questions: Questions) -> tuple[RulePolicy, Catalog]:
        by_rules = self.access.rule_policy(principal, questions.catalog, questions)
        questions.is_tentative = bool(questions)
        return by_rules, self.access.view(principal, questions.catalog, by_rules.hidden)

    def _by_policies(self, parsed: ParsedQuery, principal: Principal, questions: Questions) -> ParsedQuery:
        collection, query, catalog = parsed.collection, parsed.query, questions.catalog
        whole = catalog.by_relation_id[collection.relation_id]
        visible = self.access.row_filter(whole, principal, catalog, questions)
        rights = self.access.rights(principal, tables_read(collection, query, parsed.context), catalog)
        if visible == EVERYTHING:
            return replace(parsed, rights=rights)
        query = replace(query, filter=all_of([query.filter, visible]), asked=query.filter)
        return replace(parsed, query=query, rights=rights, is_guarded=True)

    def _parse_again(
        self, subscription: Subscription, name: str, principal: Principal, questions: Questions
    ) -> Subscription:
        parsed = self._parse(subscription.request, name, principal, questions, to_follow=True)
        if subscription.item is not None and subscription.collection.key_columns != parsed.collection.key_columns:
            raise invalid_payload(f'The key of collection "{name}" has changed: subscribe again')
        parsed.require(subscription.event)
        return parsed.narrowed(subscription)

    # --- questions ---

    def _questions(self, catalog: Catalog) -> Questions:
        return Questions(catalog, Literals(self._literals))

    async def _complete(self, catalog: Catalog, parse: Callable[[Questions], Parsed]) -> Parsed:
        """Return what `parse` returns once it leaves no question."""
        while True:
            check_still_wanted()
            questions = self._questions(catalog)
            try:
                parsed = parse(questions)
            except RequestError:
                if not questions.is_tentative:
                    self.access.cache(catalog).forget_obstacles()
                    raise
            else:
                if not questions:
                    return parsed
            self._make_room()
            await self._look_up(questions, self._evaluator)

    def _make_room(self) -> None:
        if self._literals_bytes > KNOWN_BYTES_MAX:
            self._literals.clear()
            self._literals_bytes = 0
        self.access.make_room()

    async def answer(self, unknown: Iterable[NotYetKnown], catalog: Catalog) -> None:
        """Look up what many subscriptions need to be judged. Nothing is forgotten before all is known, or it never
        would be. Raises `SourceUnavailable`.
        """
        questions = self._questions(catalog)
        for each in unknown:
            questions.add(each.questions)
        await self._look_up(questions, self._urgent)

    async def _look_up(self, questions: Questions, evaluator: RowEvaluator) -> None:
        literals, claims = list(questions.literals.missing), list(questions.claims)
        probes = list(questions.probes.values())
        cache = self.access.cache(questions.catalog)
        for begin in range(0, max(len(literals), len(claims), len(probes)), AT_ONCE_MAX):
            part = slice(begin, begin + AT_ONCE_MAX)
            requests = [probe.request(questions.catalog) for probe in probes[part]]
            found = await evaluator.look_up(literals[part], claims[part], requests)
            self._keep_literals(zip(literals[part], found.literals, strict=True))
            cache.keep_values(zip(claims[part], found.claims, strict=True))
            cache.keep_results(zip(probes[part], found.probes, strict=True))

    def _keep_literals(self, normalized: Iterable[tuple[TypedText, bytes | None]]) -> None:
        for literal, raw in normalized:
            self._literals[literal] = raw
            self._literals_bytes += len(literal[1]) + len(raw or b"") + KNOWN_BYTES_EACH

    # --- other catalogs, other rules ---

    def check_rules(self, catalog: Catalog) -> None:
        """Log what is wrong with the rules: after a new catalog, or new rules."""
        self.access.check_rules(catalog, Literals(self._literals))

    def sees_otherwise(self, catalog: Catalog) -> Callable[[Subscription], bool]:
        """Return a test: whether a subscription shows something else by this catalog, or by the rules as they are."""
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
        """Return the digest of the rights; None if it cannot be computed, for which `judge` raises the reason."""
        try:
            return self.access.rights(principal, tables, catalog)
        except Exception:
            return None
