"""A bridge that ends lets its clients go, and they go on where they come next."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.attach import attach
from tests.support.bridge import BridgeProcess, is_ready, running_bridge
from tests.support.follower import following
from tests.support.server import Database
from tests.support.wsclient import Client, Closed, connected

LONG_S = "600"
"""A drain that no test waits for."""


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    return database


async def test_each_of_two_bridges_of_a_database_is_ready(table: Database) -> None:
    async with running_bridge(table.dsn) as one, running_bridge(table.dsn) as two:
        assert await is_ready(one.http)
        assert await is_ready(two.http)


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_at_once_and_nothing_is_lost(table: Database, number: signal.Signals) -> None:
    async with BridgeProcess(table.dsn, "--drain-s", LONG_S) as bridge, running_bridge(table.dsn) as other:
        await bridge.ready()
        async with following(bridge.url) as first, following(bridge.url) as second:
            bridge.terminate()
            assert await first.client.closed() == 1012
            assert not await is_ready(bridge.http)
            with pytest.raises(InvalidStatus) as refused:
                await Client.connect(bridge.url)
            assert refused.value.response.status_code == 503
            table.execute("INSERT INTO t VALUES (1)")
            await second.knows(1)  # it is served as ever
            bridge.signal(number)
            assert await bridge.wait() == 0
            table.execute("INSERT INTO t VALUES (2)")
            for each in (first, second):
                async with following(other.url, "t", each.cursor, each.rows) as returned:
                    await returned.knows(1, 2)
                    assert returned.inits == ["resumed"]
    assert "Traceback" not in bridge.stderr


@pytest.mark.once
async def test_clients_are_closed_one_after_the_other_while_rows_come(table: Database) -> None:
    """Each client resumes at the other bridge as soon as it is closed, and gets each row once."""
    rows = range(1, 150)
    async with BridgeProcess(table.dsn, "--drain-s", "1") as bridge, running_bridge(table.dsn) as other:
        await bridge.ready()

        async def follow(begun: asyncio.Event) -> tuple[int, list[int], list[str]]:
            seen: list[int] = []
            inits: list[str] = []
            retry_ms = -1
            cursor: str | None = None
            for url in (bridge.url, other.url):
                async with connected(url) as client:
                    with contextlib.suppress(Closed):
                        asked = {"type": "subscribe", "collection": "t", "cursor": True}
                        await client.send(asked | ({"after": cursor} if cursor else {}))
                        while not seen or seen[-1] < rows[-1]:
                            message = await client.next()
                            cursor = message["cursor"]
                            if message["event"] == "init":
                                inits.append("resumed" if message.get("resumed") else message.get("reason", "fresh"))
                                begun.set()
                            seen += [row["id"] for row in message.get("data", [])]
                    if url == bridge.url:
                        assert await client.closed() == 1012
                        retry_ms = json.loads(client.connection.close_reason or "")["retry_ms"]
            return retry_ms, seen, inits

        begun = [asyncio.Event() for _ in range(10)]
        clients = [asyncio.create_task(follow(each)) for each in begun]
        await asyncio.gather(*(each.wait() for each in begun))
        async with await table.connect() as writer:
            for number in rows:
                await writer.execute("INSERT INTO t VALUES (%s)", [number])
                if number == 20:
                    bridge.terminate()
                await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            told = await asyncio.gather(*clients)
        assert [seen for _, seen, _ in told] == [list(rows)] * len(clients)
        assert [inits for _, _, inits in told] == [["fresh", "resumed"]] * len(clients)
        assert len({retry_ms for retry_ms, _, _ in told}) > 1
        assert await bridge.wait() == 0
