"""What waits to be read: equal reads together, first come first served, at most one a subscriber, slow ones apart."""

from __future__ import annotations

import asyncio

import pytest

from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.reads import Read, SnapshotRead
from cdc_bridge.engine.scheduler import ReadScheduler
from cdc_bridge.engine.shares import Kind
from cdc_bridge.engine.subscriber import Reading
from cdc_bridge.model.subscription import Subscription
from tests.core.facts import CATALOG, MESSAGES, Recorder, subscription


class Waiting:
    """A hub, and what waits to be read for it."""

    def __init__(self) -> None:
        self.hub = Hub(1000)
        self.publisher = Publisher(self.hub.collections, self.hub.subscribers)
        self.hub.adopt(CATALOG, lambda known, _: known)
        self.scheduler = ReadScheduler(self.hub, self.publisher)
        self.scheduler.listening.set()

    def follow(self, wanted: Subscription, after: str | None = None) -> Reading:
        reading = self.hub.follow(Recorder(), wanted, after)
        self.scheduler.order([reading])
        return reading

    async def taken(self, kind: Kind = Kind.ROWS, reads_max: int = 1) -> list[list[Reading]]:
        """What a worker gets at once; nothing when it has to wait."""
        try:
            async with asyncio.timeout(0.01):
                return list(map(_readings, await self.scheduler.take(kind, reads_max)))
        except TimeoutError:
            return []


def _readings(read: Read) -> list[Reading]:
    assert isinstance(read, SnapshotRead)
    return list(read.readings.values())


@pytest.fixture
async def waiting() -> Waiting:
    return Waiting()


async def test_equal_readings_are_taken_together_and_the_oldest_first(waiting: Waiting) -> None:
    first, second, like_first = (waiting.follow(subscription(MESSAGES, *f)) for f in (["id"], ["text"], ["id"]))
    assert len(waiting.scheduler) == 3
    assert await waiting.taken() == [[first, like_first]]
    assert await waiting.taken() == [[second]]
    assert await waiting.taken() == []


async def test_subscriber_waits_for_the_newest_reading_only(waiting: Waiting) -> None:
    old = waiting.follow(subscription(MESSAGES, "id"))
    new = waiting.hub.start_anew(old.subscriber)
    waiting.scheduler.order([new])
    assert len(waiting.scheduler) == 1
    assert await waiting.taken(reads_max=9) == [[new]]


async def test_subscriber_that_has_left_leaves_nothing_behind(waiting: Waiting) -> None:
    for after in [None] * 1000 + ["a cursor"] * 1000:
        reading = waiting.follow(subscription(), after)
        waiting.scheduler.leave(reading.subscriber)
        waiting.scheduler.leave(reading.subscriber)
    assert len(waiting.scheduler) == 0
    assert not any(waiting.scheduler._queues.values())
    assert await waiting.taken() == []


async def test_nothing_is_handed_out_before_we_listen(waiting: Waiting) -> None:
    waiting.scheduler.listening.clear()
    reading = waiting.follow(subscription())
    assert await waiting.taken() == []
    waiting.scheduler.listening.set()
    assert await waiting.taken() == [[reading]]


async def test_what_took_long_waits_with_its_like_and_so_does_what_costs_the_same(waiting: Waiting) -> None:
    slow = waiting.follow(subscription(MESSAGES, "id"))
    (read,) = await waiting.scheduler.take(Kind.ROWS)
    waits_already, quick = waiting.follow(subscription(MESSAGES, "id")), waiting.follow(subscription(MESSAGES, "text"))
    waiting.scheduler.wait_with_slow(read)
    comes_later = waiting.follow(subscription(MESSAGES, "id"))
    assert await waiting.taken() == [[quick]]
    assert await waiting.taken(Kind.SLOW) == [[slow, comes_later, waits_already]]
