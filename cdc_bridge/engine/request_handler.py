"""Handle clients' requests: `subscribe`, `unsubscribe`, `items`, and a token that expires or is renewed.

Rule: a request waits until the database can be reached and agrees with the catalog; a request that is wrong is refused
at once.

Bound: `ITEMS_MAX` replies to `items` and `KEYS_MAX` keys are read at the same time; other requests wait, each client
with one. Keys have a share of their own, so `items` that take long delay no `subscribe`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cdc_bridge.access.rules import RuleSet
from cdc_bridge.engine.catalog_watch import DISAGREEMENTS_MAX, CatalogWatch
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.query_parser import ParsedQuery, QueryParser
from cdc_bridge.engine.scheduler import Cause, ReadScheduler
from cdc_bridge.engine.shares import ITEMS_MAX, KEYS_MAX
from cdc_bridge.engine.subscriber import Outlet, Subscriber
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.errors import RequestError, SourceChanged, SourceUnavailable, cannot_be_read, forbidden_item
from cdc_bridge.model.messages import ReadItems, Subscribe
from cdc_bridge.model.security_context import SELF, Principal
from cdc_bridge.model.subscription import Subscription
from cdc_bridge.ports import Asked, InitialData, LogReader, Reader
from cdc_bridge.query.parser import compact, item_key
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class RequestHandler:
    """See the module's docstring."""

    def __init__(
        self,
        reader: Reader,
        log_reader: LogReader,
        hub: Hub,
        scheduler: ReadScheduler,
        catalog: CatalogWatch,
        *,
        parser: QueryParser,
        subscriptions_max: int,
        retry_delay_s: float,
    ) -> None:
        self._reader = reader
        self._log_reader = log_reader
        self._hub = hub
        self._scheduler = scheduler
        self._catalog = catalog
        self._parser = parser
        self._subscriptions_max = subscriptions_max
        self._retry_delay_s = retry_delay_s
        self._items = asyncio.Semaphore(ITEMS_MAX)
        self._keys = asyncio.Semaphore(KEYS_MAX)

    async def subscribe(self, outlet: Outlet, request: Subscribe, principal: Principal = SELF) -> Subscriber:
        """Begin a subscription; its `init` follows by way of the outlet. Raises `RequestError`."""
        if outlet.count >= self._subscriptions_max:
            raise RequestError(
                "LIMIT_EXCEEDED",
                f"A connection can hold {self._subscriptions_max} subscriptions: unsubscribe from one first.",
            )
        subscription = await self._retried(lambda: self._judge_request(request, principal))
        reading = self._hub.follow(outlet, subscription, request.after)
        self._scheduler.order([reading])
        return reading.subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._scheduler.leave(subscriber)

    def suspend(self, outlet: Outlet) -> None:
        """Send a client no events, not even those that wait, until `see_as` gives it a principal."""
        for subscriber in outlet.subscribers():
            self._scheduler.suspend(subscriber)

    def catch_up(self, outlet: Outlet) -> None:
        """A client that was too slow has read something, and has room again: order fresh data that it needs."""
        self._scheduler.order(self._hub.catch_up(outlet), Cause.OVERFLOW)

    async def see_as(self, outlet: Outlet, principal: Principal) -> None:
        """Let a client's subscriptions go on for this principal: with fresh data, or the error that they would get.
        Those that see as before go on as they are.
        """
        for subscriber in outlet.subscribers():
            await self._see_as(subscriber, principal)

    async def _see_as(self, subscriber: Subscriber, principal: Principal) -> None:
        known = subscriber.subscription
        try:
            subscription = await self._retried(lambda: self._judge_anew(known, principal))
        except RequestError as error:
            self._hub.refuse(subscriber, error)
        else:
            reading = self._hub.go_on_as(subscriber, subscription)
            self._scheduler.order([reading] if reading else [], Cause.RIGHTS)

    async def _judge_anew(self, subscription: Subscription, principal: Principal) -> Subscription:
        name = subscription.collection.name
        catalog, rules = await self._catalog.catalog_with(name), self._parser.access.rules
        judged = await self._parser.parse_again(subscription, name, catalog, principal)
        self._check_still_holds(catalog, rules)
        return judged

    def _check_still_holds(self, catalog: Catalog, rules: RuleSet) -> None:
        """Raise `SourceChanged` if other rights may hold than those by which the request was judged."""
        if self._hub.catalog is not catalog or self._parser.access.rules is not rules:
            raise SourceChanged

    async def read_items(self, request: ReadItems, principal: Principal = SELF) -> InitialData:
        """Return the data of an `items` reply; one row if the request has an `id`. Raises `RequestError`."""
        data = await self._retried(lambda: self._read_once(request, principal))
        if request.item is not None and not data.rows:
            raise forbidden_item()
        return data

    async def read_collections(self, principal: Principal = SELF) -> Catalog:
        """Return what the principal may see of the catalog. Raises `RequestError`."""
        return await self._retried(lambda: self._visible(principal))

    async def _visible(self, principal: Principal) -> Catalog:
        await self._catalog.refresh()
        catalog, rules = self._hub.catalog, self._parser.access.rules
        visible = await self._parser.visible(catalog, principal)
        self._check_still_holds(catalog, rules)
        return visible

    async def _judge_request(self, request: Subscribe, principal: Principal) -> Subscription:
        name = request.collection
        catalog, rules = await self._catalog.catalog_with(name), self._parser.access.rules
        parsed = await self._parser.parse(request.query, name, catalog, principal, to_follow=True)
        parsed.require(request.event)
        collection = parsed.collection
        key = item_key(request.item, collection) if request.item is not None else None
        item = await self._find_key(parsed, key, request) if key is not None else None
        self._check_still_holds(catalog, rules)
        return parsed.narrowed(_subscription(request, parsed, key, item))

    async def _find_key(self, parsed: ParsedQuery, key: tuple[str, ...], request: Subscribe) -> bytes:
        """Return the key of an item.

        A resuming subscriber may follow a row that is gone: it has missed the `delete`.
        """
        collection = parsed.collection
        async with self._keys:
            try:
                return await self._reader.find_key(collection, key, self._hub.catalog, parsed.context)
            except RequestError:
                if request.after is None:
                    raise
                return await self._log_reader.spell_key(collection, key)

    async def _read_once(self, request: ReadItems, principal: Principal) -> InitialData:
        catalog = await self._catalog.catalog_with(request.collection)
        parsed = await self._parser.parse(
            request.query, request.collection, catalog, principal, to_follow=False, items=request.items
        )
        key = item_key(request.item, parsed.collection) if request.item is not None else None
        asked = Asked(parsed.collection, parsed.query, key, parsed.context)
        async with self._items:
            try:
                return await self._reader.read(asked, catalog)
            except RequestError as error:
                await self._look_again(error, catalog)
                raise

    async def _look_again(self, error: RequestError, catalog: Catalog) -> None:
        """Read the catalog again if access was refused, since that may be new.

        Raises `SourceChanged` if it is another.
        """
        if error.code == "FORBIDDEN":
            await self._catalog.refresh()
        if self._hub.catalog is not catalog:
            raise SourceChanged(error.message)

    async def _retried(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat until the database is there and agrees with the catalog. Refuse a request that goes on disagreeing."""
        disagreed = 0
        while True:
            catalog = self._hub.catalog
            try:
                return await attempt()
            except SourceChanged as error:
                await self._catalog.refresh_until_done()
                disagreed = disagreed + 1 if self._hub.catalog is catalog else 0
                if disagreed >= DISAGREEMENTS_MAX:
                    log.error("data cannot be read", extra=facts(reason=str(error)))
                    raise cannot_be_read() from error
            except SourceUnavailable as error:
                check_still_wanted()
                log.info("the database cannot be reached, trying again", extra=facts(reason=str(error)))
            await asyncio.sleep(self._retry_delay_s)


def _subscription(
    request: Subscribe, parsed: ParsedQuery, key: tuple[str, ...] | None, item: bytes | None
) -> Subscription:
    return Subscription(
        parsed.collection,
        parsed.query,
        request.event,
        item,
        key,
        request.uid,
        compact(request.query),
        cursor=request.cursor,
        tx=request.tx,
        old=request.old,
        changes_only=request.changes_only,
        related=request.related,
        overflow=request.overflow,
    )
