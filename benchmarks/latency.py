"""From the sending of COMMIT to a client: while nothing else happens, and at half of the highest rate.

Beside the bridge runs what it is compared with: a process that listens to the naive trigger's notifications and sends
each one on. One client's process reads both. The highest rate of each is what sixteen writers reach while a client
keeps up with them; half of it is then written by the same sixteen, evenly, and one commit in between is timed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection

import psycopg
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.figures import Figure, Goal, Histogram, in_turn, percentile
from benchmarks.floor import running_floor
from benchmarks.stage import Effort, Subject, running_bridge, set_up, wait_until_open
from benchmarks.swarm import CONTEXT, subscribe, swarm
from benchmarks.writers import run_pgbench
from tests.support.cluster import Cluster

PROBE = "when will this be there?"
INSERT = "INSERT INTO {} (account, note, amount) VALUES (%s, %s, 12.34)"
PAUSE_S = 0.015
HEAR_WITHIN_S = 30.0
WRITERS = 16
LOAD_BEGINS_S = 0.5
BINS_PER_DECADE = 20
SENDERS = {Subject.ATTACHED: "bridge", Subject.NAIVE: "bare loop"}


@dataclass(slots=True)
class Times:
    """Milliseconds, in lists of one round each."""

    idle: dict[Subject, list[list[float]]] = field(default_factory=lambda: {each: [] for each in SENDERS})
    half: dict[Subject, list[list[float]]] = field(default_factory=lambda: {each: [] for each in SENDERS})


def run(cluster: Cluster, effort: Effort) -> Iterator[Figure | Histogram]:
    dsn = set_up(cluster, "latency")
    times = Times()
    with running_bridge(dsn) as bridge, running_floor(dsn, bare=True) as floor:
        urls = {Subject.ATTACHED: bridge.url, Subject.NAIVE: floor.url}
        highest = {subject: _highest_rate(cluster, dsn, urls[subject], subject, effort.seconds) for subject in SENDERS}
        with hearing(urls) as heard, psycopg.connect(dsn) as connection:
            for number in range(effort.rounds):
                wait_until_open(connection)
                idle = _alternate(connection, heard, effort.commits)
                for subject in in_turn(list(SENDERS), number):
                    times.idle[subject].append(idle[subject])
                    how = ("-T", str(2 * effort.seconds), "-R", f"{highest[subject] / 2:.0f}")
                    load = partial(run_pgbench, cluster, dsn, subject, WRITERS, *how)
                    times.half[subject].append(_beside(connection, heard, subject, load))
    yield from _figures(times, highest)


def _figures(times: Times, highest: dict[Subject, float]) -> Iterator[Figure | Histogram]:
    for load, found in (("idle", times.idle), ("at half of its rate", times.half)):
        for percent, most in ((50, 1.2), (99, 1.4)):
            ours, bare = ([percentile(ms, percent) for ms in found[subject]] for subject in SENDERS)
            goal = Goal("<=", most) if load == "idle" else None
            yield Figure("latency", f"p{percent} {load}: bridge / bare loop", "ms", ours, bare, goal=goal)
    for subject, sender in SENDERS.items():
        half, idle = ([percentile(ms, 99) for ms in found[subject]] for found in (times.half, times.idle))
        goal = Goal("<=", 3) if subject is Subject.ATTACHED else None
        yield Figure("latency", f"p99 at half of its rate / idle: {sender}", "ms", half, idle, goal=goal)
        name = f"highest rate that a client keeps up with: {sender}"
        yield Figure("latency", name, "rows/s", [highest[subject]])
    for load, found in (("idle", times.idle), ("half of the rate", times.half)):
        for subject, sender in SENDERS.items():
            yield _histogram(f"{sender}, {load}", [ms for one_round in found[subject] for ms in one_round])


def _histogram(name: str, samples_ms: Sequence[float]) -> Histogram:
    """Return bins of equal width on a logarithmic axis."""
    bins = [math.floor(math.log10(ms) * BINS_PER_DECADE) for ms in samples_ms]
    span = range(min(bins), max(bins) + 1)
    edges = [10 ** (number / BINS_PER_DECADE) for number in (*span, max(bins) + 1)]
    return Histogram("latency", name, "ms", edges, [bins.count(number) for number in span])


def _highest_rate(cluster: Cluster, dsn: str, url: str, subject: Subject, seconds: int) -> float:
    """Return how many rows a second writers commit and a client receives."""
    with swarm(url, [subscribe(subject)]) as client:
        began_s = time.monotonic()
        commits, _ = run_pgbench(cluster, dsn, subject, WRITERS, "-T", str(seconds))
        client.wait_for(commits)
        return commits / (time.monotonic() - began_s)


def _alternate(connection: psycopg.Connection, heard: Connection, commits: int) -> dict[Subject, list[float]]:
    found: dict[Subject, list[float]] = {subject: [] for subject in SENDERS}
    for number in range(commits):
        for subject in in_turn(list(SENDERS), number):
            found[subject].append(probe_ms(connection, heard, subject))
    return found


def probe_ms(connection: psycopg.Connection, heard: Connection, subject: Subject) -> float:
    connection.execute(INSERT.format(subject), [0, PROBE], prepare=True)
    sent_ns = time.monotonic_ns()
    connection.commit()
    if not heard.poll(HEAR_WITHIN_S):
        raise RuntimeError("an event did not arrive")
    took_ms = (int(heard.recv()) - sent_ns) / 1e6
    time.sleep(PAUSE_S)
    return took_ms


def _beside(
    connection: psycopg.Connection, heard: Connection, subject: Subject, load: Callable[[], object]
) -> list[float]:
    """Probe while `load` runs in a thread of its own."""
    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    time.sleep(LOAD_BEGINS_S)
    found = []
    while thread.is_alive():
        found.append(probe_ms(connection, heard, subject))
    thread.join()
    return found


# --- the client ---


@contextlib.contextmanager
def hearing(urls: dict[Subject, str]) -> Iterator[Connection]:
    """Follow each table where its url says; yield what tells when a probe was there, by the monotonic clock in ns."""
    parent, child = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_client_main, args=(urls, child), daemon=True)
    process.start()
    try:
        assert parent.recv() == "ready"
        yield parent
    finally:
        process.terminate()
        process.join()


def _client_main(urls: dict[Subject, str], pipe: Connection) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_hear(urls, pipe))


async def _hear(urls: dict[Subject, str], pipe: Connection) -> None:
    async with contextlib.AsyncExitStack() as opened, asyncio.TaskGroup() as tasks:
        for subject, url in urls.items():
            socket = await opened.enter_async_context(connect(url, compression=None, max_size=None, proxy=None))
            await socket.send(subscribe(subject))
            await socket.recv()
            tasks.create_task(_tell_when(socket, pipe))
        pipe.send("ready")


async def _tell_when(socket: ClientConnection, pipe: Connection) -> None:
    async for text in socket:
        now_ns = time.monotonic_ns()
        if text == '{"type":"ping"}':
            await socket.send('{"type":"pong"}')
        elif PROBE in str(text):
            pipe.send(now_ns)
