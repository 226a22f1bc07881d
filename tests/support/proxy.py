"""A TCP proxy of our own, to play a line that breaks, a half-open one, and a pooler that cannot LISTEN."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict, make_conninfo

READ_BYTES_MAX = 256 * 1024
_CLOSE_WITH_RESET = struct.pack("ii", 1, 0)
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


class Proxy:
    """Forwards 127.0.0.1:`port` to a target, and misbehaves on request.

    It is ACCEPTING or refusing, and FLOWING or frozen, independently of each other; both may change at any
    time. Replies, what the target sends, can be held alone. With `swallow` (bytes naming message types, `b"A"` for
    NotificationResponse) it follows PostgreSQL's protocol and drops the server's messages of those types; the attribute
    may be changed at any time too. It counts the server's messages then: every round trip ends with one `b"Z"`
    (ReadyForQuery). `requests` counts how often a client has sent each of the texts in it, one at a time.
    """

    def __init__(self, host: str, port: int, *, swallow: bytes | None = None) -> None:
        self.target = (host, port)
        self.swallow = swallow
        self.port = 0
        self.accepted = 0
        self.replied_bytes = 0
        self._cut_at_bytes = math.inf
        self.server_messages: Counter[bytes] = Counter()
        self.requests: Counter[bytes] = Counter()
        self._follows_protocol = swallow is not None
        self._listener: asyncio.Server | None = None
        self._flowing = _flowing_event()
        self._line = _flowing_event()
        self._replying = asyncio.Event()
        self._replying.set()
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @classmethod
    def before(cls, dsn: str, *, swallow: bytes | None = None) -> Self:
        """A proxy in front of a database server; `proxy.dsn(dsn)` leads through it."""
        target = conninfo_to_dict(dsn)
        return cls(str(target["host"]), int(target.get("port") or 5432), swallow=swallow)

    @classmethod
    def before_bridge(cls, url: str) -> Self:
        """A proxy in front of a bridge; `proxy.url` is for clients."""
        target = urlsplit(url)
        return cls(str(target.hostname), int(target.port or 80))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/websocket"

    def dsn(self, dsn: str) -> str:
        return make_conninfo(dsn, host="127.0.0.1", port=self.port)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.refuse()
        tasks = list(self._connections)
        self.cut()
        self.let_replies_go()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    async def accept(self) -> None:
        """Listen, on the same port as before."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=READ_BYTES_MAX)
            self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def cut(self) -> None:
        """Reset every open connection, on both sides."""
        for task, writers in self._connections.items():
            for writer in writers:
                _reset(writer)
            task.cancel()

    def cut_after(self, size_bytes: int) -> None:
        """Cut everything as soon as so many more bytes of replies have been forwarded, in all connections together."""
        self._cut_at_bytes = self.replied_bytes + size_bytes

    def freeze(self) -> None:
        """Forward nothing more, in either direction, not even an end; new connections are taken and hang."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward again, beginning with what was held."""
        self._flowing.set()

    def freeze_open_ones(self) -> None:
        """Forward nothing more of the connections that are open now; new ones are served."""
        self._line.clear()
        self._line = _flowing_event()

    def hold_replies(self) -> None:
        """Forward nothing more of what the target sends; the other direction goes on."""
        self._replying.clear()

    def let_replies_go(self) -> None:
        """Forward them again, beginning with what was held."""
        self._replying.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._connections[task] = [writer]
        try:
            await self._forward(reader, writer, self._connections[task])
        except OSError:
            pass  # one side was cut, or the target refuses: the other side learns it by the reset below
        except asyncio.CancelledError:
            pass  # cut by us, and asyncio's server has no use for it
        finally:
            for open_writer in self._connections.pop(task):
                _reset(open_writer)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]
    ) -> None:
        line = self._line
        await self._flowing.wait()
        target_reader, target_writer = await asyncio.open_connection(*self.target, limit=READ_BYTES_MAX)
        writers.append(target_writer)
        conversation = _Conversation(self.server_messages) if self._follows_protocol else None
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._to_server(self._chunks(reader, line), target_writer, conversation))
                directions.create_task(self._to_client(self._chunks(target_reader, line), writer, conversation))

    async def _to_server(
        self, chunks: AsyncIterator[bytes], writer: asyncio.StreamWriter, conversation: _Conversation | None
    ) -> None:
        behind = b""
        async for data in chunks:
            if conversation:
                conversation.client_sent(data)
            for text in self.requests:
                self.requests[text] += (behind[1 - len(text) :] + data).count(text)
            behind = data
            await _write(writer, data)
        _end(writer)

    async def _to_client(
        self, chunks: AsyncIterator[bytes], writer: asyncio.StreamWriter, conversation: _Conversation | None
    ) -> None:
        async for data in chunks:
            await self._replying.wait()
            if self.replied_bytes + len(data) >= self._cut_at_bytes:
                writer.write(data[: int(self._cut_at_bytes) - self.replied_bytes])
                self._cut_at_bytes = math.inf
                self.cut()
                return
            self.replied_bytes += len(data)
            await _write(writer, conversation.server_sent(data, self.swallow or b"") if conversation else data)
        _end(writer)

    async def _chunks(self, reader: asyncio.StreamReader, line: asyncio.Event) -> AsyncIterator[bytes]:
        while True:
            data = await reader.read(READ_BYTES_MAX)
            await self._flowing.wait()
            await line.wait()
            if not data:
                return
            yield data


@dataclass(slots=True)
class _Conversation:
    """Finds the messages in one connection's bytes.

    A client opens with requests without a type; to those for encryption the server answers with one byte.
    After that, whatever the server sends is a type, a length, and a body.
    """

    counted: Counter[bytes]
    single_bytes: int = 0
    started: bool = False
    _opening: bytearray = field(default_factory=bytearray)
    _unread: bytearray = field(default_factory=bytearray)

    def client_sent(self, data: bytes) -> None:
        if self.started:
            return
        self._opening += data
        while len(self._opening) >= 8:
            length, code = struct.unpack_from("!ii", self._opening)
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                self.started = True
                return
            self.single_bytes += 1
            del self._opening[:length]

    def server_sent(self, data: bytes, swallow: bytes) -> bytes:
        """What of it goes on to the client; an incomplete message waits for its rest."""
        self._unread += data
        passed = bytearray()
        while message := self._next_message():
            self.counted[message[:1]] += 1
            if len(message) == 1 or message[0] not in swallow:
                passed += message
        return bytes(passed)

    def _next_message(self) -> bytes:
        if self.single_bytes and self._unread:
            self.single_bytes -= 1
            return self._take(1)
        if len(self._unread) < 5:
            return b""
        (length,) = struct.unpack_from("!i", self._unread, 1)
        return self._take(length + 1) if len(self._unread) > length else b""

    def _take(self, length: int) -> bytes:
        message = bytes(self._unread[:length])
        del self._unread[:length]
        return message


def _flowing_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _end(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_RESET)
    writer.transport.abort()
