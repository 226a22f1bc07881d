"""Keeps the hub's catalog like the database's.

Nobody tells us that a table was altered. It shows in a change that does not fit the catalog (`is_drifted`), in a reader
that finds another table than it was asked for (`SourceChanged`), and in what is looked at from time to time.

Bound: `SHAPES_MAX` old shapes are remembered; past it all are forgotten, and cost one look at the catalog each.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from itertools import chain

from cdc_bridge.broker.agenda import Agenda
from cdc_bridge.broker.interpreter import Interpreter
from cdc_bridge.catalog import Catalog, Collection
from cdc_bridge.change import Change, Operation
from cdc_bridge.errors import SourceUnavailable, forbidden_collection, invalid_payload
from cdc_bridge.hub.hub import Hub
from cdc_bridge.logs import facts
from cdc_bridge.ports import CatalogReader
from cdc_bridge.queries.speller import Unspelled
from cdc_bridge.subscription import Subscription

log = logging.getLogger(__name__)

SHAPES_MAX = 1000
"""Old shapes of tables that are remembered so as not to read the catalog for each of their changes."""


class CatalogWatch:
    """See the module's docstring."""

    def __init__(
        self, reader: CatalogReader, hub: Hub, agenda: Agenda, interpreter: Interpreter, *, retry_delay_s: float
    ) -> None:
        self._reader = reader
        self._hub = hub
        self._agenda = agenda
        self._interpreter = interpreter
        self._retry_delay_s = retry_delay_s
        self._fingerprint = ""
        self._known_shapes: set[tuple[int | str, ...]] = set()
        self._refreshing = asyncio.Lock()

    async def watch(self, interval_s: float) -> None:
        """Look for changed tables that no row change has told of, for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                repaired = await self._reader.repair()
                await self.refresh()
                for collection in self._hub.catalog.by_name.values():
                    if collection.relation in repaired:
                        self._agenda.order(self._hub.hold(collection.relation_id))
            except SourceUnavailable as error:
                log.debug("the catalog cannot be read", extra=facts(reason=str(error)))

    async def refresh(self) -> None:
        """Let the hub act on what has changed in the catalog since the last time. Raises `SourceUnavailable`."""
        async with self._refreshing:
            fingerprint = await self._reader.fingerprint()
            if fingerprint == self._fingerprint:
                return
            catalog = await self._reader.read()
            await self._adopt(catalog)
            self._fingerprint = fingerprint
            self._known_shapes.clear()

    async def _adopt(self, catalog: Catalog) -> None:
        while True:
            try:
                return self._agenda.order(self._hub.adopt(catalog, partial(self._judge, catalog)))
            except ExceptionGroup as group:
                if group.split(Unspelled)[1]:
                    raise
                asked = [each.needed for each in group.exceptions if isinstance(each, Unspelled)]
                await self._interpreter.learn_all(tuple(dict.fromkeys(chain.from_iterable(asked))))

    async def refresh_until_done(self) -> None:
        while True:
            try:
                return await self.refresh()
            except SourceUnavailable as error:
                log.warning("the catalog cannot be read, trying again", extra=facts(reason=str(error)))
                await asyncio.sleep(self._retry_delay_s)

    async def renew(self) -> None:
        """The database was lost to us."""
        await self._reader.renew()

    async def collection(self, name: str) -> Collection:
        """A table that was attached a moment ago is not missed. Raises `RequestError`, `SourceUnavailable`."""
        if name not in self._hub.catalog.by_name:
            await self.refresh()
        if collection := self._hub.catalog.by_name.get(name):
            return collection
        raise forbidden_collection(name)

    def is_drifted(self, change: Change) -> bool:
        """Whether a change shows that the catalog is out of date."""
        collection = self._hub.catalog.by_relation_id.get(change.relation_id)
        if collection is None:
            return True
        if change.operation is Operation.TRUNCATE:  # new storage is what it is about
            return False
        if collection.filenodes[change.relation_id] != change.filenode:
            return True
        image = next(iter(change.new or change.old), None)
        return image is not None and image.keys() != collection.by_name.keys()

    async def catch_up(self, change: Change) -> None:
        """Read the catalog that a change calls for, once: a change can also be older than the catalog."""
        shape = (change.relation_id, change.filenode, *next(iter(change.new or change.old), ()))
        if shape not in self._known_shapes:
            await self.refresh_until_done()
            if len(self._known_shapes) >= SHAPES_MAX:
                self._known_shapes.clear()
            self._known_shapes.add(shape)

    def _judge(self, catalog: Catalog, subscription: Subscription, collection: Collection) -> Subscription:
        if subscription.item is not None and subscription.collection.key_columns != collection.key_columns:
            raise invalid_payload(f'The key of collection "{collection.name}" has changed: subscribe again')
        query = self._interpreter.read_at_once(subscription.request, collection, catalog)
        return replace(subscription, collection=collection, query=query)
