"""What a bridge keeps of those who have gone: nothing."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import TypeVar

import pytest

from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.subscriber import Subscriber
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

Kind = TypeVar("Kind")

pytestmark = pytest.mark.once

AT_ONCE = 50
ROUNDS = 100
WARM_UP_ROUNDS = 20
"""After them, everything that is made once has been made."""
GROWTH_BYTES_MAX = 128 * 1024
"""32 bytes for each subscription between the two measurements: not even a short string is that small."""


@pytest.fixture
def _traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("_traced")
async def test_5000_subscriptions_that_come_and_go_leave_nothing(database: Database) -> None:
    """Half of them hear a change; the others leave at once, when their `init` may be on its way."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    hubs, subscribers = _alive(Hub), _alive(Subscriber)  # of tests before this one
    before_bytes = 0
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        [hub] = [hub for hub in _alive(Hub) if hub not in hubs]
        for number in range(ROUNDS):
            if number == WARM_UP_ROUNDS:
                before_bytes = _held_bytes()
            await _subscribe(client, number)
            if number % 2:
                await _hear_a_change(client, database, number)
            await client.send({"type": "unsubscribe"})
            await client.until(event="unsubscribe")
            assert len(hub) == 0
            client.seen.clear()
        grown_bytes = _held_bytes() - before_bytes
        assert len(_alive(Subscriber)) <= len(subscribers)
    assert grown_bytes < GROWTH_BYTES_MAX


async def _subscribe(client: Client, number: int) -> None:
    for uid in range(AT_ONCE):
        await client.send({"type": "subscribe", "collection": "t", "uid": f"{number} {uid}", "query": {"limit": 1}})


async def _hear_a_change(client: Client, database: Database, number: int) -> None:
    """Each of them hears it, and nothing of those that have left is heard in between."""
    for _ in range(AT_ONCE):
        await client.expect(event="init")
    database.execute("INSERT INTO t VALUES (%s)", [number])
    for _ in range(AT_ONCE):
        await client.expect(event="create", data=[{"id": number}])


def _alive(kind: type[Kind]) -> list[Kind]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, kind)]


def _held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
