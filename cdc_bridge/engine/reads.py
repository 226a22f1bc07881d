"""The reads for subscribers: initial data, missed changes, and rows or figures that have become stale.

A worker runs a read. The read passes what it has found to the hub or the publisher and returns the readings to order
next. `scheduler.py` says when a read waits, and what happens when it fails.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.evaluation import judged_at, settle
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher, Refresh
from cdc_bridge.engine.replay import Replay
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
    """The objects that reads use."""

    hub: Hub
    publisher: Publisher
    reader: Reader
    log_reader: LogReader
    catalog: CatalogWatch
    evaluator: RowEvaluator


class Read(Protocol):
    """A read. Reads with equal `key` are one. If one read is slow, all with the same `cost` are expected to be."""

    key: Hashable
    cost: Hashable
    disagreed: int
    """How often in a row the database disagreed with the catalog."""

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

    @property
    def is_wanted(self) -> bool:
        return any(reading.is_current for reading in self.readings.values())

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return self.readings.keys()

    def forget_outdated(self) -> None:
        self.readings = {reading.subscriber: reading for reading in self.readings.values() if reading.is_current}

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
    """The changes that one subscriber missed, read from the log page by page and sent at the client's pace.

    Policy: a subscriber that cannot be sent all of them gets fresh data.
    """

    def __init__(self, reading: Reading) -> None:
        self.subscriber = reading.subscriber
        self.key: Hashable = reading.subscriber
        self.cost: Hashable = reading.subscriber
        self._reading = reading
        self.disagreed = 0
        self._replay: Replay | None = None

    @property
    def is_wanted(self) -> bool:
        return (self._reading if self._replay is None else self._replay.reading).is_current

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return (self.subscriber,)

    async def run(self, sources: Sources) -> list[Reading]:
        """Read in rounds until the stream can go on from where the last round ended."""
        replay = self._replay = self._replay or Replay.begin(sources.hub, self._reading)
        while replay is not None and replay.is_whole:
            if await _read_missed(sources, replay):
                return []
        return self._start_anew(sources.hub)

    def give_up(self, sources: Sources, error: Exception) -> list[Reading]:
        if self.is_wanted:  # else its client has left, say
            log.info("missed changes cannot be sent: the client gets fresh data", extra=facts(reason=str(error)))
        return self._start_anew(sources.hub)

    def _start_anew(self, hub: Hub) -> list[Reading]:
        return [hub.start_anew(self.subscriber)] if self.is_wanted else []


async def _read_missed(sources: Sources, replay: Replay) -> bool:
    """Read one round. Return False if so much has happened in the meantime that another round is needed."""
    collection = sources.hub.collections.newest(replay.subscriber.subscription.collection)
    async with aclosing(sources.log_reader.missed(collection, replay.positions)) as pages:
        async for page in pages:
            if not replay.is_whole:
                raise Forgotten("the log has a gap, or the client has left")
            if isinstance(page, CaughtUp):
                return replay.meet(page.snapshot)
            await _send(sources, replay, page)
    raise SourceUnavailable("the log ended early")


async def _send(sources: Sources, replay: Replay, page: Page) -> None:
    """Send a page at the client's pace."""
    subscriber = replay.subscriber
    replay.remember(page.earlier)
    await sources.catalog.confirm(page.changes)
    if not replay.is_whole or any(sources.catalog.is_drifted(change) for change in page.changes):
        raise Forgotten("a change says that its table was altered")
    matched = [(change, replay.match(change, judged_at(change))) for change in page.changes]
    await settle(sources.evaluator, [match for _, match in matched if match])
    for change, match in matched:
        events = replay.events_of(change, match, page.snapshot)
        if events is None:
            raise Forgotten("a change cannot be sent, or cannot have happened when the log says")
        for event, client_position in events:
            if not await subscriber.outlet.room(event.cost_bytes):
                sources.hub.leave(subscriber)
            if not replay.is_whole:
                raise Forgotten("the log has a gap, or the client has left")
            subscriber.push(event, client_position)
