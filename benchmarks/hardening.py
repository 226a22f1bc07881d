"""Measure what one bad client costs the others, and what strangers cost the bridge.

    python -m benchmarks.hardening [--rounds 5]

A good client waits for its events, alone and beside a bad client, which is a process of its own. Since all of them
share this machine's processors, the third in each round is a bad client that bothers another bridge: what it takes from
the machine is in there too, and what it takes from the bridge is the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import stage
from benchmarks.figures import headline, in_turn, show, show_ratio
from tests.support.cluster import Cluster

EVENTS = 150
STRANGERS = 2000
COMERS = 10_000
TABLE = "CREATE TABLE t (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, v text)"
UPGRADE = (
    b"GET /websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


# --- the bad ones ---


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """As a client sends it, masked with zeros."""
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else bytes([128 | 126 if size < 65536 else 128 | 127])
    more = b"" if size < 126 else size.to_bytes(2 if size < 65536 else 8)
    return bytes([128 | opcode]) + length + more + bytes(4) + payload


def text(**message: object) -> bytes:
    return frame(1, json.dumps(message).encode())


def pour(port: int, data: bytes, *, reads: bool = True) -> None:
    """Send this as fast as it goes, again and again, and come back when thrown out."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(UPGRADE)
            connection.recv(4096)
            if reads:
                threading.Thread(target=drain, args=(connection,), daemon=True).start()
            while True:
                connection.sendall(data)


def drain(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 20):
            pass


def hang_about(port: int) -> None:
    """Connections that never say anything, as many as are let be, and always new ones."""
    held: list[socket.socket] = []
    while True:
        held.append(socket.create_connection(("127.0.0.1", port)))
        if len(held) > STRANGERS:
            held.pop(0).close()


SUBSCRIBE = {"type": "subscribe", "collection": "t", "uid": "s", "event": "create"}
ATTACKS: dict[str, Callable[[int], None]] = {
    "pings": lambda port: pour(port, frame(9) * 1000),
    "pings, none of whose answers it reads": lambda port: pour(port, frame(9, bytes(125)) * 100, reads=False),
    "messages": lambda port: pour(port, text(type="ping") * 500),
    "messages of 1 MB": lambda port: pour(port, text(type="x", pad="x" * 1_000_000)),
    "subscriptions that come and go": lambda port: pour(port, (text(**SUBSCRIBE) + text(type="unsubscribe")) * 50),
    "connections that say nothing": hang_about,
}


@contextlib.contextmanager
def attacking(name: str | None, url: str) -> Iterator[None]:
    if name is None:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.hardening", "--attack", name, "--url", url]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(1)  # it has begun
    try:
        yield
    finally:
        process.kill()
        process.wait()


# --- the good one ---


async def latency_s(url: str, dsn: str) -> float:
    """From the commit to the event: the median."""
    took: list[float] = []
    async with connect(url, ping_interval=None) as client:
        await client.send(json.dumps({"type": "subscribe", "collection": "t", "event": "create"}))
        await event(client, "init")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:
            for _ in range(EVENTS):
                began_s = time.perf_counter()
                await writer.execute("INSERT INTO t (v) VALUES ('x')")
                await event(client, "create")
                took.append(time.perf_counter() - began_s)
    return statistics.median(took)


async def event(client: ClientConnection, name: str) -> None:
    while (message := json.loads(await client.recv())).get("event") != name:
        assert message["type"] in ("ping", "subscription"), message
        if message["type"] == "ping":
            await client.send('{"type":"pong"}')


def beside(dsn: str, rounds: int) -> None:
    headline(f"How long an event takes beside one bad client, which sends all the time ({rounds} rounds)")
    with stage.running_bridge(dsn) as ours, stage.running_bridge(dsn) as another:
        for name in ATTACKS:
            cases: dict[str, tuple[str | None, str]] = {
                "alone": (None, ""),
                "same": (name, ours.url),
                "other": (name, another.url),
            }
            found: dict[str, list[float]] = {case: [] for case in cases}
            for number in range(rounds):
                for case in in_turn(list(cases), number):
                    with attacking(*cases[case]):
                        found[case].append(asyncio.run(latency_s(ours.url, dsn)))
            alone_ms = statistics.median(found["alone"]) * 1000
            show_ratio(f"{name}: beside / alone", found["same"], found["alone"], note=f"alone {alone_ms:.1f} ms")
            show_ratio(f"{name}: beside / where another bridge has it", found["same"], found["other"])


# --- strangers ---


def memory(dsn: str) -> None:
    headline(f"What {STRANGERS:,} connections cost the bridge")
    for title, said in {"that say nothing": b"", "that are upgraded": UPGRADE}.items():
        with stage.running_bridge(dsn, stage.PUBLIC, "--handshakes-max", "0") as bridge:
            asyncio.run(latency_s(bridge.url, dsn))
            before = bridge.memory_bytes() or 0
            with contextlib.ExitStack() as held:
                for _ in range(STRANGERS):
                    stranger = held.enter_context(socket.create_connection(("127.0.0.1", port_of(bridge.url))))
                    stranger.sendall(said)
                    if said:
                        stranger.recv(4096)
                each = ((bridge.memory_bytes() or 0) - before) / STRANGERS
                began_s = time.perf_counter()
                asyncio.run(greet(bridge.url))
                greeted_ms = (time.perf_counter() - began_s) * 1000
            show(f"each of those {title}", f"{each / 1024:.1f} kB", note=f"one more is let in in {greeted_ms:.0f} ms")


async def greet(url: str) -> None:
    async with connect(url, ping_interval=None) as client:
        await client.send('{"type":"ping"}')
        await client.recv()


def bounded(dsn: str) -> None:
    headline(f"{COMERS:,} connections one after the other, none of which says anything or is closed by us")
    with stage.running_bridge(dsn) as bridge:
        asyncio.run(latency_s(bridge.url, dsn))
        before = bridge.memory_bytes() or 0
        held: list[socket.socket] = []
        for _ in range(COMERS):
            held.append(socket.create_connection(("127.0.0.1", port_of(bridge.url))))
            if len(held) > STRANGERS:
                held.pop(0).close()
        asyncio.run(greet(bridge.url))
        grown = (bridge.memory_bytes() or 0) - before
        show("memory that the bridge has taken", f"{grown / 1024 / 1024:.1f} MB", note="handshakes_max is 1,000")
        for one in held:
            one.close()


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def run(cluster: Cluster, rounds: int) -> None:
    dsn = cluster.dsn("hardening")
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE hardening")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        stage.attach_durably(connection, "t")
    memory(dsn)
    bounded(dsn)
    beside(dsn, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hardening", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    parser.add_argument("--attack", choices=ATTACKS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.attack:
        ATTACKS[options.attack](port_of(options.url))
    with stage.server(options.pg_bin) as cluster:
        run(cluster, options.rounds)


if __name__ == "__main__":
    main()
