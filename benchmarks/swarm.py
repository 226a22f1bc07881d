"""Many clients in a process of its own, as cheap as clients can be: they answer PINGs and count frames."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import cast
from urllib.parse import urlsplit

import uvloop

CONTEXT = multiprocessing.get_context("spawn")
READY_WITHIN_S = 300.0
HEAR_WITHIN_S = 300.0
OPENING_MAX = 50
"""Handshakes under way at once."""

TEXT, CLOSE, PING = 0x81, 0x88, 0x89
PING_MESSAGE = b'{"type":"ping"}'
ROW = b'{"id":'
"""How the rows of all our tables begin."""


class Client(asyncio.Protocol):
    """One socket. `ready` is resolved when each of its requests has a reply."""

    close_code = 0
    """The code with which the bridge has closed it."""

    def __init__(self, request: bytes, shared: Shared, requests: int = 1) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._unanswered = requests
        self._shared = shared
        self._buffer = b""
        self._chunks: list[bytes] = []
        self._lacking = 0  # bytes of a large frame
        self._upgraded = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        host, port = transport.get_extra_info("peername")[:2]
        self._transport.write(
            f"GET /websocket HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._chunks.append(data)
        self._lacking -= len(data)
        if self._lacking > 0:
            return
        self._buffer = b"".join([self._buffer, *self._chunks])
        self._chunks.clear()
        if not self._upgraded:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.ready.set_exception(RuntimeError(head.decode()))
                return
            self._upgraded, self._buffer = True, rest
            self._transport.write(self._request)
        answers = b"".join(self._answers())
        if answers:
            self._transport.write(answers)

    def _answers(self) -> Iterator[bytes]:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            size, begin = buffer[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(buffer[begin : begin + 2], "big"), begin + 2
            elif size == 127:
                size, begin = int.from_bytes(buffer[begin : begin + 8], "big"), begin + 8
            if len(buffer) < begin + size:
                self._lacking = begin + size - len(buffer)
                break
            if buffer[at] == PING:
                yield struct.pack("!BBL", 0x8A, 0x80 | size, 0) + buffer[begin : begin + size]
            elif buffer[at] == TEXT:
                self._take(buffer[begin : begin + size])
            elif buffer[at] == CLOSE:
                self.close_code = int.from_bytes(buffer[begin : begin + 2], "big")
            at = begin + size
        self._buffer = buffer[at:]

    def _take(self, text: bytes) -> None:
        assert self._transport is not None
        if text == PING_MESSAGE:  # it can come before the first answer
            self._transport.write(text_frame(b'{"type":"pong"}'))
        elif not self.ready.done():
            self._unanswered -= 1
            if not self._unanswered:
                self.ready.set_result(None)
        else:
            self._shared.frames.value += 1
            self._shared.rows.value += text.count(ROW)
            self._shared.last_ns.value = time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Shared:
    """Reports of the process of the clients to the one that started it."""

    ready: Event
    frames: Synchronized[int]
    rows: Synchronized[int]
    last_ns: Synchronized[int]


def shared() -> Shared:
    return Shared(CONTEXT.Event(), *(CONTEXT.Value("q", 0, lock=False) for _ in range(3)))


class Swarm:
    """The side of the process that started it."""

    def __init__(self, url: str, requests: Sequence[str], each: int) -> None:
        self._shared = shared()
        groups = [requests[begin : begin + each] for begin in range(0, len(requests), each)]
        self._process = CONTEXT.Process(target=_main, args=(url, groups, self._shared), daemon=True)
        self._process.start()
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._shared.ready.wait(0.1):
            if not self._process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("not all clients have got their initial data")

    @property
    def frames(self) -> int:
        """How many frames all clients have received after their initial data."""
        return self._shared.frames.value

    @property
    def rows(self) -> int:
        """How many rows all clients have received after their initial data."""
        return self._shared.rows.value

    @property
    def last_s(self) -> float:
        """When the last frame was received, by the monotonic clock."""
        return self._shared.last_ns.value / 1e9

    def wait_for(self, rows: int) -> None:
        deadline = time.monotonic() + HEAR_WITHIN_S
        while self.rows < rows:
            if not self._process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{self.rows} rows came instead of {rows}")
            time.sleep(0.002)

    def wait_for_silence(self, seconds: float) -> None:
        """Wait until nothing has come for so long."""
        while time.monotonic() - self.last_s < seconds:
            time.sleep(seconds / 10)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


@contextlib.contextmanager
def swarm(url: str, requests: Sequence[str], each: int = 1) -> Iterator[Swarm]:
    """A client for each request, or for so many at a time, all of them with their initial data."""
    clients = Swarm(url, requests, each)
    try:
        yield clients
    finally:
        clients.stop()


def subscribe(collection: str, uid: int = 1, **query: object) -> str:
    """A request for what comes, and for no rows that are there."""
    return json.dumps({"type": "subscribe", "collection": collection, "uid": str(uid), "query": {"limit": 0, **query}})


def _main(url: str, groups: Sequence[Sequence[str]], shared: Shared) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_follow(url, groups, shared))


async def _follow(url: str, groups: Sequence[Sequence[str]], shared: Shared) -> None:
    address = urlsplit(url)
    loop, opening = asyncio.get_running_loop(), asyncio.Semaphore(OPENING_MAX)

    async def connect(requests: Sequence[str]) -> None:
        frames = b"".join(text_frame(request.encode()) for request in requests)
        async with opening:
            _, client = await loop.create_connection(
                lambda: Client(frames, shared, len(requests)), str(address.hostname), int(address.port or 80)
            )
            await client.ready

    async with asyncio.TaskGroup() as tasks:
        for requests in groups:
            tasks.create_task(connect(requests))
    shared.ready.set()
    await asyncio.Event().wait()


def text_frame(text: bytes) -> bytes:
    """A text frame from a client; its mask of zeros changes nothing."""
    size = len(text)
    head = struct.pack("!BB", TEXT, 0x80 | size) if size < 126 else struct.pack("!BBH", TEXT, 0x80 | 126, size)
    return head + bytes(4) + text
