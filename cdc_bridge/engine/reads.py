"""The reads for subscribers: initial data, missed changes, and rows or figures that have become stale.

A worker runs a read. The read passes what it has found to the hub or the publisher and returns the readings to order
next. `scheduler.py` says when a read waits, and what happens when it fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.evaluation import judged_at, settle
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher, Refresh
from cdc_bridge.engine.replay import Replay, Resuming, grouped, in_turns, resume, start_anew, together
from cdc_bridge.engine.subscriber import Anchor, Reading, Subscriber
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import Forgotten, RequestError, SourceUnavailable, cannot_be_read
from cdc_bridge.model.filter import conjunction
from cdc_bridge.model.subscription import Projection, Query
from cdc_bridge.ports import Asked, CaughtUp, InitialData, LogReader, Page, Reader, RowEvaluator

log = logging.getLogger(__name__)

REFRESHED_ROWS_MAX = 1000
"""Rows that are refreshed because of one change elsewhere. Policy: past it, subscribers get fresh data."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The objects that reads use. `order` queues further reads at once."""

    hub: Hub
    publisher: Publisher
    reader: Reader
    log_reader: LogReader
    catalog: CatalogWatch
    evaluator: RowEvaluator
    order: Callable[[Iterable[Reading]], None]


class Read(Protocol):
    """A read. Reads with equal `key` are one. If one read is slow, all with the same `cost` are expected to be."""

    key: Hashable
    cost: Hashable
    disagreed: int
    """How often in a row the database disagreed with the catalog."""
    since_s: float
    """When it was queued, by the monotonic clock."""

    @property
    def is_wanted(self) -> bool:
        """Whether any subscriber still waits for it."""
        ...

    @property
    def subscribers(self) -> Collection[Subscriber]:
        """Return the subscribers that wait for this read and nothing else."""
        ...

    async def run(self, sources: Sources) -> list[Reading]:
        """Read, and pass the result on. Raises what a `Reader` or a `LogReader` raises."""
        ...

    def give_up(self, sources: Sources, error: Exception) -> list[Reading]:
        """Return what to read instead, since this cannot be read."""
        ...


class SnapshotRead:
    """Initial data for all subscribers whose readings are equal: the same data for the same principal."""

    def __init__(self, reading: Reading) -> None:
        self.readings = {reading.subscriber: reading}
        subscription = reading.subscription
        collection, query, context = subscription.collection, subscription.query, subscription.context
        relation_id, role = collection.relation_id, context.principal.role
        self.cost: Hashable = relation_id, query, role  # a policy is as slow for each principal
        if subscription.event is None:
            self.key: Hashable = (relation_id, query, subscription.key, context)
            self.asked = Asked(collection, query, subscription.key, context)
        else:  # it gets no data, but needs a snapshot of the table, taken as a role that may read it
            self.key = relation_id, role
            self.asked = Asked(collection, Query(Projection.of(collection.columns[:1]), limit=0), None, context)
        self.disagreed = 0
        self.since_s = 0.0

    @property
    def is_wanted(self) -> bool:
        return any(reading.is_current for reading in self.readings.values())

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return self.readings.keys()

    @property
    def has_figures(self) -> bool:
        return bool(self.asked.query.meta) or self.asked.query.aggregate is not None

    def anchor(self, hub: Hub) -> Anchor:
        """Return the anchor of the data. Call it before reading."""
        return hub.anchor(self.asked.collection.relation_id)

    async def run(self, sources: Sources) -> list[Reading]:
        anchor = self.anchor(sources.hub)
        return self.begin(sources.hub, anchor, await sources.reader.read(self.asked, sources.hub.catalog))

    def begin(self, hub: Hub, anchor: Anchor, data: InitialData) -> list[Reading]:
        """Begin the subscriptions with their data. Return readings for subscribers whose data came too late."""
        begun = [hub.begin(reading, anchor, data) for reading in self.readings.values()]
        return [reading for reading in begun if reading is not None]

    def give_up(self, sources: Sources, error: Exception) -> list[Reading]:
        refusal = error if isinstance(error, RequestError) else cannot_be_read()
        for reading in self.readings.values():
            if reading.is_current:
                sources.hub.refuse(reading.subscriber, refusal)
        return []


class RefreshRead:
    """Rows or figures of one topic that changes elsewhere have made stale."""

    def __init__(self, refresh: Refresh) -> None:
        self._refresh = refresh
        subscription = refresh.subscription
        self.key: Hashable = self
        role = subscription.context.principal.role
        self.disagreed = 0
        self.since_s = 0.0
        self.cost: Hashable = "refresh", subscription.collection.relation_id, subscription.query, role

    @property
    def is_wanted(self) -> bool:
        return self._refresh.topic.refreshing is self._refresh.pending

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return ()

    async def run(self, sources: Sources) -> list[Reading]:
        subscription = self._refresh.subscription
        query = self._query(subscription.query)
        asked = Asked(subscription.collection, query, subscription.key, subscription.context)
        data = await sources.reader.read(asked, sources.hub.catalog)
        if data.more and query.aggregate is None:
            return sources.publisher.give_up(self._refresh)
        return sources.publisher.show(self._refresh, data.rows, data.snapshot)

    def _query(self, query: Query) -> Query:
        """Return the query for all figures, or for the stale rows only."""
        if query.aggregate is not None:
            return query
        return replace(
            query,
            filter=conjunction(query.of_table, self._refresh.filter),
            asked=None,
            limit=REFRESHED_ROWS_MAX,
            offset=0,
            limit_is_ours=True,
            meta=frozenset(),
        )

    def give_up(self, sources: Sources, error: Exception) -> list[Reading]:
        """Give the subscribers of the topic fresh data."""
        log.info("what has changed cannot be shown: fresh data instead", extra=facts(reason=str(error)))
        return sources.publisher.give_up(self._refresh)


