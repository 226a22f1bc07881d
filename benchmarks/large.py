"""One transaction of very many rows: what the bridge needs for it, and what others notice of it.

Clients follow the table that is written to. Another table is written to all the while, and somebody follows that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from urllib.parse import urlsplit

import psycopg
import uvloop

from benchmarks.figures import Figure, Goal, percentile
from benchmarks.probe import TABLE, Probe, probing
from benchmarks.stage import BridgeProcess, Effort, Subject, attach_durably, running_bridge, set_up
from benchmarks.swarm import CONTEXT, READY_WITHIN_S, Client, Shared, shared, subscribe, text_frame
from benchmarks.writers import BULK_INSERT
from tests.support.cluster import Cluster

STATEMENTS = 10
FOLLOWERS = 10
PROBED_PER_S = 100
WITHIN_S = 300


class Memory(threading.Thread):
    """Samples the memory of the bridge: at the beginning, and at most."""

    def __init__(self, bridge: BridgeProcess) -> None:
        super().__init__(daemon=True)
        self.first = self.most = bridge.memory_bytes() or 0
        self._bridge = bridge
        self._ends = threading.Event()

    def run(self) -> None:
        while not self._ends.wait(0.02):
            self.most = max(self.most, self._bridge.memory_bytes() or 0)

    def end(self) -> int:
        """Return by how much it grew at most."""
        self._ends.set()
        self.join()
        return self.most - self.first


@dataclass(frozen=True, slots=True)
class Followers:
    """The report of their process: the rows that each one received, and whether it received others."""

    shared: Shared = field(default_factory=shared)
    rows: list[Synchronized[int]] = field(default_factory=list)
    told: list[Synchronized[int]] = field(default_factory=list)


class _Follower(Client):
    def __init__(self, request: bytes, followers: Followers, number: int) -> None:
        super().__init__(request, followers.shared)
        self._followers = followers
        self._number = number

    def _take(self, text: bytes) -> None:
        before = self._shared.rows.value
        super()._take(text)
        self._followers.rows[self._number].value += self._shared.rows.value - before
        self._followers.told[self._number].value += b'"event":"init"' in text[:50] and b'"reason":"resync"' in text

    def connection_lost(self, exc: Exception | None) -> None:
        self._followers.told[self._number].value += 1


def _main(url: str, followers: Followers, count: int) -> None:
    async def follow() -> None:
        address, request = urlsplit(url), text_frame(subscribe(Subject.ATTACHED).encode())
        for number in range(count):
            _, client = await asyncio.get_running_loop().create_connection(
                lambda number=number: _Follower(request, followers, number),  # type: ignore[misc]
                str(address.hostname),
                int(address.port or 80),
            )
            await client.ready
        followers.shared.ready.set()
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(follow())


def run(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    dsn = set_up(cluster, "large")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        attach_durably(connection, "probe")
        with running_bridge(dsn) as bridge:
            followers = Followers()
            for counters in (followers.rows, followers.told):
                counters += [CONTEXT.Value("q", 0, lock=False) for _ in range(FOLLOWERS)]
            process = CONTEXT.Process(target=_main, args=(bridge.url, followers, FOLLOWERS), daemon=True)
            process.start()
            try:
                assert followers.shared.ready.wait(READY_WITHIN_S), "not all clients have their initial data"
                with probing(dsn, bridge.url, per_s=PROBED_PER_S) as probe:
                    yield from _measure(connection, bridge, followers, probe, effort)
            finally:
                process.terminate()
                process.join()


def _measure(
    connection: psycopg.Connection, bridge: BridgeProcess, followers: Followers, probe: Probe, effort: Effort
) -> Iterator[Figure]:
    rows, quiet_s = effort.large_rows, 2 * effort.idle_s
    time.sleep(quiet_s)
    probe.take_ms()
    time.sleep(quiet_s)
    before_ms = probe.take_ms()
    memory, cpu_s = Memory(bridge), bridge.cpu_s()
    memory.start()
    with connection.transaction():
        for _ in range(STATEMENTS):
            connection.execute(BULK_INSERT.format(Subject.ATTACHED, rows // STATEMENTS))
    committed_s, written_ms = time.monotonic(), probe.take_ms()
    while not all(got.value >= rows or told.value for got, told in zip(followers.rows, followers.told, strict=True)):
        time.sleep(0.01)
        if time.monotonic() > committed_s + WITHIN_S:
            break
    took_s, sent_ms, cpu_s = time.monotonic() - committed_s, probe.take_ms(), bridge.cpu_s() - cpu_s
    grown_mib = memory.end() / 1024**2
    counts = [(received.value, told.value) for received, told in zip(followers.rows, followers.told, strict=True)]
    whole, untold = sum(got == rows for got, _ in counts), sum(got != rows and not told for got, told in counts)
    yield Figure("large", f"{rows:,} rows are with {FOLLOWERS} clients, after COMMIT", "s", [took_s])
    yield Figure("large", "clients that have every row once", "", [whole])
    yield Figure("large", "clients that miss rows and were not told so", "", [untold], goal=Goal("<=", 0))
    yield Figure("large", "the bridge's CPU, a row to all of them", "us", [cpu_s / rows * 1e6])
    yield Figure("large", "memory that the bridge takes meanwhile", "MiB", [grown_mib], goal=Goal("<=", 64))
    for when, delays_ms, goal in (("up to", written_ms, None), ("after", sent_ms, Goal("<=", 3))):
        if delays_ms:
            yield _late(f"p99 of another table {when} COMMIT / before", delays_ms, before_ms, goal)
    lost = probe.wait_for_all(WITHIN_S)
    yield Figure("large", "rows of the other table that did not come", "", [lost], goal=Goal("<=", 0))


def _late(name: str, delays_ms: Sequence[float], before_ms: Sequence[float], goal: Goal | None) -> Figure:
    return Figure("large", name, "ms", [percentile(delays_ms, 99)], [percentile(before_ms, 99)], goal=goal)
