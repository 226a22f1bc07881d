"""The reads that wait, in a queue for each kind, and the workers that run them.

Theory: each kind has a queue and workers of its own (`shares.py`): many clients that come back do not delay a new one,
and slow figures delay neither rows nor other figures.

Rule: first come, first served. Nothing is handed out while the bridge is not `listening`, since data read then could
not be joined to the stream.

Bound: a subscriber waits for one read at most, the newest, and a topic for one refresh. `shares.py` says how many
reads of each kind are done at the same time.

Policy: a read that cannot be done now is ordered again after a while, in which others are served. A read that finds
another table than the catalog has waits for a newer catalog; it is given up if the database goes on disagreeing with
the same catalog. A read that can never be done ends alone. A read that takes longer than others may wait is stopped and
goes to the queue of slow reads.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final, cast

from cdc_bridge.engine.catalog_watch import DISAGREEMENTS_MAX
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.reads import Read, RefreshRead, ReplayRead, SnapshotRead, Sources
from cdc_bridge.engine.shares import Kind, SlowWork
from cdc_bridge.engine.subscriber import Reading, Subscriber
from cdc_bridge.histogram import Histogram
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import Forgotten, RequestError, SourceChanged, SourceUnavailable, cannot_be_read
from cdc_bridge.wanted import check_still_wanted


class Cause(enum.Enum):
    """Why subscribers that have data get fresh ones. The value is what metrics call it."""

    GAP = "gap"
    LISTENING = "listening"
    STREAM = "stream"
    UNDECIDED = "undecided"
    CATALOG = "catalog"
    RIGHTS = "rights"
    OVERFLOW = "overflow"
    REPLAY = "replay"
    LATE = "late"


class ReadScheduler:
    """See the module's docstring."""

    def __init__(self, hub: Hub, publisher: Publisher) -> None:
        self.listening = asyncio.Event()
        self._hub = hub
        self._publisher = publisher
        self._queues: dict[Kind, dict[Hashable, Read]] = {kind: {} for kind in Kind}
        self._filled = {kind: asyncio.Event() for kind in Kind}
        self._waits_at: dict[Subscriber, tuple[Kind, Hashable]] = {}
        self._slow = SlowWork()
        self.resyncs: Counter[Cause] = Counter()
        """Fresh data that were ordered for subscribers that had data, for metrics."""

    def __len__(self) -> int:
        """Return how many subscribers wait for a read that no worker has taken."""
        return len(self._waits_at)

    # --- what is ordered ---

    def order(self, readings: Iterable[Reading], cause: Cause = Cause.LATE) -> None:
        """Queue these readings, and the refreshes that the publisher has found necessary.

        Call it after each call of the hub or the publisher.
        """
        for reading in readings:
            self._forget(reading.subscriber)
            self.resyncs[cause] += reading.subscriber.has_data and not reading.is_of_log
            self.wait(ReplayRead(reading) if reading.is_of_log else SnapshotRead(reading))
        if self._publisher.has_stale:
            self._filled[Kind.REFRESH].set()

    def wait(self, read: Read, kind: Kind | None = None) -> None:
        """Queue a read: in the queue of its kind, or in the slow one if it is known to be slow."""
        kind = Kind.SLOW if read.cost in self._slow else kind or _kind(read)
        known = self._queues[kind].get(read.key)
        read.since_s = time.monotonic()
        if isinstance(read, SnapshotRead | ReplayRead):
            read.readings = {subscriber: reading for subscriber, reading in read.readings.items() if reading.is_current}
            for subscriber in read.readings:
                self._waits_at[subscriber] = kind, read.key
            if isinstance(known, SnapshotRead | ReplayRead):
                known.readings.update(read.readings)
                return
        self._queues[kind][read.key] = read
        self._filled[kind].set()

    def wait_with_slow(self, read: Read) -> None:
        """Queue a read that took longer than others may wait among the slow ones."""
        self._slow.add(read.cost)
        self.wait(read)

    def leave(self, subscriber: Subscriber) -> None:
        """End a subscription, and read nothing for it any more."""
        self._forget(subscriber)
        self._hub.leave(subscriber)

    def suspend(self, subscriber: Subscriber) -> None:
        """Send it nothing, and read nothing for it, until it goes on."""
        self._forget(subscriber)
        self._hub.suspend(subscriber)

    # --- what workers take ---

    async def take(self, kind: Kind, reads_max: int = 1) -> list[Read]:
        """Wait for reads of a kind that are still wanted. Return those that have waited longest."""
        queue, filled = self._queues[kind], self._filled[kind]
        while True:
            await filled.wait()
            await self.listening.wait()
            if kind is Kind.REFRESH:
                for refresh in self._publisher.take_stale():
                    self.wait(RefreshRead(refresh))
            wanted: list[Read] = []
            while queue and len(wanted) < reads_max:
                read = self._pop(kind)
                if not read.is_wanted:
                    continue
                if kind is not Kind.SLOW and read.cost in self._slow:
                    self.wait(read)
                else:
                    wanted.append(read)
            if not queue:
                filled.clear()
            if wanted:
                return wanted

    # --- inside ---

    def _pop(self, kind: Kind) -> Read:
        queue = self._queues[kind]
        read = queue.pop(next(iter(queue)))
        for subscriber in read.subscribers:
            self._waits_at.pop(subscriber, None)
        return read

    def _forget(self, subscriber: Subscriber) -> None:
        """Take a subscriber out of the queue in which it waits."""
        kind, key = self._waits_at.pop(subscriber, (None, None))
        if kind is None:
            return
        read = self._queues[kind][key]
        if isinstance(read, SnapshotRead | ReplayRead):
            del read.readings[subscriber]
            if read.readings:
                return
        del self._queues[kind][key]


