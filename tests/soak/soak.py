"""The load, what is measured, and what is judged.

Rule: one bridge process runs from the beginning to the end. Beside it writers write small rows, large rows and large
transactions; clients come, go and stop reading; tables are altered, rights change, and the bridge's sessions are ended.
Some followers stay until the end. What they know then is what the tables hold, and of tables that nobody altered they
never got fresh data.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.follower import Subscriber
from tests.support.server import Database
from tests.support.wsclient import Client

TABLES = """
CREATE TABLE items (id int PRIMARY KEY, room int, text text);
CREATE TABLE documents (id int PRIMARY KEY, body text);
CREATE TABLE altered (id int PRIMARY KEY, text text);
"""
FOLLOWED = ("items", "items", "items", "documents", "altered")
"""The collections of those who stay."""

WRITES = (
    "INSERT INTO items VALUES (%(id)s, %(room)s, 'new') ON CONFLICT (id) DO UPDATE SET text = 'again'",
    "UPDATE items SET room = %(room)s WHERE id = %(id)s",
    "DELETE FROM items WHERE id = %(id)s",
    "INSERT INTO altered (id) VALUES (%(id)s) ON CONFLICT (id) DO UPDATE SET text = 'again'",
)
MANY = "INSERT INTO items SELECT n, 1, 'many' FROM generate_series(%s::int, %s) n"
MANY_ROWS = 20_000

IDS = 500
LARGE_BYTES = 5 * 1024 * 1024
WRITERS, VISITORS, STALLED = 2, 4, 2
WRITES_APART_S = 0.01
RARE_EVERY_S = 7.0
"""How often something rare happens: a large row, a large transaction, DDL, rights, an ended session."""

SAMPLES_APART_S = 2.0
GROWTH_MAX = 0.05
CATCHES_UP_WITHIN_S = 120.0
ENDS_OF_SESSIONS = "cdc_bridge%"


@dataclass(slots=True)
class Samples:
    """What the bridge's process holds: memory in bytes, and open files."""

    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def take(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        [resident] = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        self.memory.append(int(resident) * 1024)
        self.files.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))

    @staticmethod
    def growth(values: list[int]) -> float:
        """How much more the last third has than the one in the middle; the first one is warm-up."""
        third = len(values) // 3
        before, after = statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
        return after / before - 1


