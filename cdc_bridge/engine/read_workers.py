"""Workers that take reads from the scheduler's lines.

Policy: a read that cannot be done now is ordered again after a while, in which others are served. One that finds
another table than the catalog has waits for a newer catalog; if the database goes on disagreeing with the same one, it
is given up. A read that can never be done ends, and no other one with it. One that takes longer than others may wait is
stopped, and waits among its like.

Bound: `Shares` says how many reads of each kind are done at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, cast

from cdc_bridge.engine.catalog_watch import DISAGREEMENTS_MAX
from cdc_bridge.engine.reads import Read, SnapshotRead, Sources
from cdc_bridge.engine.scheduler import Kind, ReadScheduler
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import (
    Forgotten,
    RequestError,
    SourceChanged,
    SourceUnavailable,
    cannot_be_read,
)
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

WORKERS: Final[Mapping[Kind, int]] = MappingProxyType({Kind.ALONE: 2, Kind.SLOW: 2, Kind.REFRESH: 1, Kind.REPLAY: 4})
"""Besides those of ROWS, which are a setting (`snapshot_concurrency`)."""

DATA_WORKERS: Final = sum(count for kind, count in WORKERS.items() if kind is not Kind.REPLAY)
"""Of these, those that read tables."""

PATIENCE_S = 3.0
"""For a read that others of its kind may wait behind."""

TOGETHER_MAX: Final = 50
"""Reads of one transaction, where as many wait; and refreshes between two rests."""

REST_MIN_S = 0.02
"""Between refreshes; the worker rests as long as it has worked, so that what changes often is read together."""


class ReadWorkers:
    """See the module's docstring."""

    def __init__(
        self, scheduler: ReadScheduler, sources: Sources, *, workers: Mapping[Kind, int], retry_delay_s: float
    ) -> None:
        self._scheduler = scheduler
        self._sources = sources
        self._workers = workers
        self._retry_delay_s = retry_delay_s

    async def serve(self) -> None:
        """All workers, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for kind, count in self._workers.items():
                for _ in range(count):
                    tasks.create_task(self._work(kind))

    async def _work(self, kind: Kind) -> None:
        reads_max = TOGETHER_MAX if kind in (Kind.ROWS, Kind.REFRESH) else 1
        while True:
            check_still_wanted()
            began_s = time.monotonic()
            began_s = await self._do(kind, await self._scheduler.take(kind, reads_max))  # keeps none while it waits
            if kind is Kind.REFRESH:
                await asyncio.sleep(max(REST_MIN_S, time.monotonic() - began_s))

    async def _do(self, kind: Kind, reads: Sequence[Read]) -> float:
        """Return when it began."""
        began_s = time.monotonic()
        if kind is Kind.ROWS and len(reads) > 1:
            await self._run_together(cast(Sequence[SnapshotRead], reads))
        else:
            for read in reads:
                await self._run(read, None if kind in (Kind.SLOW, Kind.REPLAY) else PATIENCE_S)
        return began_s

    async def _run_together(self, reads: Sequence[SnapshotRead]) -> None:
        """In one transaction. When one of them is in the way of the others, each is read alone to know which."""
        hub = self._sources.hub
        anchors = [read.anchor(hub) for read in reads]
        try:
            found = await self._sources.reader.read_together([read.asked for read in reads], hub.catalog)
        except Exception as error:  # whatever it is, it is one's and not everybody's
            check_still_wanted()
            log.debug("reads are done one by one", extra=facts(reason=str(error)))
            for read in reads:
                self._scheduler.wait(read, Kind.ALONE)
            return
        for read, anchor, data in zip(reads, anchors, found, strict=True):
            self._scheduler.order(read.begin(hub, anchor, data))

    async def _run(self, read: Read, patience_s: float | None) -> None:
        hub = self._sources.hub
        catalog = hub.catalog
        if not read.is_wanted:
            return
        try:
            try:
                async with asyncio.timeout(patience_s) as patience:
                    self._scheduler.order(await read.run(self._sources))
            except TimeoutError:
                if not patience.expired():
                    raise
                log.info("a read takes long: it goes on among its like")
                self._scheduler.wait_with_slow(read)
        except SourceChanged as error:
            check_still_wanted()
            await self._sources.catalog.refresh_until_done()
            read.disagreed = 0 if hub.catalog is not catalog else read.disagreed + 1
            if read.disagreed < DISAGREEMENTS_MAX:
                self._wait_later(read)
            else:
                log.error("data cannot be read", extra=facts(reason=str(error)))
                self._give_up(read, cannot_be_read())
        except SourceUnavailable as error:
            check_still_wanted()
            log.info("data cannot be read, trying again", extra=facts(reason=str(error)))
            self._wait_later(read)
        except (RequestError, Forgotten) as error:
            check_still_wanted()
            if isinstance(error, RequestError) and error.code == "FORBIDDEN":
                await self._sources.catalog.refresh_until_done()  # by a newer one it may be less, and not nothing
            self._give_up(read, error)
        except Exception as error:  # nor may it end the worker
            log.exception("data cannot be read")
            self._give_up(read, error)

    def _give_up(self, read: Read, error: Exception) -> None:
        self._scheduler.order(read.give_up(self._sources.hub, error))

    def _wait_later(self, read: Read) -> None:
        def wait() -> None:
            if read.is_wanted:
                self._scheduler.wait(read)

        asyncio.get_running_loop().call_later(self._retry_delay_s, wait)
