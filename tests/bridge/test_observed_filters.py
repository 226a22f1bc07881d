"""Thousands of filters side by side, and what is left of those of clients that have gone."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(90)]

AT_ONCE = 50
ROUNDS, WARM_UP_ROUNDS, WINDOW_ROUNDS = 70, 10, 15
GROWTH_BLOCKS_MAX = 1500
"""Less than an object for each of the 2,250 filters that have come and gone between the two windows."""


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    attach(database, "t")
    return database


async def subscribe(client: Client, filters: dict[str, dict[str, Any]]) -> None:
    """Without data, by uid."""
    for uid, filter_ in filters.items():
        asked = {"fields": ["id"], "filter": {"v": filter_}}
        await client.send({"type": "subscribe", "collection": "t", "uid": uid, "event": "create", "query": asked})
    for _ in filters:
        await client.expect(event="init", timeout=60)


async def test_bounds_belong_to_a_filter_however_many_others_stand_beside_it(table: Database) -> None:
    filters: dict[str, dict[str, Any]] = {}
    for n in range(0, 2000, 10):
        filters |= {f"from {n} to {n + 10}": {"_between": [n, n + 10]}}
        filters |= {f"between {n} and {n + 10}": {"_gt": n, "_lt": n + 10}}
        filters |= {f"from {n + 10_000}": {"_gte": n + 10_000}, f"above {n + 10_000}": {"_gt": n + 10_000}}
        filters |= {f"to {n - 10_000}": {"_lte": n - 10_000}, f"below {n - 10_000}": {"_lt": n - 10_000}}
    expected = {
        0: {"from 0 to 10"},
        20: {"from 10 to 20", "from 20 to 30"},
        25: {"from 20 to 30", "between 20 and 30"},
        2000: {"from 1990 to 2000"},
        2001: set(),
        10_000: {"from 10000"},
        10_001: {"from 10000", "above 10000"},
        10_010: {"from 10000", "above 10000", "from 10010"},
        -8010: {"to -8010"},
        -8011: {"to -8010", "below -8010"},
        -8020: {"to -8010", "below -8010", "to -8020"},
    }
    async with running_bridge(table.dsn, subscriptions_max=5000) as bridge, connected(bridge.url) as client:
        await subscribe(client, filters | {"all": {"_nnull": True}})
        for row_id, (value, uids) in enumerate(expected.items()):
            table.execute("INSERT INTO t VALUES (%s, %s)", [row_id, value])
            told = {(await client.expect(event="create", data=[{"id": row_id}]))["uid"] for _ in range(len(uids) + 1)}
            assert told == uids | {"all"}


async def test_filters_that_have_gone_leave_nothing(table: Database) -> None:
    """Of every kind that is looked up by its values."""
    held: list[int] = []
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        for number in range(ROUNDS):
            await subscribe(client, _filters(number))
            await client.send({"type": "unsubscribe"})
            await client.expect(event="unsubscribe")
            client.seen.clear()
            held.append(_held_blocks())
        assert await bridge.counts() == {"connections": 1, "subscriptions": 0}
    # What is in use for a moment, such as a catalog that is being read, is not in use in each round.
    early, late = held[WARM_UP_ROUNDS : WARM_UP_ROUNDS + WINDOW_ROUNDS], held[-WINDOW_ROUNDS:]
    assert min(late) - min(early) < GROWTH_BLOCKS_MAX, held


def _filters(number: int) -> dict[str, dict[str, Any]]:
    kinds = [
        lambda n: {"_eq": n},
        lambda n: {"_in": [n, n + 1, n + 2]},
        lambda n: {"_between": [n, n + 5]},
        lambda n: {"_gte": n},
        lambda n: {"_neq": n},
    ]
    first = number * AT_ONCE
    return {str(n): kinds[n % len(kinds)](n) for n in range(first, first + AT_ONCE)}


def _held_blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
