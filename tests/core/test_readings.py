"""Initial data that is waited for: equal readings together, first come first served, at most one a subscriber."""

from __future__ import annotations

import pytest

from cdc_bridge.engine.readings import Readings
from cdc_bridge.engine.subscriber import Reading, Seals, Subscriber
from cdc_bridge.model.subscription import Subscription
from tests.core.facts import MESSAGES, Recorder, subscription


def reading(wanted: Subscription) -> Reading:
    return Subscriber(Recorder(), wanted, Seals()).reading()


def test_equal_readings_are_taken_together_and_the_oldest_first() -> None:
    first, second, like_first = (reading(subscription(MESSAGES, *fields)) for fields in (["id"], ["text"], ["id"]))
    waiting = Readings()
    for each in (first, second, like_first):
        waiting.add(each)
    assert len(waiting) == 3
    assert waiting.take() == [first, like_first]
    assert waiting.take() == [second]
    with pytest.raises(StopIteration):
        waiting.take()


def test_follower_waits_for_the_newest_reading_only() -> None:
    old = reading(subscription(MESSAGES, "id"))
    new = Reading(old.subscriber, subscription(MESSAGES, "text"))
    waiting = Readings()
    waiting.add(old)
    waiting.add(new)
    assert len(waiting) == 1
    assert waiting.take() == [new]


def test_follower_that_has_gone_leaves_nothing_behind() -> None:
    waiting = Readings()
    for _ in range(1000):
        ordered = reading(subscription())
        waiting.add(ordered)
        waiting.discard(ordered.subscriber)
        waiting.discard(ordered.subscriber)
    assert len(waiting) == 0
