"""A deployment: thousands of clients lose their bridge and come back to the next one within a second.

    python -m benchmarks.storm [--clients 5000] [--missed 200]

Each client has a cursor and resumes from it. Printed: when each has received all that it missed, how many were refused
or got fresh data instead, how many reads the database saw at once, and what writers kept of their speed meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import psycopg
import uvloop

from benchmarks.figures import headline, percentile, show
from benchmarks.stage import BridgeProcess, Subject, insert, running_bridge, server, set_up
from benchmarks.swarm import CONTEXT, OPENING_MAX, PING_MESSAGE, ROW, Client, Shared, text_frame
from cdc_bridge.conninfo import READ
from tests.support.cluster import Cluster

WITHIN_S = 1.0
"""The time in which all clients come back."""

GIVE_UP_S = 120.0
WRITERS_S = 5.0
CURSOR = re.compile(rb'"cursor":"([^"]+)"')
READS = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = %s"


@dataclass(slots=True)
class Story:
    """The story of one client since it came back. Times are those of its last connection."""

    cursor: str = ""
    rows: int = 0
    is_anew: bool = False
    connected_s: float = 0.0
    upgraded_s: float = 0.0
    resumed_s: float = 0.0
    received_all_s: float = 0.0
    refused: list[str] = field(default_factory=list)


class Resuming(Client):
    """Notes its last cursor, and counts the rows that it has received."""

    def __init__(self, request: bytes, shared: Shared, story: Story, missed: int) -> None:
        super().__init__(request, shared)
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._story = story
        self._missed = missed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._story.connected_s, self._story.upgraded_s = time.monotonic(), 0.0
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._story.upgraded_s = self._story.upgraded_s or time.monotonic()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError("turned away"))
        elif not self.all.done():
            self.all.set_exception(ConnectionResetError("lost"))

    def _take(self, text: bytes) -> None:
        if text == PING_MESSAGE:
            super()._take(text)
            return
        story = self._story
        if found := CURSOR.search(text):
            story.cursor = found[1].decode()
        if self.ready.done():
            story.rows += text.count(ROW)
        else:
            story.resumed_s = time.monotonic()
            story.is_anew = bool(self._missed) and b'"resumed":true' not in text
        super()._take(text)
        if (story.is_anew or story.rows >= self._missed) and not self.all.done():
            self.all.set_result(None)


def request(after: str = "") -> bytes:
    asked = {"type": "subscribe", "collection": Subject.ATTACHED, "cursor": True, "query": {"limit": 0}}
    return text_frame(json.dumps(asked | ({"after": after} if after else {})).encode())


@dataclass(frozen=True, slots=True)
class Play:
    """Orders to the process of the clients: they come back when it may `go`, and `pipe` gets their stories."""

    url: str
    count: int
    missed: int
    shared: Shared
    go: Event
    pipe: Connection
    gives_way: bool


async def _clients(play: Play) -> None:
    loop, opening = asyncio.get_running_loop(), asyncio.Semaphore(OPENING_MAX)
    stories = [Story() for _ in range(play.count)]

    async def connect(story: Story, rows: int) -> Resuming:
        address = urlsplit(play.url)
        _, client = await loop.create_connection(
            lambda: Resuming(request(story.cursor), play.shared, story, rows),
            str(address.hostname),
            int(address.port or 80),
        )
        await client.ready
        return client

    async def begin(story: Story) -> None:
        async with opening:
            await connect(story, 0)

    async def come_back(story: Story, number: int, began_s: float) -> None:
        await asyncio.sleep(WITHIN_S * number / play.count)
        story.rows = 0
        while not story.received_all_s and time.monotonic() - began_s < GIVE_UP_S:
            try:
                client = await connect(story, play.missed)
                await client.all
                story.received_all_s = time.monotonic() - began_s
            except (OSError, RuntimeError) as error:
                story.refused.append(str(error).partition("\n")[0])  # it goes on from its last cursor
                await asyncio.sleep(0.5)

    await asyncio.gather(*(begin(story) for story in stories))
    play.shared.ready.set()
    await asyncio.to_thread(play.go.wait)
    began_s, cpu_s = time.monotonic(), time.process_time()
    await asyncio.gather(*(come_back(story, number, began_s) for number, story in enumerate(stories)))
    for story in stories:
        story.connected_s -= began_s
        story.upgraded_s -= began_s
        story.resumed_s -= began_s
    play.pipe.send((stories, time.process_time() - cpu_s))


def _main(play: Play) -> None:
    if play.gives_way:
        os.nice(19)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_clients(play))


class Writer(threading.Thread):
    """Inserts into the table that nobody follows as fast as it can, and notes how many a second."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.inserted = 0
        self._dsn = dsn
        self._ends = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self._dsn) as connection:
            while not self._ends.is_set():
                insert(connection, Subject.LONG, 1)
                self.inserted += 1

    def per_s(self, seconds: float) -> float:
        before, began_s = self.inserted, time.monotonic()
        time.sleep(seconds)
        return (self.inserted - before) / (time.monotonic() - began_s)

    def end(self) -> None:
        self._ends.set()
        self.join()


