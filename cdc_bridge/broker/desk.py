"""What clients ask for: requests come in, subscriptions and rows go out.

A request waits until the database is there and agrees with the catalog; what is wrong with it is said at once.

Bound: `ASKING_MAX` questions are put to the database at the same time; the others wait, each client with one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cdc_bridge.broker.agenda import Agenda
from cdc_bridge.broker.catalog_watch import CatalogWatch
from cdc_bridge.broker.interpreter import Interpreter
from cdc_bridge.catalog import Collection
from cdc_bridge.errors import RequestError, SourceChanged, SourceUnavailable, forbidden_item
from cdc_bridge.hub.follower import Follower, Outlet
from cdc_bridge.hub.hub import Hub
from cdc_bridge.logs import facts
from cdc_bridge.ports import InitialData, LogReader, Reader
from cdc_bridge.protocol import ReadItems, Subscribe
from cdc_bridge.queries.query import frugal, item_key
from cdc_bridge.subscription import Subscription

log = logging.getLogger(__name__)

ASKING_MAX = 2
"""Questions of clients (`items`, the key of an `item`) that are put to the database at the same time."""

Result = TypeVar("Result")


class Desk:
    """See the module's docstring."""

    def __init__(
        self,
        reader: Reader,
        log_reader: LogReader | None,
        hub: Hub,
        agenda: Agenda,
        catalog: CatalogWatch,
        *,
        interpreter: Interpreter,
        subscriptions_max: int,
        retry_delay_s: float,
    ) -> None:
        self._reader = reader
        self._log_reader = log_reader
        self._hub = hub
        self._agenda = agenda
        self._catalog = catalog
        self._interpreter = interpreter
        self._subscriptions_max = subscriptions_max
        self._retry_delay_s = retry_delay_s
        self._asking = asyncio.Semaphore(ASKING_MAX)

    async def subscribe(self, outlet: Outlet, request: Subscribe) -> Follower:
        """Begin a subscription; its `init` follows by way of the outlet. Raises `RequestError`."""
        if outlet.count >= self._subscriptions_max:
            raise RequestError(
                "LIMIT_EXCEEDED",
                f"A connection can hold {self._subscriptions_max} subscriptions: unsubscribe from one first.",
            )
        subscription = await self._retried(lambda: self._judge_request(request))
        reading = self._hub.follow(outlet, subscription, request.after)
        self._agenda.order([reading])
        return reading.follower

    async def read_items(self, request: ReadItems) -> InitialData:
        """What an `items` reply tells. With an `id` it is one row. Raises `RequestError`."""
        data = await self._retried(lambda: self._read_once(request))
        if request.item is not None and not data.rows:
            raise forbidden_item()
        return data

    async def _judge_request(self, request: Subscribe) -> Subscription:
        collection = await self._catalog.collection(request.collection)
        query = await self._interpreter.read(request.query, collection, self._hub.catalog)
        key = item_key(request.item, collection) if request.item is not None else None
        item = await self._find_key(collection, key, request) if key is not None else None
        if self._hub.catalog.by_name.get(request.collection) is not collection:
            raise SourceChanged
        return Subscription(
            collection,
            query,
            request.event,
            item,
            key,
            request.uid,
            frugal(request.query),
            cursor=request.cursor,
            tx=request.tx,
            old=request.old,
            changes_only=request.changes_only,
            related=request.related,
        )

    async def _find_key(self, collection: Collection, key: tuple[str, ...], request: Subscribe) -> bytes:
        """Who resumes may follow a row that is gone: its `delete` is what was missed."""
        async with self._asking:
            try:
                return await self._reader.find_key(collection, key)
            except RequestError:
                if request.after is None or self._log_reader is None:
                    raise
                return await self._log_reader.spell_key(collection, key)

    async def _read_once(self, request: ReadItems) -> InitialData:
        collection = await self._catalog.collection(request.collection)
        query = await self._interpreter.read(request.query, collection, self._hub.catalog)
        key = item_key(request.item, collection) if request.item is not None else None
        async with self._asking:
            return await self._reader.read(collection, query, key, self._hub.catalog)

    async def _retried(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Until the database is there and agrees with the catalog."""
        while True:
            try:
                return await attempt()
            except SourceChanged:
                await self._catalog.refresh_until_done()
            except SourceUnavailable as error:
                log.info("the database cannot be reached, trying again", extra=facts(reason=str(error)))
            await asyncio.sleep(self._retry_delay_s)