class ReplayRead:
    """The changes that subscribers of one collection missed, read from the log page by page, once for all of them.

    Rule: it waits for no client. A subscriber without room for a page leaves it, and goes on alone, at its own pace,
    from what it was sent. Those that come while it runs wait for the next one.

    Policy: a subscriber that cannot be sent all it missed gets fresh data. If the log does not reach back far enough
    for all, those that miss less are read apart from the others, and so on by halves.
    """

    def __init__(self, reading: Reading) -> None:
        self.readings = {reading.subscriber: reading}
        self.is_alone = reading.is_alone
        self.key: Hashable = reading.subscriber if self.is_alone else reading.subscription.collection.relation_id
        self.cost: Hashable = "replay", self.key
        self.disagreed = 0
        self.since_s = 0.0

    @property
    def is_wanted(self) -> bool:
        return any(reading.is_current for reading in self.readings.values())

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return self.readings.keys()

    async def run(self, sources: Sources) -> list[Reading]:
        """Read until the stream can go on from there. What has to be read apart is ordered at once."""
        await self._resume(sources)
        groups, others = together(grouped(reading for reading in self.readings.values() if reading.is_current))
        self.readings = {subscriber: reading for group in groups for subscriber, reading in group.readings.items()}
        sources.order(reading for group in others for reading in group.current)
        waiting = [groups] if groups else []
        while waiting:
            batch = waiting.pop()
            if not any(group.current for group in batch):
                continue
            try:
                await _read_missed(sources, Replay(sources.hub, batch), is_alone=self.is_alone)
            except Forgotten as error:
                middle = len(batch) // 2
                if middle:
                    waiting += batch[:middle], batch[middle:]
                    continue
                if readings := start_anew(sources.hub, batch[0]):  # else the clients have left
                    log.info("missed changes cannot be sent: clients get fresh data", extra=facts(reason=str(error)))
                    sources.hub.cursors["forgotten"] += len(readings)
                    sources.order(readings)
            except Exception:
                self._keep([*batch, *(group for groups in waiting for group in groups)])
                raise
        return []

    def give_up(self, sources: Sources, error: Exception) -> list[Reading]:
        current = [reading for reading in self.readings.values() if reading.is_current]
        if current:
            log.info("missed changes cannot be sent: clients get fresh data", extra=facts(reason=str(error)))
        return [sources.hub.start_anew(reading.subscriber) for reading in current]

    async def _resume(self, sources: Sources) -> None:
        """Open the cursors. A subscriber whose cursor cannot be used gets fresh data."""
        for some in in_turns(self.readings.values()):
            for reading in some:
                resumed = resume(sources.hub, reading) if reading.is_current else None
                if resumed is not None:
                    self.readings[reading.subscriber] = resumed
                elif reading.is_current:
                    log.debug("a client cannot resume: it gets fresh data")
                    sources.order([sources.hub.start_anew(reading.subscriber)])
            await asyncio.sleep(0)

    def _keep(self, groups: Iterable[Resuming]) -> None:
        """Go on later from what was sent."""
        self.readings = {
            reading.subscriber: reading.subscriber.reading(group.positions, is_alone=self.is_alone)
            for group in groups
            for reading in group.current
        }


async def _read_missed(sources: Sources, replay: Replay, *, is_alone: bool) -> None:
    """Read what the subscribers of a replay have missed, and send it."""
    replay.require_whole()
    async with aclosing(sources.log_reader.missed(replay.collection, replay.positions)) as pages:
        async for page in pages:
            replay.require_whole()
            if isinstance(page, CaughtUp):
                sources.order(replay.meet(page.snapshot))
                return
            await _match(sources, replay, page)
            if is_alone:
                await _send_slowly(sources, replay)
            else:
                for left in replay.send():
                    sources.order(left)
                    await asyncio.sleep(0)
                    replay.require_whole()
            replay.advance(page.snapshot, page.changes[-1].seq)
            if not replay.is_wanted:
                return
    raise SourceUnavailable("the log ended early")


async def _match(sources: Sources, replay: Replay, page: Page) -> None:
    """Find out what a page means to each subscriber."""
    replay.remember(page.earlier)
    await sources.catalog.confirm(page.changes)
    replay.require_whole()
    if any(sources.catalog.is_drifted(change) for change in page.changes):
        raise Forgotten("a change says that its table was altered")
    matched = [(change, replay.matches(change, judged_at(change))) for change in page.changes]
    await settle(sources.evaluator, [match for _, matches in matched for match in matches])
    replay.require_whole()
    taken = [replay.take(change, matches, page.snapshot) for change, matches in matched]
    sources.order(reading for readings in taken for reading in readings)


async def _send_slowly(sources: Sources, replay: Replay) -> None:
    """Send a page at the client's pace."""
    for reading, entry in replay.entries():
        subscriber = reading.subscriber
        if not await subscriber.outlet.room(entry.cost_bytes):
            sources.hub.leave(subscriber)
        replay.require_whole()
        if not reading.is_current:
            return
        subscriber.push_all((entry,), entry.cost_bytes)
