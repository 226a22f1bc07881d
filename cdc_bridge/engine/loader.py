"""Reads the initial data that are waited for. Equal readings are read once, and where many wait, many at once.

Policy: what cannot be read now is ordered again after a while, in which others are served; what can never be read ends
its subscriptions, and no others. What takes longer than others should wait for is given up, and read in a line of its
own, where it waits for its like only; and so is, for a while, whatever asks the same of the same table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Sequence

from cdc_bridge.engine.agenda import Agenda
from cdc_bridge.engine.catalog_watch import DISAGREEMENTS_MAX, CatalogWatch
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.readings import Readings
from cdc_bridge.engine.subscriber import Anchor, Reading
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.errors import RequestError, SourceChanged, SourceUnavailable, cannot_be_read
from cdc_bridge.model.projection import Projection
from cdc_bridge.model.subscription import Query
from cdc_bridge.ports import Asked, InitialData, Reader
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

TOGETHER_MAX = 50
"""Readings of one transaction, where as many wait."""

ALONE_MAX = 4
"""Of these at the same time, where one has kept the others from being read: what waits for a lock holds up few."""

PATIENCE_S = 3.0
"""For a reading that is read alone, as long as others may wait for it."""

SLOW_WORKERS = 2
SLOW_FOR_S = 60.0
SLOW_KINDS_MAX = 1000
"""What has been slow, of which only hashes are kept; past it all are forgotten, and cost `PATIENCE_S` again."""


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
        self._slow = Readings()
        self._slow_ordered = asyncio.Event()
        self._slow_until_s: dict[int, float] = {}

    async def serve(self) -> None:
        """One worker, for ever. Several can run side by side."""
        while True:
            check_still_wanted()
            await self._load_all(await self._agenda.next_data(TOGETHER_MAX))  # and keep none of them while we wait

    async def serve_slow(self) -> None:
        """All workers of what is slow, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(SLOW_WORKERS):
                tasks.create_task(self._serve_slow())

    async def _serve_slow(self) -> None:
        while True:
            check_still_wanted()
            await self._slow_ordered.wait()
            if not self._slow:
                self._slow_ordered.clear()
                continue
            equal = self._slow.take()
            if any(reading.current for reading in equal):
                await self._load(equal)

    async def _load_all(self, waiting: Sequence[list[Reading]]) -> None:
        waiting = [equal for equal in waiting if not self._is_slow(equal)]
        together = [equal for equal in waiting if not equal[0].subscription.query.meta]
        done = len(together) > 1 and await self._load_together(together)
        turns = asyncio.Semaphore(ALONE_MAX)
        async with asyncio.TaskGroup() as tasks:
            for equal in waiting:
                if not done or equal[0].subscription.query.meta:
                    tasks.create_task(self._load_alone(turns, equal))

    async def _load_alone(self, turns: asyncio.Semaphore, equal: list[Reading]) -> None:
        async with turns:
            if self._is_slow(equal) or not any(reading.current for reading in equal):  # both can have come meanwhile
                return
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._load(equal)
            except TimeoutError:
                self._note_slow(equal)

    def _is_slow(self, equal: list[Reading]) -> bool:
        """Whether it has been taken to the line of those that are."""
        until_s = self._slow_until_s.get(hash(_kind(equal[0])), 0.0)
        if until_s <= asyncio.get_running_loop().time():
            return False
        self._wait_with_slow(equal)
        return True

    def _note_slow(self, equal: list[Reading]) -> None:
        if len(self._slow_until_s) >= SLOW_KINDS_MAX:
            self._slow_until_s.clear()
        self._slow_until_s[hash(_kind(equal[0]))] = asyncio.get_running_loop().time() + SLOW_FOR_S
        log.info("initial data take long", extra=facts(collection=equal[0].subscription.collection.name))
        self._wait_with_slow(equal)

    def _wait_with_slow(self, equal: list[Reading]) -> None:
        for reading in equal:
            if reading.current:
                self._slow.add(reading)
                self._slow_ordered.set()

    async def _load_together(self, waiting: Sequence[list[Reading]]) -> bool:
        """False when one of them is in the way of the others: each has to be read alone to know which."""
        anchors = [self._hub.anchor(equal[0].subscription.collection.relation_id) for equal in waiting]
        try:
            found = await self._reader.read_together([_asked(equal[0]) for equal in waiting], self._hub.catalog)
        except (SourceChanged, SourceUnavailable, RequestError):
            check_still_wanted()
            return False
        except Exception:  # whatever it is, it is one's and not everybody's
            log.debug("readings are done one by one", exc_info=True)
            return False
        for equal, anchor, data in zip(waiting, anchors, found, strict=True):
            self._begin(equal, anchor, data)
        return True

    async def _load(self, equal: list[Reading], disagreed: int = 0) -> None:
        subscription = equal[0].subscription
        anchor = self._hub.anchor(subscription.collection.relation_id)
        asked = _asked(equal[0])
        catalog = self._hub.catalog
        try:
            data = await self._reader.read(asked, catalog)
        except SourceChanged as error:
            check_still_wanted()
            await self._catalog.refresh_until_done()
            await self._load_by(catalog, equal, disagreed + 1, error)
        except SourceUnavailable as error:
            check_still_wanted()
            log.info("initial data cannot be read, trying again", extra=facts(reason=str(error)))
            self._order_later(equal)
        except RequestError as error:
            check_still_wanted()
            if error.code == "FORBIDDEN":  # since a moment ago: by a newer catalog it may be less, and not nothing
                await self._catalog.refresh_until_done()
            self._refuse(equal, error)
        except Exception:  # nor may it end the readings of all the others
            log.exception("initial data cannot be read")
            self._refuse(equal, cannot_be_read())
        else:
            self._begin(equal, anchor, data)

    async def _load_by(self, catalog: Catalog, equal: list[Reading], disagreed: int, error: SourceChanged) -> None:
        """After the database was not as this catalog has it. By a newer one they are read in their turn."""
        if self._hub.catalog is not catalog:
            self._order_later(equal)
        elif disagreed < DISAGREEMENTS_MAX:
            await asyncio.sleep(self._retry_delay_s)
            await self._load(equal, disagreed)
        else:
            log.error("initial data cannot be read", extra=facts(reason=str(error)))
            self._refuse(equal, cannot_be_read())

    def _begin(self, equal: Sequence[Reading], anchor: Anchor, data: InitialData) -> None:
        too_late = [self._hub.begin(reading, anchor, data) for reading in equal]
        self._agenda.order(reading for reading in too_late if reading)

    def _refuse(self, readings: list[Reading], error: RequestError) -> None:
        for reading in readings:
            if reading.current:
                self._hub.refuse(reading.subscriber, error)

    def _order_later(self, readings: list[Reading]) -> None:
        """Try again after a while, in which this worker serves others."""

        def order() -> None:
            self._agenda.order(reading for reading in readings if reading.current)

        asyncio.get_running_loop().call_later(self._retry_delay_s, order)


def _kind(reading: Reading) -> Hashable:
    """What takes long of one takes long of all of these, whoever they are: a policy is judged as slowly for each."""
    subscription = reading.subscription
    return subscription.collection.relation_id, subscription.query, subscription.context.principal.role


def _asked(reading: Reading) -> Asked:
    """Without rows for those who get no data, of whom not all have the same query."""
    subscription = reading.subscription
    if subscription.event is not None:
        query = Query(Projection.of(subscription.collection.columns[:1]), limit=0)
        return Asked(subscription.collection, query, None, subscription.context)
    return Asked(subscription.collection, subscription.query, subscription.key, subscription.context)