@dataclass(slots=True)
class Report:
    """`problems` says in words what was lost, and where fresh data were needed without a reason."""

    samples: Samples = field(default_factory=Samples)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        yield f"done: {dict(self.counts)}"
        for name, values in (("memory", self.samples.memory), ("open files", self.samples.files)):
            if len(values) >= 3:
                tenth = max(1, len(values) // 10)
                course = " ".join(f"{max(values[at : at + tenth]):,}" for at in range(0, len(values), tenth))
                yield f"{name}: {Samples.growth(values):+.1%} after warm-up; the most in each tenth: {course}"
        yield from self.problems or ["lost 0, fresh data without a reason 0"]


class Soak:
    """One run, of so many seconds."""

    def __init__(self, database: Database, seconds: float, seed: int = 1) -> None:
        self._database = database
        self._ends_s = time.monotonic() + seconds
        self._chance = random.Random(seed)
        self._report = Report()

    async def run(self) -> Report:
        self._database.execute(TABLES)
        for table in dict.fromkeys(FOLLOWED):
            attach(self._database, table)
        self._database.execute("DROP ROLE IF EXISTS soak; CREATE ROLE soak")
        async with BridgeProcess(self._database.dsn) as bridge:
            await bridge.ready()
            followers = [await self._follow(bridge.url, collection) for collection in FOLLOWED]
            reading = [asyncio.create_task(self._read(follower)) for follower in followers]
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sample(bridge.pid))
                tasks.create_task(self._happen())
                for work in (*[self._write] * WRITERS, *[self._visit] * VISITORS, *[self._stall] * STALLED):
                    tasks.create_task(self._again(work, bridge.url))
            await self._judge(followers)
            for task in reading:
                task.cancel()
            for follower in followers:
                await follower.client.close()
        self._database.execute("DROP OWNED BY soak; DROP ROLE soak")
        return self._report

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._ends_s

    async def _again(self, work: Callable[[str], Awaitable[None]], url: str) -> None:
        while self._goes_on:
            await work(url)

    # --- those who stay ---

    async def _follow(self, url: str, collection: str) -> Subscriber:
        follower = Subscriber(await Client.connect(url), collection)
        await follower.subscribe()
        return follower

    async def _read(self, follower: Subscriber) -> None:
        while True:
            await follower.step(timeout_s=3600)
            follower.client.seen.clear()

    async def _judge(self, followers: list[Subscriber]) -> None:
        """Wait until they know what the tables hold, and note what is wrong."""
        deadline_s = time.monotonic() + CATCHES_UP_WITHIN_S
        for follower in followers:
            expected = self._database.execute(f"SELECT json_object_agg(id, t) FROM {follower.collection} t")[0][0] or {}
            while {str(key): row for key, row in follower.rows.items()} != expected:
                if time.monotonic() > deadline_s:
                    known = {str(key): row for key, row in follower.rows.items()}
                    wrong = [key for key in known.keys() | expected.keys() if known.get(key) != expected.get(key)]
                    self._report.problems.append(f"{follower.collection}: {len(wrong)} rows are not known as they are")
                    break
                await asyncio.sleep(0.05)
            if follower.collection != "altered" and follower.inits != ["fresh"]:
                self._report.problems.append(f"{follower.collection}: {Counter(follower.inits)}")

    # --- what they do ---

    async def _write(self, _: str) -> None:
        async with await self._database.connect() as connection:
            while self._goes_on:
                number, room = self._chance.randrange(IDS), self._chance.randrange(10)
                write = self._chance.choice(WRITES)
                with contextlib.suppress(psycopg.errors.DeadlockDetected):
                    await connection.execute(write, {"id": number, "room": room})
                self._report.counts["writes"] += 1
                await asyncio.sleep(WRITES_APART_S)

    async def _visit(self, url: str) -> None:
        """Come, subscribe to something, listen for a moment, and leave, politely or not."""
        filters = [{}, {"room": {"_eq": self._chance.randrange(10)}}, {"text": {"_contains": "aga"}}]
        query = {"filter": self._chance.choice(filters), "limit": self._chance.choice([0, 10, -1])}
        with contextlib.suppress(OSError, WebSocketException, TimeoutError):
            async with connect(url, proxy=None, max_size=None, ping_interval=None) as socket:
                await socket.send(json.dumps({"type": "subscribe", "collection": "items", "query": query}))
                async with asyncio.timeout(self._chance.uniform(0.05, 2)):
                    async for _ in socket:
                        pass
                socket.transport.abort()
        self._report.counts["visits"] += 1

    async def _stall(self, url: str) -> None:
        """Subscribe to everything, and stop reading."""
        with contextlib.suppress(OSError, WebSocketException, TimeoutError):
            async with connect(url, proxy=None, max_size=None, ping_interval=None, max_queue=1) as socket:
                for collection in ("items", "documents"):
                    await socket.send(json.dumps({"type": "subscribe", "collection": collection, "uid": collection}))
                await asyncio.wait_for(socket.wait_closed(), self._chance.uniform(1, 20))
        self._report.counts["stalls"] += 1

    async def _happen(self) -> None:
        """Something rare, again and again, each in its turn."""
        rare = [self._write_large_row, self._write_many, self._alter, self._change_rights, self._end_session]
        number = 0
        while self._goes_on:
            await asyncio.sleep(min(RARE_EVERY_S, max(0.0, self._ends_s - time.monotonic()) / 10 + 0.1))
            async with await self._database.connect() as connection:
                await rare[number % len(rare)](connection)
            number += 1

    async def _write_large_row(self, connection: psycopg.AsyncConnection) -> None:
        body = random.randbytes(LARGE_BYTES // 2).hex()
        await connection.execute(
            "INSERT INTO documents VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body", [body]
        )
        self._report.counts["large rows"] += 1

    async def _write_many(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute(MANY, [IDS, IDS + MANY_ROWS])
        await connection.execute("DELETE FROM items WHERE id >= %s", [IDS])
        self._report.counts["large transactions"] += 1

    async def _alter(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute("ALTER TABLE altered ADD COLUMN IF NOT EXISTS more int DEFAULT 1")
        await asyncio.sleep(0.5)
        await connection.execute("ALTER TABLE altered DROP COLUMN more")
        self._report.counts["tables altered"] += 1

    async def _change_rights(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute("GRANT SELECT ON items TO soak")
        await asyncio.sleep(0.5)
        await connection.execute("REVOKE SELECT ON items FROM soak")
        self._report.counts["changes of rights"] += 1

    async def _end_session(self, connection: psycopg.AsyncConnection) -> None:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
            " AND datname = current_database() ORDER BY random() LIMIT 1",
            [ENDS_OF_SESSIONS],
        )
        self._report.counts["sessions ended"] += 1

    # --- what is measured ---

    async def _sample(self, pid: int) -> None:
        while self._goes_on:
            self._report.samples.take(pid)
            await asyncio.sleep(SAMPLES_APART_S)
