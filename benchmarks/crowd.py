"""How fast very many subscriptions are made.

    python -m benchmarks.crowd [--sockets 1000] [--each 100]

A bridge in a process of its own, and clients in this one, on the same processors. Each socket sends all that it
subscribes to at once; a subscription is made when its `init` has come.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import psycopg
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import stage
from benchmarks.figures import headline, show
from tests.support.cluster import Cluster

ROOMS = """
CREATE TABLE rooms (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, room int, text text);
INSERT INTO rooms (room, text) SELECT n, 'what was said in room ' || n FROM generate_series(1, 100000) n;
CREATE INDEX ON rooms (room);
"""


async def subscribe_all(connection: ClientConnection, first: int, count: int, more: dict[str, Any]) -> None:
    for room in range(first, first + count):
        query = {"fields": ["id", "text"], "filter": {"room": {"_eq": room}}}
        request = {"type": "subscribe", "collection": "rooms", "uid": str(room), "query": query}
        await connection.send(json.dumps(request | more))
    made = 0
    while made < count:
        message = json.loads(await connection.recv())
        assert message["type"] in ("subscription", "ping"), message
        if message["type"] == "ping":
            await connection.send('{"type":"pong"}')
        made += message.get("event") == "init"


async def measure(url: str, sockets: int, each: int, more: dict[str, Any]) -> float:
    """Subscriptions a second."""
    connections: list[ClientConnection] = []
    for begin in range(0, sockets, 100):
        some = [connect(url, open_timeout=60, ping_interval=None) for _ in range(begin, min(begin + 100, sockets))]
        connections += await asyncio.gather(*some)
    began = time.monotonic()
    work = [subscribe_all(one, number * each, each, more) for number, one in enumerate(connections)]
    await asyncio.gather(*work)
    took_s = time.monotonic() - began
    await asyncio.gather(*(one.close() for one in connections))
    return sockets * each / took_s


def run(cluster: Cluster, sockets: int, each: int) -> None:
    dsn = cluster.dsn("crowd")
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE crowd")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ROOMS)
        stage.attach_durably(connection, "rooms")
    headline(f"{sockets * each:,} subscriptions over {sockets:,} sockets, each with a filter of its own, made a second")
    for title, more in {"without data (event)": {"event": "update"}, "with initial data": {}}.items():
        with stage.running_bridge(dsn) as bridge:
            cpu_s = bridge.cpu_s()
            per_s = asyncio.run(measure(bridge.url, sockets, each, more))
            cpu_us = (bridge.cpu_s() - cpu_s) / (sockets * each) * 1e6
            show(
                title, f"{per_s:,.0f}", target="at least 5,000", note=f"{cpu_us:.0f} us of the bridge's processor each"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    with stage.server(options.pg_bin) as cluster:
        run(cluster, options.sockets, options.each)


if __name__ == "__main__":
    main()
