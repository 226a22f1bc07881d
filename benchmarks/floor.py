"""The floors of what a bridge can cost: processes that send each notification of the naive trigger to all clients.

One goes from libpq's socket to `transport.write`, with no semantics. The other, the bare loop, is what one would write
first: `async for` over psycopg's `notifies()`, and `send` of the websockets library.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import cast

import psycopg
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.stage import process_cpu_s, process_memory_bytes
from benchmarks.swarm import CONTEXT

CHANNEL = "naive"
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Client(asyncio.Protocol):
    """One socket: answers the handshake, then only writes."""

    everybody: set[asyncio.Transport] = set()  # noqa: RUF012 - one process, one set

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            [key] = [line[19:] for line in data.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: ")]
            accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest()).decode()
            self._transport.write(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
        elif self._transport not in self.everybody:
            self.everybody.add(self._transport)
            self._transport.write(frame(b"{}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.everybody.discard(self._transport)


def frame(text: bytes) -> bytes:
    size = len(text)
    if size < 126:
        return bytes((0x81, size)) + text
    return struct.pack("!BBH", 0x81, 126, size) + text


async def _serve(dsn: str, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute(f"LISTEN {CHANNEL}")
    libpq = connection.pgconn

    def readable() -> None:
        libpq.consume_input()
        while notification := libpq.notifies():
            data = frame(notification.extra)
            for client in Client.everybody:
                client.write(data)

    loop.add_reader(libpq.socket, readable)
    server = await loop.create_server(Client, "127.0.0.1", 0)
    pipe.send(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/websocket")
    await asyncio.Event().wait()


async def _serve_bare(dsn: str, pipe: Connection) -> None:
    sockets: set[ServerConnection] = set()

    async def keep(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send("{}")
        sockets.add(socket)
        await socket.wait_closed()
        sockets.discard(socket)

    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
        serve(keep, "127.0.0.1", 0, compression=None) as listening,
    ):
        await connection.execute(f"LISTEN {CHANNEL}")
        pipe.send(f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/websocket")
        async for notification in connection.notifies():
            for socket in list(sockets):
                await socket.send(notification.payload)


def _main(dsn: str, pipe: Connection, bare: bool) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        if bare:
            asyncio.run(_serve_bare(dsn, pipe))
        else:
            uvloop.run(_serve(dsn, pipe))


class Floor:
    """The side of the process that started it."""

    def __init__(self, dsn: str, *, bare: bool) -> None:
        parent, child = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_main, args=(dsn, child, bare), daemon=True)
        self._process.start()
        self.url = str(parent.recv())

    def cpu_s(self) -> float:
        """The processor time that it has used."""
        return process_cpu_s(self._process.pid or 0)

    def memory_bytes(self) -> int | None:
        return process_memory_bytes(self._process.pid or 0)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


@contextlib.contextmanager
def running_floor(dsn: str, *, bare: bool = False) -> Iterator[Floor]:
    floor = Floor(dsn, bare=bare)
    try:
        yield floor
    finally:
        floor.stop()
