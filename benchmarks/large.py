"""One transaction of very many rows: what the bridge needs for it, and what others notice of it.

    python -m benchmarks.large [--rows 1000000] [--followers 10]

Clients follow the table that is written to. Another table is written to all the while, and somebody follows that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import uvloop

from benchmarks.figures import headline, show
from benchmarks.probe import TABLE, Probe, probing, show_delays
from benchmarks.stage import BridgeProcess, Subject, attach_durably, running_bridge, server, set_up
from benchmarks.subscriber import CONTEXT, READY_WITHIN_S
from benchmarks.swarm import Client, Shared, shared, subscribe, text_frame
from tests.support.cluster import Cluster

INSERT = """
INSERT INTO {} (account, note, amount, details)
SELECT n % 10000, 'what customer number ' || n || ' had to say about it', n / 100.0,
    '{{"colour": "blue", "parts": [1, 2, 3]}}'
FROM generate_series(1, {}) AS n
"""
STATEMENTS = 10
PROBED_PER_S = 100
QUIET_S = 10
SETTLE_S = 3
WITHIN_S = 300
GROWTH_BYTES_MAX = 64 * 1024 * 1024


class Memory(threading.Thread):
    """Looks at the memory of the bridge again and again: at first, and at most."""

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
    """What their process tells: of each one the rows that it received, and whether it was told of others."""

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


def run(cluster: Cluster, rows: int, count: int = 10) -> None:
    headline(f"One transaction of {rows:,} rows in {STATEMENTS} statements, while {count} clients follow the table")
    dsn = set_up(cluster, "large")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        attach_durably(connection, "probe")
        with running_bridge(dsn) as bridge:
            followers = Followers(rows=[], told=[])
            for counters in (followers.rows, followers.told):
                counters += [CONTEXT.Value("q", 0, lock=False) for _ in range(count)]
            process = CONTEXT.Process(target=_main, args=(bridge.url, followers, count), daemon=True)
            process.start()
            assert followers.shared.ready.wait(READY_WITHIN_S), "not all clients have their initial data"
            with probing(dsn, bridge.url, per_s=PROBED_PER_S) as probe:
                measure(connection, bridge, followers, probe, rows)
            process.terminate()
            process.join()


def measure(
    connection: psycopg.Connection, bridge: BridgeProcess, followers: Followers, probe: Probe, rows: int
) -> None:
    time.sleep(SETTLE_S)
    probe.take_ms()
    time.sleep(QUIET_S)
    before_ms = probe.take_ms()
    memory, cpu_s = Memory(bridge), bridge.cpu_s()
    memory.start()
    began_s = time.monotonic()
    with connection.transaction():
        for _ in range(STATEMENTS):
            connection.execute(INSERT.format(Subject.ATTACHED, rows // STATEMENTS))
    committed_s = time.monotonic()
    written_ms = probe.take_ms()
    while not all(
        received.value >= rows or told.value for received, told in zip(followers.rows, followers.told, strict=True)
    ):
        time.sleep(0.01)
        if time.monotonic() > committed_s + WITHIN_S:
            break
    told_s = time.monotonic()
    told_ms = probe.take_ms()
    cpu_s = bridge.cpu_s() - cpu_s
    time.sleep(QUIET_S)
    after_ms = probe.take_ms()
    growth_bytes = memory.end()
    whole = sum(received.value == rows for received in followers.rows)
    told = sum(bool(each.value) for each in followers.told)
    per_s = f"{rows / (told_s - committed_s):,.0f} rows a second to each, {cpu_s:.1f} s of the bridge's processor time"
    show("the statements", f"{committed_s - began_s:.1f} s")
    show("from COMMIT until the last client had all of it", f"{told_s - committed_s:.1f} s", note=per_s)
    show("clients that received every row, once", f"{whole} of {len(followers.rows)}")
    show("others, which were told so", f"{told} of {len(followers.rows) - whole}", target="all")
    show(
        "the bridge's memory grew by at most",
        f"{growth_bytes / 1024**2:,.0f} MiB",
        target="at most 64 MiB",
        note=f"from {memory.first / 1024**2:,.0f} MiB",
    )
    show_delays("another table, up to COMMIT", written_ms, before_ms)
    show_delays("another table, from COMMIT on", told_ms, before_ms, target="p99 at most 3")
    show_delays("another table, afterwards", after_ms, before_ms)
    show("rows of the other table that did not come", f"{probe.wait_for_all(SETTLE_S)}", target="0")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--followers", type=int, default=10)
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    with server(options.pg_bin) as cluster:
        run(cluster, options.rows, options.followers)


if __name__ == "__main__":
    main()
