"""A thousand clients that stop reading at once, or read a kB a second: what others notice, and what they are told.

    python -m benchmarks.slow_clients [--clients 1000] [--kinds stop trickle] [--policies close latest resync]

A table is written to at a steady rate, and a client that reads at once notes how late each row comes: before others
follow the same table, while they do not read, until more than `backlog_bytes_max` has been written, and when they read
again. Then each of them says what it was told, and whether its copy of the table is right.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import uvloop

from benchmarks.figures import headline, show
from benchmarks.large import Memory
from benchmarks.probe import TABLE, Probe, probing, show_delays
from benchmarks.stage import attach_durably, running_bridge, server, set_up
from benchmarks.swarm import CONTEXT, OPENING_MAX, Client, Shared, shared, text_frame
from tests.support.cluster import Cluster

PER_S = 150
ROW_BYTES = 4_000
BACKLOG_BYTES_MAX = 16 * 1024 * 1024
SERVE = ("--insecure-public", "--backlog-bytes-max", str(BACKLOG_BYTES_MAX), "--ping-interval-s", "600")
"""No ping in the time of a run: clients that do not answer one are closed whatever their `overflow`."""

RECEIVE_BYTES = 4_096
TRICKLE_BYTES = 1_000
QUIET_S = 10
SETTLE_S = 3
WITHIN_S = 120
STATE = re.compile(rb'"id":(\d+),"sent_ns":"?(\d+)')
CURSOR = re.compile(rb'"cursor":"([^"]+)"')


@dataclass(slots=True)
class Story:
    """The rows that one client knows (`copy`), and what else it was sent."""

    copy: dict[int, int] = field(default_factory=dict)
    cursor: bool = False
    inits: int = 0
    ended: str = ""


class _Slow(Client):
    def __init__(self, request: bytes, counters: Shared, story: Story) -> None:
        super().__init__(request, counters)
        self._story = story

    def _take(self, text: bytes) -> None:
        super()._take(text)
        self._story.inits += text.startswith(b'{"event":"init"') or b'"event":"init"' in text[:60]
        self._story.cursor |= CURSOR.search(text, max(len(text) - 2_000, 0)) is not None
        self._story.copy.update((int(key), int(sent_ns)) for key, sent_ns in STATE.findall(text))


class _Socket:
    """The part of a transport that `Client` needs. Nothing is read that is not asked for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def get_extra_info(self, _: str) -> Any:
        return self._connection.getpeername()

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the end is for the reader to find
            self._connection.send(data)


@dataclass(frozen=True, slots=True)
class Play:
    """Orders to the process of the clients. They subscribe when they may `begin`, and read on when they may `go`.

    `pipe` says that all have their data and have stopped, and then what each was told.
    """

    url: str
    count: int
    kind: str
    policy: str
    begin: Event
    go: Event
    newest: Connection
    pipe: Connection


async def _clients(play: Play) -> None:
    loop, opening = asyncio.get_running_loop(), asyncio.Semaphore(OPENING_MAX)
    address = urlsplit(play.url)
    go = asyncio.Event()
    counters = shared()
    asked = {"type": "subscribe", "collection": "probe", "cursor": True, "overflow": play.policy}
    request = text_frame(json.dumps(asked | {"query": {"limit": -1}}).encode())
    newest: dict[int, int] = {}
    stopped = asyncio.Semaphore(0)

    async def follow(story: Story) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        connection.setblocking(False)
        transport: Any = _Socket(connection)
        client = _Slow(request, counters, story)
        async with opening:
            await loop.sock_connect(connection, (str(address.hostname), int(address.port or 80)))
            client.connection_made(transport)
            while not client.ready.done():
                client.data_received(await loop.sock_recv(connection, 65_536))
        stopped.release()
        try:
            while play.kind == "trickle" and not go.is_set() and not client.close_code:
                client.data_received(await _received(loop, connection, TRICKLE_BYTES))
                await asyncio.sleep(1)
            await go.wait()
            while not client.close_code and not (newest and story.copy == newest):
                client.data_received(await _received(loop, connection, 65_536))
            story.ended = f"closed with {client.close_code}" if client.close_code else "reads on"
        except ConnectionError:
            story.ended = "cut off"
        finally:
            connection.close()

    await asyncio.to_thread(play.begin.wait)
    stories = [Story() for _ in range(play.count)]
    tasks = [asyncio.create_task(follow(story)) for story in stories]
    for _ in stories:
        await stopped.acquire()
    play.pipe.send("stopped")
    await asyncio.to_thread(play.go.wait)
    go.set()
    newest.update(await asyncio.to_thread(play.newest.recv))
    await asyncio.wait(tasks, timeout=WITHIN_S)
    play.pipe.send((stories, [story.copy == newest for story in stories]))


