"""The floor of what a bridge can cost: libpq's socket to `transport.write`, with no semantics.

A process that listens to what the naive trigger notifies, and writes each payload as a frame to each of its clients.
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

from benchmarks.stage import process_cpu_s
from benchmarks.subscriber import CONTEXT

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


def _main(dsn: str, pipe: Connection) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(dsn, pipe))


class Floor:
    """The side of the process that started it."""

    def __init__(self, dsn: str) -> None:
        parent, child = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_main, args=(dsn, child), daemon=True)
        self._process.start()
        self.url = str(parent.recv())

    def cpu_s(self) -> float:
        """The processor time that it has used."""
        assert self._process.pid is not None
        return process_cpu_s(self._process.pid)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


@contextlib.contextmanager
def running_floor(dsn: str) -> Iterator[Floor]:
    floor = Floor(dsn)
    try:
        yield floor
    finally:
        floor.stop()
