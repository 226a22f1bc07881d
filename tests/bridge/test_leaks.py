"""What a bridge keeps of those who have gone: nothing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable

import pytest

from tests.bridge.test_authentication import authenticate, serving, token
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once

AT_ONCE = 50
WARM_UP_ROUNDS = 20
"""After them, everything that is made once has been made, and caches with a bound are full."""
ROUNDS = 30
GROWTH_BLOCKS_MAX = 1000
"""Growth during `ROUNDS`, or during as many more. Whatever is kept of each subscription or change makes more in both;
another connection to the database, opened because the machine is busy, makes as much in one of them.
"""

CHANGES = 5
TOKENS = 20
"""Changes, or renewed tokens, of a round."""


async def test_subscriptions_that_come_and_go_leave_nothing(database: Database) -> None:
    """Half of them hear changes; the others leave at once, when their `init` may be on its way."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:

        async def visit(number: int) -> None:
            await _subscribe(client, number)
            if number % 2:
                await _hear_changes(client, database, number)
            await client.send({"type": "unsubscribe"})
            await client.until(event="unsubscribe")
            client.seen.clear()

        await _leaves_nothing(visit, bridge)


async def test_filters_that_come_and_go_leave_nothing(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:

        async def visit(number: int) -> None:
            for of_one in range(AT_ONCE):
                either = [{"id": {"_eq": number * AT_ONCE + of_one}}, {"a": {"_contains": f"{number} {of_one}"}}]
                wanted = {"collection": "t", "uid": f"{of_one}", "query": {"filter": {"_or": either}}}
                await client.send({"type": "subscribe"} | wanted)
            for _ in range(AT_ONCE):
                await client.expect(event="init")
            for of_one in range(CHANGES):
                database.execute("INSERT INTO t VALUES (%s)", [number * AT_ONCE + of_one])
                await client.expect(event="create")
            await client.send({"type": "unsubscribe"})
            await client.until(event="unsubscribe")
            client.seen.clear()

        await _leaves_nothing(visit, bridge)


async def test_connections_that_come_and_go_leave_nothing(database: Database) -> None:
    """Every other one with a subscription; some say goodbye, others break."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url):

        async def visit(number: int) -> None:
            clients = [await Client.connect(bridge.url) for _ in range(8)]
            for client in clients[::2]:
                await client.send({"type": "subscribe", "collection": "t", "query": {"limit": number}})
                await client.expect(event="init")
            for client in clients[:4]:
                client.connection.transport.abort()
            for client in clients:
                await client.close()
            await bridge.counts_become(connections=1)

        await _leaves_nothing(visit, bridge)


async def test_tokens_that_are_renewed_leave_nothing(database: Database) -> None:
    """Each makes another principal, whose data are read anew."""
    database.execute(
        "DO $$ BEGIN CREATE ROLE cdc_test_reader NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO cdc_test_reader"
    )
    attach(database, "t")
    async with serving(database, anon_role="") as bridge, connected(bridge.url) as client:
        await authenticate(client, token())
        await client.send({"type": "subscribe", "collection": "t", "cursor": True})
        await client.expect(event="init")

        async def visit(number: int) -> None:
            for of_one in range(TOKENS):
                await client.send({"type": "auth", "access_token": token(jti=f"{number} {of_one}")})
            for _ in range(TOKENS):
                await client.until(type="auth", status="ok")
            database.execute("INSERT INTO t VALUES (%s)", [number])
            while {"id": number} not in (await client.until(type="subscription"))["data"]:
                pass
            client.seen.clear()

        await _leaves_nothing(visit, bridge, subscriptions=1)


async def _leaves_nothing(
    visit: Callable[[int], Awaitable[None]], bridge: RunningBridge, subscriptions: int = 0
) -> None:
    """Twice the rounds leave no more behind than once."""
    held = []
    for number in range(WARM_UP_ROUNDS + 2 * ROUNDS + 1):
        if number >= WARM_UP_ROUNDS and (number - WARM_UP_ROUNDS) % ROUNDS == 0:
            held.append(_held_blocks())
        await visit(number)
    assert await bridge.counts() == {"connections": 1, "subscriptions": subscriptions}
    warm, once, twice = held
    print(f"grown by {once - warm} blocks, then by {twice - once}")
    assert min(once - warm, twice - once) < GROWTH_BLOCKS_MAX


async def _subscribe(client: Client, number: int) -> None:
    for uid in range(AT_ONCE):
        await client.send({"type": "subscribe", "collection": "t", "uid": f"{number} {uid}", "query": {"limit": 1}})


async def _hear_changes(client: Client, database: Database, number: int) -> None:
    """Each of them hears them, and nothing of those that have left is heard in between."""
    for _ in range(AT_ONCE):
        await client.expect(event="init")
    for key in range(number * CHANGES, (number + 1) * CHANGES):
        database.execute("INSERT INTO t VALUES (%s)", [key])
        for _ in range(AT_ONCE):
            await client.expect(event="create", data=[{"id": key}])


def _held_blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
