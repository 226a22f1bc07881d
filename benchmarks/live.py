"""What live mode costs a writer, and how soon a client hears: `make bench`, or `python -m benchmarks.live`.

Prints ratios from runs that alternate on one server; absolute figures are this machine's. Nothing is asserted.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable

import psycopg
from websockets.asyncio.client import connect

from cdc_bridge.admin import attach
from cdc_bridge.admin.mode import Mode
from cdc_bridge.bridge import Bridge
from cdc_bridge.settings import Settings
from tests.support.cluster import QUICK, Cluster

ROUNDS = 7
ONE_BY_ONE = (
    "DO $$ BEGIN FOR i IN 1..5000 LOOP INSERT INTO {} (id, v) VALUES (i, 'hello world'); END LOOP; END $$",
    "DO $$ BEGIN FOR i IN 1..5000 LOOP UPDATE {} SET v = 'other' WHERE id = i; END LOOP; END $$",
    "DO $$ BEGIN FOR i IN 1..5000 LOOP DELETE FROM {} WHERE id = i; END LOOP; END $$",
)
IN_BULK = (
    "INSERT INTO {} (id, v) SELECT n, 'hello world' FROM generate_series(1, 100000) AS n",
    "UPDATE {} SET v = 'other'",
    "DELETE FROM {}",
)


def main() -> None:
    with Cluster(settings=QUICK) as cluster, psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        for table in ("untouched", "attached"):
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text, at timestamptz DEFAULT now())")
        attach.apply(connection, attach.plan(connection, attach.Request(("attached",), mode=Mode.LIVE)))
        print("Live mode: time attached / untouched, no bridge running")
        compare(connection, "5,000 statements of one row", ONE_BY_ONE, per=5000)
        compare(connection, "one statement of 100,000 rows", IN_BULK, per=1)
        asyncio.run(listen(cluster.dsn()))


def compare(connection: psycopg.Connection, title: str, statements: tuple[str, ...], *, per: int) -> None:
    """Run the statements on both tables in turn, and print the ratio of the medians of each."""
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for table in ("untouched", "attached"):
            for statement in statements:
                seconds = timed(lambda s=statement, t=table: connection.execute(s.format(t)))  # type: ignore[misc]
                taken.setdefault((statement, table), []).append(seconds)
    for statement, kind in zip(statements, ("INSERT", "UPDATE", "DELETE"), strict=True):
        plain, ours = (statistics.median(taken[statement, table]) for table in ("untouched", "attached"))
        print(f"  {title}, {kind}: {ours / plain:.1f} ({(ours - plain) / per * 1e6:+,.0f} us a statement)")


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


async def listen(dsn: str) -> None:
    """From the INSERT to the client, one at a time and as fast as four writers can."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    settings = Settings.model_validate({"dsn": dsn, "port": 0, "insecure_public": True, "drain_s": 0})
    bridge = Bridge(settings, on_listening=listening.set_result)
    running = asyncio.create_task(bridge.run())
    async with (
        connect(await listening, max_size=None, compression=None, proxy=None) as socket,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer,
    ):
        await socket.send(json.dumps({"type": "subscribe", "collection": "attached", "query": {"limit": 0}}))
        await socket.recv()

        async def hear(count: int) -> None:
            while count > 0:
                message = json.loads(await socket.recv())
                if message.get("event") == "create":
                    count -= len(message["data"])

        latencies_ms = []
        for number in range(500):
            began = time.perf_counter()
            await writer.execute("INSERT INTO attached (id, v) VALUES (%s, 'x')", [number])
            await hear(1)
            latencies_ms.append((time.perf_counter() - began) * 1000)
        p50, p99 = statistics.median(latencies_ms), sorted(latencies_ms)[-5]
        print(f"INSERT to client and back in this process: p50 {p50:.2f} ms, p99 {p99:.2f} ms")

        async def write(first: int) -> None:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                for number in range(first, first + 5000):
                    await connection.execute("INSERT INTO attached (id, v) VALUES (%s, 'x')", [number])

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for first in range(1_000_000, 5_000_000, 1_000_000):
                tasks.create_task(write(first))
            await hear(20_000)
        print(f"4 writers, commits heard, all in one process: {20_000 / (time.perf_counter() - began):,.0f} a second")
    bridge.stop()
    await running


if __name__ == "__main__":
    main()