async def _received(loop: asyncio.AbstractEventLoop, connection: socket.socket, size_bytes: int) -> bytes:
    data = await loop.sock_recv(connection, size_bytes)
    if not data:
        raise ConnectionResetError
    return data


def _main(play: Play) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_clients(play))


def run(cluster: Cluster, count: int, kind: str, policy: str) -> None:
    reads = "stop reading at once" if kind == "stop" else "read a kB a second"
    headline(f'{count:,} clients with "overflow":"{policy}" {reads}; {PER_S} rows of {ROW_BYTES:,} bytes a second')
    dsn = set_up(cluster, f"slow_{kind}_{policy}")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        attach_durably(connection, "probe")
        with (
            running_bridge(dsn, *SERVE) as bridge,
            probing(dsn, bridge.url, per_s=PER_S, row_bytes=ROW_BYTES) as probe,
        ):
            ours, theirs = CONTEXT.Pipe()
            newest, their_newest = CONTEXT.Pipe()
            begin, go = CONTEXT.Event(), CONTEXT.Event()
            play = Play(bridge.url, count, kind, policy, begin, go, their_newest, theirs)
            clients = CONTEXT.Process(target=_main, args=(play,), daemon=True)
            clients.start()
            time.sleep(SETTLE_S)
            probe.take_ms()
            time.sleep(QUIET_S)
            before_ms = probe.take_ms()
            memory = Memory(bridge)
            memory.start()
            begin.set()
            assert ours.recv() == "stopped"
            begun_ms, connected_bytes = probe.take_ms(), bridge.memory_bytes() or 0
            _until_written(probe, BACKLOG_BYTES_MAX * 3 // 2)
            slow_ms, slow_bytes = probe.take_ms(), bridge.memory_bytes() or 0
            go.set()
            time.sleep(QUIET_S)
            read_ms = probe.take_ms()
            lost = probe.wait_for_all(WITHIN_S)
            newest.send(dict(connection.execute("SELECT id, sent_ns FROM probe").fetchall()))
            stories, are_right = ours.recv()
            growth_bytes = memory.end()
            clients.terminate()
            clients.join()
            show_delays("  while they subscribe", begun_ms, before_ms)
            show_delays("  while they do not read", slow_ms, before_ms, target="p99 at most 2")
            show_delays("  when they read again", read_ms, before_ms)
            show("  rows that did not come to the client that reads", f"{lost}", target="0")
            _show_memory(growth_bytes, memory.first, connected_bytes, slow_bytes)
            _show_stories(stories, are_right)


def _until_written(probe: Probe, size_bytes: int) -> None:
    upto = probe.written + size_bytes // ROW_BYTES
    while probe.written < upto:
        time.sleep(0.1)
    time.sleep(SETTLE_S)


def _show_memory(growth_bytes: int, first_bytes: int, connected_bytes: int, slow_bytes: int) -> None:
    show(
        "  the bridge's memory: idle, all connected, then, at most",
        ", ".join(f"{each / 1024**2:.0f}" for each in (first_bytes, connected_bytes, slow_bytes)),
        note=f"at most {(first_bytes + growth_bytes) / 1024**2:.0f} MiB",
        target=f"a backlog of {BACKLOG_BYTES_MAX / 1024**2:.0f} MiB once",
    )


def _show_stories(stories: list[Story], are_right: list[bool]) -> None:
    ended: Counter[str] = Counter()
    for story, is_right in zip(stories, are_right, strict=True):
        words = [story.ended or "was told nothing"]
        if story.ended != "reads on":
            words.append("has a cursor" if story.cursor else "has no cursor")
        words.append(f"{story.inits - 1} times fresh data" if story.inits > 1 else "")
        words.append("has the table" if is_right else "")
        ended[", ".join(filter(None, words))] += 1
    for words_, count in ended.most_common():
        show(f"  {words_}", f"{count}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--kinds", nargs="+", choices=("stop", "trickle"), default=("stop", "trickle"))
    parser.add_argument("--policies", nargs="+", choices=("close", "latest", "resync"))
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    with server(options.pg_bin) as cluster:
        for kind in options.kinds:
            for policy in options.policies or ("close", "latest", "resync"):
                run(cluster, options.clients, kind, policy)


if __name__ == "__main__":
    main()
