"""Reads the initial data that are waited for. Equal readings are read once.

Policy: what cannot be read now is ordered again after a while, in which others are served; what can never be read ends
its subscriptions, and no others.
"""

from __future__ import annotations

import asyncio
import logging

from cdc_bridge.agenda import Agenda
from cdc_bridge.catalog_watch import CatalogWatch
from cdc_bridge.errors import RequestError, SourceChanged, SourceUnavailable
from cdc_bridge.follower import Reading
from cdc_bridge.hub import Hub
from cdc_bridge.logs import facts
from cdc_bridge.ports import InitialData, Reader
from cdc_bridge.projection import Projection
from cdc_bridge.subscription import Query, Subscription

log = logging.getLogger(__name__)


class Loader:
    """See the module's docstring."""

    def __init__(
        self, reader: Reader, hub: Hub, agenda: Agenda, catalog: CatalogWatch, *, retry_delay_s: float
    ) -> None:
        self._reader = reader
        self._hub = hub
        self._agenda = agenda
        self._catalog = catalog
        self._retry_delay_s = retry_delay_s

    async def serve(self) -> None:
        """One worker, for ever. Several can run side by side."""
        while True:
            await self._load(await self._agenda.next_data())

    async def _load(self, equal: list[Reading]) -> None:
        subscription = equal[0].subscription
        anchor = self._hub.anchor(subscription.collection.relation_id)
        try:
            data = await self._read(subscription)
        except SourceChanged:
            await self._catalog.refresh_until_done()
            self._order_later(equal)
        except SourceUnavailable as error:
            log.info("initial data cannot be read, trying again", extra=facts(reason=str(error)))
            self._order_later(equal)
        except RequestError as error:
            self._refuse(equal, error)
        except Exception:  # nor may it end the readings of all the others
            log.exception("initial data cannot be read")
            self._refuse(equal, RequestError("SERVICE_UNAVAILABLE", "The data cannot be read."))
        else:
            too_late = [self._hub.begin(reading, anchor, data) for reading in equal]
            self._agenda.order(reading for reading in too_late if reading)

    async def _read(self, subscription: Subscription) -> InitialData:
        """Without rows for those who get no data, of whom not all have the same query."""
        query, key = subscription.query, subscription.key
        if subscription.event is not None:
            query, key = Query(Projection.of(subscription.collection.columns[:1]), limit=0), None
        return await self._reader.read(subscription.collection, query, key, self._hub.catalog)

    def _refuse(self, readings: list[Reading], error: RequestError) -> None:
        for reading in readings:
            if reading.current:
                self._hub.refuse(reading.follower, error)

    def _order_later(self, readings: list[Reading]) -> None:
        """Try again after a while, in which this worker serves others."""

        def order() -> None:
            self._agenda.order(reading for reading in readings if reading.current)

        asyncio.get_running_loop().call_later(self._retry_delay_s, order)
