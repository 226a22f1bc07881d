"""PostgreSQL's own benchmark, TPC-B, with a bridge that is killed again and again: the balances are right anyway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException

from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.pgbench import find_pgbench
from tests.support.process import running
from tests.support.server import Database
from tests.support.wsclient import Closed, Message, connected

CONNECTIONS = 4
TRANSACTIONS_EACH = 600
KILLED_AFTER = (200, 900, 1700)
COMPLETE_WITHIN_S = 60.0

KEYS: Mapping[str, tuple[str, ...]] = {
    "pgbench_branches": ("bid", "bbalance"),
    "pgbench_tellers": ("tid", "tbalance"),
    "pgbench_accounts": ("aid", "abalance"),
}


class Ledger:
    """What a client knows, which comes back with its last cursor whenever it is cut off. History has no key."""

    def __init__(self) -> None:
        self.balances: dict[str, dict[int, int]] = {table: {} for table in KEYS}
        self.history: list[int] = []
        self.events = dict.fromkeys([*KEYS, "pgbench_history"], 0)
        self.cursors: dict[str, str] = {}
        self.resyncs = 0
        self.resumed = 0
        self.news = asyncio.Condition()

    async def follow(self, bridge: Bridge) -> None:
        while True:
            try:
                async with connected(await bridge.url()) as client:
                    for table in self.events:
                        await client.send(self._subscribe(table))
                    while True:
                        await self._take(await client.next(60))
            except (OSError, Closed, WebSocketException):
                await asyncio.sleep(0.05)  # it has been killed, and is not back yet

    def _subscribe(self, table: str) -> Message:
        fields = [*KEYS.get(table, ("tid", "bid", "aid", "delta"))]
        message = {"type": "subscribe", "collection": table, "uid": table, "cursor": True}
        after = {"after": self.cursors[table]} if table in self.cursors else {}
        return message | after | {"query": {"fields": fields, "limit": -1}}

    async def _take(self, message: Message) -> None:
        table, data = message["uid"], message.get("data")
        if message["event"] == "init":
            self.resyncs += message.get("reason") == "resync"
            self.resumed += bool(message.get("resumed"))
        elif data is not None:
            self.events[table] += len(data)
        for row in data or ():
            if table in KEYS:
                key, balance = KEYS[table]
                self.balances[table][row[key]] = row[balance]
            else:
                self.history.append(row["delta"])
        self.cursors[table] = message["cursor"]
        async with self.news:
            self.news.notify_all()

    async def hears(self, events: int) -> None:
        """Wait for so many of each table."""
        async with asyncio.timeout(COMPLETE_WITHIN_S), self.news:
            await self.news.wait_for(lambda: min(self.events.values()) >= events)


class Bridge:
    """A bridge that can be killed, and comes back elsewhere."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._process: BridgeProcess | None = None
        self._change = asyncio.Condition()

    async def start(self) -> None:
        process = BridgeProcess(self._dsn, "--limit-max", "1000000")
        await process.start()
        async with self._change:
            self._process = process
            self._change.notify_all()

    async def kill(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        await process.wait()
        assert "Traceback" not in process.stderr

    async def url(self) -> str:
        async with self._change:
            await self._change.wait_for(lambda: self._process is not None)
            assert self._process is not None
            return self._process.url


@pytest.mark.timeout(200)
async def test_balances_that_are_told_are_those_of_the_tables(database: Database) -> None:
    pgbench = find_pgbench()
    await _run(pgbench, database, "-i", "-s", "1", "-q")
    attach(database, *KEYS, "pgbench_history", mode=None)
    bridge, ledger = Bridge(database.dsn), Ledger()
    await bridge.start()
    following = asyncio.create_task(ledger.follow(bridge))
    await _all_balances(ledger)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                _run(pgbench, database, "-n", "-c", f"{CONNECTIONS}", "-t", f"{TRANSACTIONS_EACH}", "-b", "tpcb-like")
            )
            for events in KILLED_AFTER:
                await ledger.hears(events)
                await bridge.kill()
                await bridge.start()
        ((count, total),) = database.execute("SELECT count(*), sum(delta) FROM pgbench_history")
        await ledger.hears(count)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await bridge.kill()
    assert count == CONNECTIONS * TRANSACTIONS_EACH
    assert ledger.events == dict.fromkeys(ledger.events, count)  # each change once
    assert (ledger.resyncs, ledger.resumed) == (0, len(KILLED_AFTER) * len(ledger.events))
    for table, (key, balance) in KEYS.items():
        assert ledger.balances[table] == dict(database.execute(f"SELECT {key}, {balance} FROM {table}"))
        assert sum(ledger.balances[table].values()) == total
    assert sorted(ledger.history) == [
        delta for (delta,) in database.execute("SELECT delta FROM pgbench_history ORDER BY 1")
    ]


async def _all_balances(ledger: Ledger) -> None:
    async with asyncio.timeout(COMPLETE_WITHIN_S), ledger.news:
        await ledger.news.wait_for(lambda: len(ledger.cursors) == len(ledger.events))


async def _run(pgbench: Path, database: Database, *arguments: str) -> None:
    pipe = asyncio.subprocess.PIPE
    async with running(str(pgbench), *arguments, database.dsn, stderr=pipe) as process:
        said = await process.communicate()
        assert process.returncode == 0, said
