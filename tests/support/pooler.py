"""A pooler of our own: it lends server sessions, for one transaction or for as long as a client is connected."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

LEFT_BEHIND = """
SELECT name || '=' || setting FROM pg_settings
WHERE source = 'session' AND name NOT IN ('application_name', 'client_encoding')
UNION ALL SELECT pg_listening_channels()
UNION ALL SELECT name FROM pg_prepared_statements
UNION ALL SELECT locktype FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
"""
"""A query for all that a client has left in a server session that was lent to it."""

_STARTUP = 196608
_GREETING = ("server_version", "server_encoding", "client_encoding", "DateStyle", "integer_datetimes", "TimeZone")


@dataclass(eq=False)
class ServerSession:
    """A connection to the server: psycopg's while nobody has it, and a stream of bytes for a client."""

    connection: psycopg.Connection[Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(eq=False)
class Pooler:
    """Listens on a port of 127.0.0.1. A session that comes back is the first to be lent again."""

    dsn_of_server: str
    lends_transactions: bool
    server_version: str | None = None
    """What clients are told instead of the server's own."""
    port: int = 0
    idle: list[ServerSession] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        return make_conninfo(self.dsn_of_server, host="127.0.0.1", port=self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._greet(reader, writer)
            if self.lends_transactions:
                await self._lend_transactions(reader, writer)
            else:
                await self._lend_session(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _lend_transactions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (message := await _message(reader))[:1] != b"X":
            lent = self.idle.pop() if self.idle else await self._open()
            try:
                lent.writer.write(message)
                while message[:1] not in (b"Q", b"S") or not await self._forward_replies(lent, writer):
                    message = await _message(reader)
                    lent.writer.write(message)
            finally:
                self.idle.append(lent)

    async def _lend_session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """It is closed with the client, as if it had been reset."""
        lent = self.idle.pop() if self.idle else await self._open()
        replies = asyncio.create_task(_copy(lent.reader, writer))
        try:
            await _copy(reader, lent.writer)
        finally:
            replies.cancel()
            lent.writer.close()
            lent.connection.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            (code,) = struct.unpack_from("!i", await reader.readexactly(length - 4))
            if code == _STARTUP:
                break
            writer.write(b"N")
        session = self.idle.pop() if self.idle else await self._open()
        self.idle.append(session)
        writer.write(_typed(b"R", struct.pack("!i", 0)))
        for name in _GREETING:
            value = session.connection.info.parameter_status(name) or ""
            if name == "server_version" and self.server_version:
                value = self.server_version
            writer.write(_typed(b"S", name.encode() + b"\0" + value.encode() + b"\0"))
        writer.write(_typed(b"K", secrets.token_bytes(8)) + _typed(b"Z", b"I"))

    async def _forward_replies(self, lent: ServerSession, writer: asyncio.StreamWriter) -> bool:
        """Until the server is ready for the next question. Whether it is in no transaction."""
        while True:
            message = await _message(lent.reader)
            writer.write(message)
            if message[:1] == b"Z":
                await writer.drain()
                return message[-1:] == b"I"

    async def _open(self) -> ServerSession:
        connection = await asyncio.to_thread(lambda: psycopg.connect(self.dsn_of_server, autocommit=True))
        line = socket.socket(fileno=os.dup(connection.fileno()))
        reader, writer = await asyncio.open_connection(sock=line)
        return ServerSession(connection, reader, writer)


@contextlib.asynccontextmanager
async def pooler(dsn: str, *, lends_transactions: bool, server_version: str | None = None) -> AsyncIterator[Pooler]:
    pool = Pooler(dsn, lends_transactions, server_version)
    server = await asyncio.start_server(pool.serve, "127.0.0.1", 0)
    pool.port = server.sockets[0].getsockname()[1]
    try:
        yield pool
    finally:
        server.close()
        for session in pool.idle:
            session.writer.close()
            session.connection.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    (length,) = struct.unpack_from("!i", head, 1)
    return head + await reader.readexactly(length - 4)


def _typed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
