"""Takes what the capture hears to the hub, one after the other.

The stream waits here for the database, and nowhere else, when a change cannot be applied as it is: for the catalog, and
for what memory cannot decide. It waits once for all the changes of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import assert_never

from cdc_bridge.capture import Capture
from cdc_bridge.engine.asking import Asking, judged_at
from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.scheduler import ReadScheduler
from cdc_bridge.engine.subscriber import Reading
from cdc_bridge.engine.topic import Topic
from cdc_bridge.engine.weighing import Weighing
from cdc_bridge.logs import facts
from cdc_bridge.model.change import NO_ERA, Change, Gap, Heartbeat, Listening, Lost, StreamItem, Turn
from cdc_bridge.ports import Reader
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)


class Listener:
    """See the module's docstring."""

    def __init__(
        self,
        capture: Capture,
        reader: Reader,
        hub: Hub,
        scheduler: ReadScheduler,
        *,
        catalog: CatalogWatch,
        asking: Asking,
    ) -> None:
        self._capture = capture
        self._reader = reader
        self._hub = hub
        self._scheduler = scheduler
        self._catalog = catalog
        self._asking = asking

    async def listen(self) -> None:
        """Take everything that is heard, for ever. Raises what the capture raises."""
        async with aclosing(self._capture.batches()) as batches:
            async for batch in batches:
                await self._hear_all(batch)

    async def _hear_all(self, batch: Sequence[StreamItem]) -> None:
        """In their order, changes that follow each other together."""
        try:
            await self._hear_each(batch)
        finally:
            self._hub.flush()

    async def _hear_each(self, batch: Sequence[StreamItem]) -> None:
        changes: list[Change] = []
        for heard in batch:
            if isinstance(heard, Change):
                changes.append(heard)
            else:
                await self._tell_all(changes)
                changes = []
                await self._hear(heard)
        await self._tell_all(changes)

    async def _hear(self, heard: StreamItem) -> None:
        match heard:
            case Change():
                await self._tell_all([heard])
            case Heartbeat(snapshot=snapshot, lagging=lagging):
                self._hub.heard(snapshot, lagging)
            case Turn(era=era):
                self._hub.turn(era)
            case Listening():
                await self._begin(heard)
            case Lost():
                self._scheduler.listening.clear()
                await self._reader.renew()
                await self._catalog.renew()
            case Gap():
                self._scheduler.order(self._hold(heard))
            case _:
                assert_never(heard)

    def _hold(self, gap: Gap) -> list[Reading]:
        if gap.relation_id is None:
            log.warning("changes were missed: everybody gets fresh data", extra=facts(reason=gap.reason))
            return self._hub.hold()
        collection = self._hub.catalog.by_relation_id.get(gap.relation_id)
        return self._hub.hold(collection.relation_id) if collection else []

    async def _begin(self, heard: Listening) -> None:
        await self._catalog.refresh_until_done()
        self._hub.listening(heard.era or NO_ERA, heard.secret)
        self._scheduler.order(self._hub.hold_not_durable() if heard.resumed else self._hub.hold())
        self._scheduler.listening.set()
        log.info("listening to the database", extra=facts(subscriptions=len(self._hub), resumed=heard.resumed))

    async def _tell_all(self, changes: Sequence[Change]) -> None:
        """What is to be asked about them is asked at once, but nothing of a table that the catalog does not know."""
        ready: list[Change] = []
        await self._catalog.confirm(changes)
        for change in changes:
            if self._catalog.is_drifted(change):
                await self._tell(ready)
                ready = []
                await self._catalog.catch_up(change)
            else:
                self._catalog.fits(change)
            ready.append(change)
        await self._tell(ready)

    async def _tell(self, changes: Sequence[Change]) -> None:
        for change, weighing in await self._weighed(changes):
            try:
                readings = self._hub.apply(change, weighing)
            except Exception:  # a value that we stumble over must not end the stream of all the others
                readings = self._give_up(change)
            self._scheduler.order(readings)
        self._hub.flush()

    async def _weighed(self, changes: Sequence[Change]) -> list[tuple[Change, Weighing[Topic] | None]]:
        """With all that had to be asked. What comes meanwhile may take subscribers elsewhere: once more, then."""
        while True:
            check_still_wanted()
            arrangement = self._hub.arrangement
            weighed = [each for change in changes if (each := self._weigh(change)) is not None]
            await self._asking.settle([weighing for _, weighing in weighed if weighing])
            if self._hub.arrangement is arrangement:
                return weighed

    def _weigh(self, change: Change) -> tuple[Change, Weighing[Topic] | None] | None:
        """None: it has been given up."""
        try:
            return change, self._hub.weigh(change, judged_at(change))
        except Exception:  # as above
            self._scheduler.order(self._give_up(change))
            return None

    def _give_up(self, change: Change) -> list[Reading]:
        log.exception("a change cannot be told: its subscribers get fresh data")
        return self._hub.hold(self._hub.catalog.by_relation_id[change.relation_id].relation_id)
