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

from cdc_bridge.broker.answers import Unanswered
from cdc_bridge.broker.permits import Permits
from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.errors import RequestError, forbidden_collection, forbidden_event
from cdc_bridge.filters.filter import EVERYTHING
from cdc_bridge.filters.normal_form import all_of
from cdc_bridge.hub.relating import tables_read
from cdc_bridge.ports import Arbiter
from cdc_bridge.queries.query import QueryLimits, resolve
from cdc_bridge.queries.speller import Spelled, Spelling, Unspelled
from cdc_bridge.sight import Sight
from cdc_bridge.subscription import EVERY_EVENT, EventKind, Query, Subscription
from cdc_bridge.viewer import Viewer
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
    sight: Sight
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
            sight=self.sight,
            rights=self.rights,
            allowed=self.allowed,
            is_guarded=self.is_guarded,
        )


class Interpreter:
    """See the module's docstring. Without an arbiter such values are refused. `urgent`: whom the stream has asked."""

    def __init__(
        self, arbiter: Arbiter | None, limits: QueryLimits, permits: Permits, *, urgent: Arbiter | None = None
    ) -> None:
        self.permits = permits
        self._arbiter = arbiter
        self._urgent = urgent or arbiter
        self._limits = limits
        self._spelled: dict[Spelled, bytes | None] = {}
        self._spelled_bytes = 0

    async def read(
        self, raw: Mapping[str, Any], name: str, catalog: Catalog, viewer: Viewer, *, to_follow: bool
    ) -> Understood:
        """See `read_at_once`. Raises `RequestError` and `SourceUnavailable`."""
        while True:
            check_still_wanted()
            try:
                return self.read_at_once(raw, name, catalog, viewer, to_follow=to_follow)
            except (Unspelled, Unanswered) as unknown:
                await self.learn(unknown)
            except RequestError:
                self.permits.forget_obstacles(catalog)
                raise

    def read_at_once(
        self, raw: Mapping[str, Any], name: str, catalog: Catalog, viewer: Viewer, *, to_follow: bool
    ) -> Understood:
        """`to_follow`: the policies that rows have to meet become part of the query; where rows are only read,
        PostgreSQL applies them by itself.

        Raises `RequestError`, and `Unspelled` or `Unanswered` when there is something to `learn` first.
        """
        asked = self._asked(raw, name, catalog, viewer)
        return self._followed(asked, catalog, viewer) if to_follow else asked

    def _asked(self, raw: Mapping[str, Any], name: str, catalog: Catalog, viewer: Viewer) -> Understood:
        """As far as the viewer may see it by grants and rules."""
        spelling = Spelling(self._spelled)
        ruling = self.permits.ruling(viewer, catalog, spelling)
        view = self.permits.view(viewer, catalog, ruling.unseen)
        collection = view.by_name.get(name)
        if collection is None:
            raise forbidden_collection(name)
        query = resolve(raw, collection, self._limits, view, spelling=spelling, claims=viewer.claim_values)
        ruled = ruling.sight.rows_of(collection.relation_id)
        query = replace(query, filter=all_of([query.filter, ruled]))
        rule = self.permits.rule(viewer, collection)
        allowed = EVERY_EVENT if rule is None else rule.events
        return Understood(collection, query, ruling.sight, allowed=allowed, is_guarded=ruled != EVERYTHING)

    def _followed(self, asked: Understood, catalog: Catalog, viewer: Viewer) -> Understood:
        """And by policies."""
        collection, query = asked.collection, asked.query
        guard = self.permits.guard(catalog.by_relation_id[collection.relation_id], viewer, catalog)
        rights = self.permits.rights(viewer, tables_read(collection, query, asked.sight), catalog)
        if guard == EVERYTHING:
            return replace(asked, rights=rights)
        query = replace(query, filter=all_of([query.filter, guard]), asked=query.filter)
        return replace(asked, query=query, rights=rights, is_guarded=True)

    def proofread(self, catalog: Catalog) -> None:
        """A catalog has come, or other rules: tell the operator what does not fit."""
        self.permits.proofread(catalog, Spelling(self._spelled))

    def sees_otherwise(self, catalog: Catalog) -> Callable[[Subscription], bool]:
        """A test: whether a subscription shows something else by this catalog, or by the rules as they are now."""
        known: dict[tuple[Viewer, frozenset[int]], bytes | None] = {}

        def is_so(subscription: Subscription) -> bool:
            query, viewer = subscription.query, subscription.sight.viewer
            asked = replace(query, filter=query.of_table, asked=None)
            tables = tables_read(subscription.collection, asked, subscription.sight)
            if (viewer, tables) not in known:
                known[viewer, tables] = self._rights(viewer, tables, catalog)
            return known[viewer, tables] != subscription.rights

        return is_so

    def _rights(self, viewer: Viewer, tables: frozenset[int], catalog: Catalog) -> bytes | None:
        """None for whom we stumble over: what becomes of it, and says why, is for who judges it."""
        try:
            return self.permits.rights(viewer, tables, catalog)
        except Exception:
            return None

    async def learn(self, unknown: Unknown) -> None:
        """Raises `SourceUnavailable`."""
        if self._spelled_bytes > KNOWN_BYTES_MAX:
            self._spelled.clear()
            self._spelled_bytes = 0
        self.permits.make_room()
        await self._learn([unknown], self._arbiter)

    async def learn_all(self, unknown: Sequence[Unknown]) -> None:
        """Nothing is forgotten before all is known, or it never would be. Raises `SourceUnavailable`."""
        for begin in range(0, len(unknown), AT_ONCE_MAX):
            await self._learn(unknown[begin : begin + AT_ONCE_MAX], self._urgent)

    async def _learn(self, unknown: Sequence[Unknown], arbiter: Arbiter | None) -> None:
        if arbiter is None:
            raise RequestError("SERVICE_UNAVAILABLE", "Nobody can say how a value of this type is spelled.")
        await self._spell((each.needed for each in unknown if isinstance(each, Unspelled)), arbiter)
        if unanswered := [each for each in unknown if isinstance(each, Unanswered)]:
            await self.permits.learn(unanswered, arbiter)

    async def _spell(self, needed: Iterable[Iterable[Spelled]], arbiter: Arbiter) -> None:
        values = list(dict.fromkeys(chain.from_iterable(needed)))
        for spelled, raw in zip(values, await arbiter.spell(values) if values else (), strict=True):
            self._spelled[spelled] = raw
            self._spelled_bytes += len(spelled[1]) + len(raw or b"") + KNOWN_BYTES_EACH
