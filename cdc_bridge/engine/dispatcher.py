"""Pass the stream to the publisher, a batch in one call, without waiting for answers of the database.

Where memory cannot decide, an `Inquiry` takes the place of the change in the topics concerned, and the database is
asked beside the stream (`evaluation.py`). A change that does not fit the catalog waits in the queue of its collection,
with all later changes of that collection, until the catalog has been read (`serve_drift`). Nothing else waits.

Bound: `PENDING_BYTES_MAX` of changes that wait for an answer, and as much of changes that wait for the catalog. Policy:
past it the topics that have waited longest, or all topics of the waiting collections, get fresh data. From an eighth of
it on, large transactions of these tables are read later (`is_congested`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import assert_never

from cdc_bridge.capture import Capture
from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.evaluation import judged_at
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Inquiry, Publisher, size_bytes
from cdc_bridge.engine.scheduler import Cause, ReadScheduler
from cdc_bridge.engine.subscriber import Reading
from cdc_bridge.histogram import Histogram
from cdc_bridge.logs import facts
from cdc_bridge.model.change import NO_ERA, Change, Gap, GapCause, Heartbeat, Listening, Lost, StreamItem, Turn
from cdc_bridge.ports import Reader
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

PENDING_BYTES_MAX = 64 * 1024 * 1024

OBSERVED_APART_S = 0.05
"""How often batches are timed, at most."""


class Dispatcher:
    """See the module's docstring."""

    def __init__(
        self,
        capture: Capture,
        reader: Reader,
        hub: Hub,
        publisher: Publisher,
        *,
        scheduler: ReadScheduler,
        catalog: CatalogWatch,
    ) -> None:
        self._capture = capture
        self._reader = reader
        self._hub = hub
        self._publisher = publisher
        self._scheduler = scheduler
        self._catalog = catalog
        self._asked: deque[Inquiry] = deque()
        self._is_asked = asyncio.Event()
        self._pending: dict[Inquiry, None] = {}
        self._pending_bytes = 0
        self._drifting: dict[int, list[Change]] = {}  # by collection, or by table if it belongs to none
        self._drifting_bytes = 0
        self._overflowed: set[int] = set()
        self._is_drifting = asyncio.Event()
        self.lags = {cause: Histogram() for cause in ("held", "match", "asked", "commit_to_socket")}
        """Where changes spend their time, for metrics."""
        self._observed_s = 0.0
        self.gaps: Counter[GapCause] = Counter()

    async def listen(self) -> None:
        """Take the stream, for ever. Raises what the capture raises."""
        async with aclosing(self._capture.batches()) as batches:
            async for batch in batches:
                begin, came_s = 0, time.time()
                for number, item in enumerate(batch):
                    if isinstance(item, (Listening, Lost)):
                        self.take(batch[begin:number])
                        begin = number + 1
                        await self._turn_over(item)
                self.take(batch[begin:])
                if came_s >= self._observed_s and batch and not begin:
                    self._observe(batch, came_s)

    def take(self, batch: Iterable[StreamItem]) -> None:
        """Send what these mean, as far as it is known now."""
        try:
            for item in batch:
                match item:
                    case Change():
                        self._take_change(item)
                    case Heartbeat(snapshot=snapshot, lagging=lagging):
                        self._publisher.take_heartbeat(
                            snapshot, lagging.union(self._drifting) if self._drifting else lagging
                        )
                    case Turn(era=era):
                        self._hub.era = era
                    case Gap():
                        self.gaps[item.cause] += 1
                        self._scheduler.order(self._hold(item), Cause.GAP)
                    case Listening() | Lost():
                        raise AssertionError("it is awaited")
                    case _:
                        assert_never(item)
        finally:
            self._flush()

    def _observe(self, batch: Iterable[StreamItem], came_s: float) -> None:
        """Count how long a batch took on its way, by its first change. Some are enough where there are many."""
        first = next((item for item in batch if isinstance(item, Change)), None)
        if first is not None:
            self._observed_s = came_s + OBSERVED_APART_S
            now_s = time.time()
            self.lags["match"].observe(now_s - came_s)
            if first.at:
                self.lags["held"].observe(came_s - first.at / 1e6)
                self.lags["commit_to_socket"].observe(now_s - first.at / 1e6)

    def _flush(self) -> None:
        """Wake the connections that have something to send, and order what has to be read again."""
        self._publisher.flush()
        if self._publisher.has_stale:
            self._scheduler.order([])

    async def _turn_over(self, item: Listening | Lost) -> None:
        if isinstance(item, Lost):
            self._scheduler.listening.clear()
            await self._reader.renew()
            await self._catalog.renew()
            return
        await self._catalog.refresh_until_done()
        self._hub.listening(item.era or NO_ERA, item.secret)
        self._scheduler.order(self._hub.hold_not_durable() if item.resumed else self._hub.hold(), Cause.LISTENING)
        self._scheduler.listening.set()
        log.info("listening to the database", extra=facts(subscriptions=len(self._hub), resumed=item.resumed))

    def _hold(self, gap: Gap) -> list[Reading]:
        if gap.relation_id is None:
            log.warning("changes were missed: all subscribers get fresh data", extra=facts(reason=gap.reason))
            return self._hub.hold()
        return self._hub.hold(self._key(gap.relation_id))

    # --- changes ---

    def _take_change(self, change: Change) -> None:
        relation_id = change.relation_id
        table = self._hub.tables.get(relation_id)
        key = relation_id if table is None else table.collection.relation_id
        if (
            key in self._drifting
            or self._catalog.calls_for_catalog(change, table)
            # a detached partition looks like a partition: ask the database
            or (relation_id != key and self._hub.is_followed(key))
        ):
            self._wait_for_catalog(key, change)
        else:
            self._dispatch(change)

    def _wait_for_catalog(self, key: int, change: Change) -> None:
        self._drifting.setdefault(key, []).append(change)
        self._drifting_bytes += size_bytes(change)
        self._is_drifting.set()
        if self._drifting_bytes > PENDING_BYTES_MAX:
            log.warning("too many changes wait for the catalog: their subscribers get fresh data")
            self._overflowed.update(self._drifting)
            self._drifting = {each: [] for each in self._drifting}
            self._drifting_bytes = 0

    def _key(self, relation_id: int) -> int:
        """Return the collection of a table, or the table if it belongs to none."""
        table = self._hub.tables.get(relation_id)
        return relation_id if table is None else table.collection.relation_id

    def _dispatch(self, change: Change) -> None:
        try:
            readings = self._publisher.apply(change, change.at or time.time_ns() // 1000)
        except Exception:  # a value that we cannot handle must not end the stream
            log.exception("a change cannot be sent: its subscribers get fresh data")
            readings = self._hub.hold(self._key(change.relation_id))
        if readings:
            self._scheduler.order(readings, Cause.STREAM)
        if self._publisher.inquiries:
            self._ask(self._publisher.inquiries)
            self._publisher.inquiries = []

    # --- what the database has to be asked ---

    def _ask(self, inquiries: Sequence[Inquiry]) -> None:
        now_s = time.monotonic()
        for inquiry in inquiries:
            inquiry.asked_s = now_s
            self._asked.append(inquiry)
            self._pending[inquiry] = None
            self._pending_bytes += inquiry.size_bytes
        self._is_asked.set()
        while self._pending_bytes > PENDING_BYTES_MAX:
            oldest = next(iter(self._pending))
            log.warning("too many changes wait for an answer: their subscribers get fresh data")
            self._give_up(oldest)

    async def next_questions(self, most: int) -> list[Inquiry]:
        """Wait for inquiries. Return all that are at hand, `most` of them at most."""
        while not self._asked:
            self._is_asked.clear()
            await self._is_asked.wait()
        taken: list[Inquiry] = []
        while self._asked and len(taken) < most:
            inquiry = self._asked.popleft()
            if self.is_pending(inquiry):
                taken.append(inquiry)
        return taken

    def is_pending(self, inquiry: Inquiry) -> bool:
        """Whether any subscriber still waits for the answer. If none does, the inquiry is forgotten."""
        if inquiry in self._pending and not any(topic.subscribers for topic in inquiry.pending):
            self._forget(inquiry)
        return inquiry in self._pending

    def answer(self, inquiries: Iterable[Inquiry]) -> None:
        """Publish the changes that these ask about. If rights or the catalog have changed meanwhile, ask again."""
        for inquiry in inquiries:
            if inquiry in self._pending:
                self._answer(inquiry)
        self._flush()

    def _answer(self, inquiry: Inquiry) -> None:
        if not self._publisher.is_current(inquiry):
            self._ask_again(inquiry)
            return
        self._forget(inquiry)
        try:
            readings = self._publisher.settle(inquiry)
        except Exception:  # an answer that we cannot handle must not end it either
            log.exception("a change cannot be sent: its subscribers get fresh data")
            readings = self._publisher.drop(inquiry)
        self.lags["asked"].observe(time.monotonic() - inquiry.asked_s)
        self._scheduler.order(readings, Cause.UNDECIDED)

    def _ask_again(self, inquiry: Inquiry) -> None:
        try:
            can_be_asked = self._publisher.ask_again(inquiry, judged_at(inquiry.change))
        except Exception:  # as in `_dispatch`
            log.exception("a change cannot be judged anew: its subscribers get fresh data")
            can_be_asked = False
        if can_be_asked:
            self._asked.append(inquiry)
            self._is_asked.set()
        else:
            self._give_up(inquiry)

    def _give_up(self, inquiry: Inquiry) -> None:
        """Give subscribers fresh data, since the inquiry cannot be answered."""
        self._forget(inquiry)
        self._scheduler.order(self._publisher.drop(inquiry), Cause.UNDECIDED)

    def _forget(self, inquiry: Inquiry) -> None:
        del self._pending[inquiry]
        self._pending_bytes -= inquiry.size_bytes

    def is_congested(self, relation_ids: Iterable[int]) -> bool:
        """Whether large transactions of these tables should be read later.

        That is so while no subscriber of them has room, or too many of their changes wait for answers.
        """
        relation_ids = list(relation_ids)
        if self._pending_bytes > PENDING_BYTES_MAX // 8:
            waiting = {inquiry.change.relation_id for inquiry in self._pending}
            if not waiting.isdisjoint(relation_ids):
                return True
        return self._publisher.is_congested(relation_ids)

    @property
    def oldest_us(self) -> int:
        """Return when the oldest change that waits for an answer or for the catalog was written; 0 if none does.

        A change in live mode carries no time; the moment of its question, soon after, stands in for it.
        """
        begun_us = (time.time() - time.monotonic()) * 1e6
        waiting = [inquiry.change.at or int(begun_us + inquiry.asked_s * 1e6) for inquiry in self._pending]
        waiting += [change.at for queue in self._drifting.values() for change in queue[:1]]
        return min((at for at in waiting if at), default=0)

    # --- what does not fit the catalog ---

    @property
    def is_waiting(self) -> bool:
        """Whether changes wait for the catalog."""
        return bool(self._drifting)

    async def serve_drift(self) -> None:
        """Read the catalog whenever a change calls for it, for ever, and go on with what has waited for it."""
        while True:
            check_still_wanted()
            await self._is_drifting.wait()
            self._is_drifting.clear()
            queues = {key: tuple(queue) for key, queue in self._drifting.items()}
            await self._look_at_catalog([change for queue in queues.values() for change in queue])
            for key, looked_for in queues.items():
                self._go_on(key, len(looked_for))
            self._flush()

    async def _look_at_catalog(self, changes: Sequence[Change]) -> None:
        await self._catalog.confirm(changes)
        tables = self._hub.tables
        if any(self._catalog.calls_for_catalog(change, tables.get(change.relation_id)) for change in changes):
            await self._catalog.refresh_until_done()

    def _go_on(self, key: int, looked_for: int) -> None:
        """Dispatch the first `looked_for` changes of a queue, for which the catalog was read, then take the others."""
        queue = self._drifting.pop(key)
        self._drifting_bytes -= sum(map(size_bytes, queue))
        if key in self._overflowed:
            self._overflowed.remove(key)
            self._scheduler.order(self._hub.hold(key), Cause.UNDECIDED)
        for change in queue[:looked_for]:
            self._catalog.note(change)
            self._dispatch(change)
        for change in queue[looked_for:]:
            self._take_change(change)