def _kind(read: Read) -> Kind:
    if isinstance(read, SnapshotRead):
        return Kind.ALONE if read.has_figures else Kind.ROWS
    if isinstance(read, ReplayRead):
        return Kind.PACED if read.is_alone else Kind.REPLAY
    return Kind.REFRESH


# --- the workers that do it ---

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""The time for a read while others of its kind may wait behind it."""

TOGETHER_MAX: Final = 50
"""Most reads in one transaction, and most refreshes between two rests."""

REST_MIN_S = 0.02
"""The shortest rest between refreshes. The worker rests as long as it has worked, so that frequent changes are read
together.
"""


GATHER_S = 0.1
"""The rest after a replay, in which clients that come back gather for the next one."""


class ReadWorkers:
    """See the module's docstring."""

    def __init__(
        self, scheduler: ReadScheduler, sources: Sources, *, workers: Mapping[Kind, int], retry_delay_s: float
    ) -> None:
        self._scheduler = scheduler
        self._sources = sources
        self._workers = workers
        self._retry_delay_s = retry_delay_s
        self.queued = {kind: Histogram() for kind in Kind}
        """How long reads waited for a worker, for metrics."""
        self.took = {kind: Histogram() for kind in Kind}
        """How long a worker was busy with reads that it took together."""

    async def serve(self) -> None:
        """Run all workers for ever."""
        async with asyncio.TaskGroup() as tasks:
            for kind, count in self._workers.items():
                for _ in range(count):
                    tasks.create_task(self._work(kind))

    async def _work(self, kind: Kind) -> None:
        reads_max = TOGETHER_MAX if kind in (Kind.ROWS, Kind.REFRESH) else 1
        while True:
            check_still_wanted()
            began_s = await self._do(kind, await self._scheduler.take(kind, reads_max))  # keeps no read while it waits
            if kind is Kind.REFRESH:
                await asyncio.sleep(max(REST_MIN_S, time.monotonic() - began_s))
            elif kind is Kind.REPLAY:
                await asyncio.sleep(GATHER_S)

    async def _do(self, kind: Kind, reads: Sequence[Read]) -> float:
        """Run reads, and return the time when that began."""
        began_s = time.monotonic()
        for read in reads:
            self.queued[kind].observe(began_s - read.since_s)
        if kind is Kind.ROWS and len(reads) > 1:
            await self._run_together(cast(Sequence[SnapshotRead], reads))
        else:
            for read in reads:
                await self._run(read, None if kind in (Kind.SLOW, Kind.REPLAY, Kind.PACED) else PATIENCE_S)
        self.took[kind].observe(time.monotonic() - began_s)
        return began_s

    async def _run_together(self, reads: Sequence[SnapshotRead]) -> None:
        """Read in one transaction. If that fails, queue each read alone to find out which one is at fault."""
        hub = self._sources.hub
        anchors = [read.anchor(hub) for read in reads]
        try:
            found = await self._sources.reader.read_together([read.asked for read in reads], hub.catalog)
        except Exception as error:  # whatever it is, only one of the reads is at fault
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
                await self._sources.catalog.refresh_until_done()  # by a newer catalog some of it may be allowed
            self._give_up(read, error)
        except Exception as error:  # an error that we do not expect must not end the worker
            log.exception("data cannot be read")
            self._give_up(read, error)

    def _give_up(self, read: Read, error: Exception) -> None:
        self._scheduler.order(read.give_up(self._sources, error))

    def _wait_later(self, read: Read) -> None:
        def wait() -> None:
            if read.is_wanted:
                self._scheduler.wait(read)

        asyncio.get_running_loop().call_later(self._retry_delay_s, wait)
