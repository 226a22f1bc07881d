"""A WebSocket client that says what it likes, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

WITHIN_S = 30.0
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
UPGRADE = (
    "GET /websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


class Raw:
    """A connection that says what it likes. Nothing is read unless it is asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """As far as the other side takes it: the end of the connection is for the reader to find."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def rest(self) -> bytes:
        """Everything up to the end."""
        found = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WITHIN_S):
                while chunk := await self.reader.read(65536):
                    found += chunk
        return found

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Opcodes and payloads, up to the end."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await self.reader.readexactly(2)
                size = head[1] & 127
                if size > 125:
                    size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
                yield head[0] & 15, await self.reader.readexactly(size)

    async def text(self) -> Any:
        """The next message."""
        async for opcode, payload in self.frames():
            if opcode == TEXT:
                return json.loads(payload)
        raise AssertionError("closed")

    async def close_code(self) -> int | None:
        """What the server closes with; None when it says nothing."""
        code = None
        async with asyncio.timeout(WITHIN_S):
            async for opcode, payload in self.frames():
                if opcode == CLOSE:
                    code = struct.unpack("!H", payload[:2])[0]
        return code


@asynccontextmanager
async def raw(port: int, receive_bytes: int | None = None) -> AsyncIterator[Raw]:
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=2048 if receive_bytes else 65536)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def upgraded(
    port: int, more: str = "", receive_bytes: int | None = None, path: str = "/websocket"
) -> AsyncIterator[Raw]:
    async with raw(port, receive_bytes) as connection:
        await connection.send(f"{UPGRADE}{more}\r\n".replace("/websocket", path, 1).encode())
        assert b" 101 " in await connection.reader.readuntil(b"\r\n\r\n")
        yield connection


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, compressed: bool = False) -> bytes:
    """As a client sends it, masked with zeros."""
    head = bytes([fin << 7 | compressed << 6 | opcode])
    if len(payload) < 126:
        size = bytes([128 | len(payload)])
    elif len(payload) < 65536:
        size = bytes([128 | 126]) + len(payload).to_bytes(2)
    else:
        size = bytes([128 | 127]) + len(payload).to_bytes(8)
    return head + size + b"\0\0\0\0" + payload
