"""What a bridge keeps of those who have gone: nothing."""

from __future__ import annotations

import gc
import sys

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once

AT_ONCE = 50
ROUNDS = 100
WARM_UP_ROUNDS = 20
"""After them, everything that is made once has been made."""
GROWTH_BLOCKS_MAX = 2000
"""One object for every other subscription between the two measurements; whatever is kept of each makes 4,000."""


async def test_5000_subscriptions_that_come_and_go_leave_nothing(database: Database) -> None:
    """Half of them hear a change; the others leave at once, when their `init` may be on its way."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    before = 0
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        for number in range(ROUNDS):
            if number == WARM_UP_ROUNDS:
                before = _held_blocks()
            await _subscribe(client, number)
            if number % 2:
                await _hear_a_change(client, database, number)
            await client.send({"type": "unsubscribe"})
            await client.until(event="unsubscribe")
            client.seen.clear()
        assert await bridge.counts() == {"connections": 1, "subscriptions": 0}
        grown = _held_blocks() - before
    assert grown < GROWTH_BLOCKS_MAX


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


def _held_blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