@contextlib.contextmanager
def _reads(dsn: str) -> Iterator[list[int]]:
    """How many reads the database saw at once, looked at again and again."""
    seen: list[int] = []
    ends = threading.Event()

    def look() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not ends.wait(0.05):
                [(count,)] = connection.execute(READS, [READ])
                seen.append(count)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ends.set()
        watcher.join()


def run(cluster: Cluster, count: int, missed: int, *, gives_way: bool) -> None:
    headline(f"{count:,} clients come back within {WITHIN_S:g} s and resume, {missed} rows missed")
    dsn = set_up(cluster, "storm")
    shared = Shared(CONTEXT.Event(), *(CONTEXT.Value("q", 0, lock=False) for _ in range(3)))
    go, (ours, theirs) = CONTEXT.Event(), CONTEXT.Pipe()
    with psycopg.connect(dsn) as connection:
        with running_bridge(dsn) as bridge:
            port = urlsplit(bridge.url).port
            clients = CONTEXT.Process(
                target=_main, args=(Play(bridge.url, count, missed, shared, go, theirs, gives_way),), daemon=True
            )
            clients.start()
            assert shared.ready.wait(GIVE_UP_S), "not all clients have their initial data"
            insert(connection, Subject.ATTACHED, 0)
            _until(lambda: shared.rows.value >= count)
        for row in range(missed):
            insert(connection, Subject.ATTACHED, row)
        unlimited = ("--handshakes-max", "0") if gives_way else ()  # requests come late then
        with running_bridge(dsn, "--insecure-public", "--port", str(port), *unlimited) as bridge:
            _storm(bridge, dsn, go, ours, count)
    clients.terminate()
    clients.join()


def _storm(bridge: BridgeProcess, dsn: str, go: Event, pipe: Connection, count: int) -> None:
    writer = Writer(dsn)
    writer.start()
    before = writer.per_s(WRITERS_S)
    with _reads(dsn) as seen:
        began, began_s, cpu_s = writer.inserted, time.monotonic(), bridge.cpu_s()
        go.set()
        stories, clients_cpu_s = cast("tuple[list[Story], float]", pipe.recv())
        took_s = time.monotonic() - began_s
        meanwhile, cpu_s = (writer.inserted - began) / took_s, bridge.cpu_s() - cpu_s
    writer.end()
    served = [story.received_all_s for story in stories if story.received_all_s]
    _show_times("connected", [story.connected_s for story in stories])
    _show_times("upgraded", [story.upgraded_s for story in stories])
    _show_times("resumed", [story.resumed_s for story in stories])
    _show_times("have all that they missed", served, target="at most 20 s")
    refused = [reason for story in stories for reason in story.refused]
    show("refused, or lost on the way", f"{len(refused)}", target="0", note=", ".join(sorted(set(refused))[:3]))
    show("not served", f"{count - len(served)}", target="0")
    show("got fresh data instead", f"{sum(story.is_anew for story in stories)}", target="0")
    show("reads at once, at most", f"{max(seen, default=0)}", target="snapshot_concurrency, 4")
    note = f"{meanwhile:.0f} rows a second of {before:.0f}"
    show("a writer beside it keeps of its speed", f"{meanwhile / before:.2f}", target="at least 0.8", note=note)
    show("processor time of the bridge", f"{cpu_s:.2f} s", note=f"{cpu_s / count * 1e6:.0f} us a client")
    show("processor time of all clients", f"{clients_cpu_s:.2f} s")


def _show_times(what: str, times_s: list[float], target: str = "") -> None:
    note = f"half of them {statistics.median(times_s):.1f} s, 99 of 100 {percentile(times_s, 99):.1f} s"
    show(f"all {what} after", f"{max(times_s):.1f} s", target=target, note=note)


def _until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + GIVE_UP_S
    while not holds():
        assert time.monotonic() < deadline_s, "the first row did not reach all clients"
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.add_argument("--clients", type=int, default=5_000)
    parser.add_argument("--missed", type=int, default=200)
    parser.add_argument("--nice", action="store_true", help="clients leave the processors to bridge and writer")
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    with server(options.pg_bin) as cluster:
        run(cluster, options.clients, options.missed, gives_way=options.nice)


if __name__ == "__main__":
    main()
