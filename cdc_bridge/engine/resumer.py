"""Tells clients that come back what they have missed, from the log.

Beside the readings: a client is told at its own pace, and nobody waits for the data of others because of it.

Bound: `resumes_max` clients are told at the same time, and of each a page of the log is held; the others wait in the
agenda. Policy: whoever cannot be told everything gets fresh data.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from cdc_bridge.engine.agenda import Agenda
from cdc_bridge.engine.asking import Asking, judged_at
from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.replay import Replay
from cdc_bridge.engine.subscriber import Reading
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import Forgotten, SourceChanged, SourceUnavailable
from cdc_bridge.ports import CaughtUp, LogReader, Missed
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)


class Resumer:
    """See the module's docstring."""

    def __init__(
        self,
        log_reader: LogReader,
        hub: Hub,
        agenda: Agenda,
        catalog: CatalogWatch,
        asking: Asking,
        *,
        resumes_max: int,
        retry_delay_s: float,
    ) -> None:
        self._log_reader = log_reader
        self._hub = hub
        self._agenda = agenda
        self._catalog = catalog
        self._asking = asking
        self._resumes_max = resumes_max
        self._retry_delay_s = retry_delay_s

    async def serve(self) -> None:
        """All workers, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._resumes_max):
                tasks.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            check_still_wanted()
            await self._resume(await self._agenda.next_missed())

    async def _resume(self, reading: Reading) -> None:
        if not reading.current:
            return
        catching = Replay.begin(self._hub, reading)
        is_told = catching is not None and await self._catch_up(catching)
        still = reading if catching is None else catching.reading
        if not is_told and still.current:
            self._agenda.order([self._hub.start_anew(reading.subscriber)])

    async def _catch_up(self, catching: Replay) -> bool:
        """Read round after round, until the stream goes on from where the last one ended. False when that cannot be."""
        while catching.is_whole:
            try:
                if await self._read_missed(catching):
                    return True
                continue
            except Forgotten as reason:
                log.info("what a client has missed cannot be told", extra=facts(reason=str(reason)))
                return False
            except SourceChanged:
                check_still_wanted()
                await self._catalog.refresh_until_done()
            except SourceUnavailable as error:
                check_still_wanted()
                log.info("the log cannot be read, trying again", extra=facts(reason=str(error)))
            except Exception:  # nor may it end the worker
                log.exception("what a client has missed cannot be told")
                return False
            await asyncio.sleep(self._retry_delay_s)
        return False

    async def _read_missed(self, catching: Replay) -> bool:
        """One round. False when so much has happened meanwhile that there has to be another one."""
        collection = self._hub.collection(catching.subscriber.subscription)
        async with aclosing(self._log_reader.missed(collection, catching.told)) as pages:
            async for page in pages:
                if not catching.is_whole:
                    raise Forgotten("the log has a gap")
                if isinstance(page, CaughtUp):
                    return catching.meet(page.snapshot)
                await self._tell(catching, page)
        raise SourceUnavailable("the log ended early")

    async def _tell(self, catching: Replay, page: Missed) -> None:
        """Send a page at the client's pace."""
        subscriber = catching.subscriber
        catching.remember(page.earlier)
        if any(self._catalog.is_drifted(change) for change in page.changes):
            raise Forgotten("a change says that its table was altered")
        weighed = [(change, catching.weigh(change, judged_at(change))) for change in page.changes]
        await self._asking.settle([weighing for _, weighing in weighed if weighing])
        for change, weighing in weighed:
            events = catching.tell(change, weighing, page.snapshot)
            if events is None:
                raise Forgotten("a change cannot be told, or cannot have happened when the log says")
            for event, receipt in events:
                if not await subscriber.outlet.room(event.cost_bytes):
                    self._agenda.leave(subscriber)
                if not catching.is_whole:
                    raise Forgotten("the log has a gap, or nobody is there to be told")
                subscriber.push(event, receipt)
