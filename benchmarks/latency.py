"""From the sending of COMMIT to a client, while nothing else happens.

Beside the bridge runs what it is compared with, in the same few milliseconds: a process that listens to the naive
trigger's notifications and sends each one on. One client's process reads both.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.figures import headline, in_turn, percentile, show
from benchmarks.stage import Subject, running_bridge, set_up
from benchmarks.subscriber import CONTEXT, subscribe
from tests.support.cluster import Cluster

INSERT = """
INSERT INTO {} (account, note, amount, details)
VALUES (%s, 'what the customer had to say about it', 12.34, '{{"colour": "blue", "parts": [1, 2, 3]}}')
"""
PAUSE_S = 0.015
HEAR_WITHIN_S = 30.0
GATE_WITHIN_S = 60.0
IS_OPEN = "SELECT pg_sequence_last_value('cdc.gate'::regclass) & 1 = 1"


def run(cluster: Cluster, commits: int) -> None:
    headline(f"From the sending of COMMIT to a client, idle, {commits:,} commits each, alternating")
    dsn = set_up(cluster, "latency")
    with running_bridge(dsn) as bridge, bare_loop(dsn) as bare_url, client(bridge.url, bare_url) as heard:
        ours_ms, bare_ms = measure(dsn, commits, heard)
    for percent, target in ((50, 1.5), (99, 2)):
        ours, bare = percentile(ours_ms, percent), percentile(bare_ms, percent)
        note = f"{ours:.2f} and {bare:.2f} ms"
        show(f"p{percent}: bridge to bare loop", f"{ours / bare:.2f}", target=f"at most {target}", note=note)


def measure(dsn: str, commits: int, heard: Connection) -> tuple[list[float], list[float]]:
    found: dict[Subject, list[float]] = {Subject.ATTACHED: [], Subject.NAIVE: []}
    with psycopg.connect(dsn) as connection:
        wait_until_open(connection)
        for number in range(commits):
            for subject in in_turn(list(found), number):
                connection.execute(INSERT.format(subject), [number], prepare=True)
                sent_ns = time.monotonic_ns()
                connection.commit()
                found[subject].append((next_heard_ns(heard) - sent_ns) / 1e6)
                time.sleep(PAUSE_S)
    return found[Subject.ATTACHED], found[Subject.NAIVE]


def wait_until_open(connection: psycopg.Connection) -> None:
    """Until the bridge has found that it is quiet, and lets writers notify."""
    deadline = time.monotonic() + GATE_WITHIN_S
    while connection.execute(IS_OPEN).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise RuntimeError("the bridge does not open the gate")
        time.sleep(0.1)
    connection.commit()
    time.sleep(2)  # it takes what comes inline once all older transactions have ended


def next_heard_ns(heard: Connection) -> int:
    if not heard.poll(HEAR_WITHIN_S):
        raise RuntimeError("an event did not arrive")
    at_ns = heard.recv()
    assert isinstance(at_ns, int)
    return at_ns


# --- the bare loop ---


@contextlib.contextmanager
def bare_loop(dsn: str) -> Iterator[str]:
    """Its address."""
    parent, child = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_bare_main, args=(dsn, child), daemon=True)
    process.start()
    try:
        yield str(parent.recv())
    finally:
        process.terminate()
        process.join()


def _bare_main(dsn: str, pipe: Connection) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_bare(dsn, pipe))


async def _bare(dsn: str, pipe: Connection) -> None:
    sockets: set[ServerConnection] = set()

    async def keep(socket: ServerConnection) -> None:
        sockets.add(socket)
        await socket.wait_closed()

    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
        serve(keep, "127.0.0.1", 0, compression=None) as listening,
    ):
        await connection.execute("LISTEN naive")
        pipe.send(f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
        async for note in connection.notifies():
            for socket in sockets:
                await socket.send(note.payload)


# --- the client ---


@contextlib.contextmanager
def client(bridge_url: str, bare_url: str) -> Iterator[Connection]:
    """Where it says when it was told of something, in nanoseconds of the monotonic clock."""
    parent, child = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_client_main, args=(bridge_url, bare_url, child), daemon=True)
    process.start()
    try:
        assert parent.recv() == "ready"
        yield parent
    finally:
        process.terminate()
        process.join()


def _client_main(bridge_url: str, bare_url: str, pipe: Connection) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_hear(bridge_url, bare_url, pipe))


async def _hear(bridge_url: str, bare_url: str, pipe: Connection) -> None:
    async with (
        connect(bridge_url, compression=None, proxy=None) as bridge,
        connect(bare_url, compression=None, proxy=None) as bare,
        asyncio.TaskGroup() as tasks,
    ):
        await bridge.send(subscribe(Subject.ATTACHED))
        await bridge.recv()
        pipe.send("ready")
        for socket in (bridge, bare):
            tasks.create_task(_tell_when(socket, pipe))


async def _tell_when(socket: ClientConnection, pipe: Connection) -> None:
    async for text in socket:
        now_ns = time.monotonic_ns()
        if text == '{"type":"ping"}':
            await socket.send('{"type":"pong"}')
        else:
            pipe.send(now_ns)
