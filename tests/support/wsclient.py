"""A small WebSocket client for tests: it reads all the time, answers pings, hands out messages in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Message = dict[str, Any]
TIMEOUT_S = 10.0


class Closed(Exception):
    """The server closed the connection and nothing is left to read."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Client:
    """One connection. `seen` keeps every message received, pings included."""

    def __init__(self, connection: ClientConnection, *, answer_pings: bool = True) -> None:
        self.connection = connection
        self.answer_pings = answer_pings
        self.seen: list[Message] = []
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str, *, answer_pings: bool = True, **keywords: Any) -> Self:
        """Keywords are those of `websockets.connect`, such as `additional_headers`."""
        keywords = {"max_size": None, "proxy": None, "ping_interval": None} | keywords
        return cls(await connect(url, **keywords), answer_pings=answer_pings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def send(self, message: object) -> None:
        """A string or bytes go as they are, anything else as JSON."""
        await self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def next(self, timeout: float = TIMEOUT_S) -> Message:  # noqa: ASYNC109 - reads best at the call
        """The next message that is not a ping; raises `Closed` at the end, TimeoutError after `timeout`."""
        async with asyncio.timeout(timeout):
            message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise Closed(self.connection.close_code, self.connection.close_reason)
        return message

    async def expect(self, *, timeout: float = TIMEOUT_S, **subset: Any) -> Message:  # noqa: ASYNC109
        """The next message; it must have these members with these values."""
        message = await self.next(timeout)
        assert _has(message, subset), f"expected {subset}, got {message}"
        return message

    async def until(self, *, timeout: float = TIMEOUT_S, **subset: Any) -> Message:  # noqa: ASYNC109
        """The first message that has these members with these values; those before it are skipped."""
        async with asyncio.timeout(timeout):
            while not _has(message := await self.next(timeout), subset):
                pass
        return message

    async def collect(self, n: int, *, timeout: float = TIMEOUT_S, **subset: Any) -> list[Any]:  # noqa: ASYNC109
        """The first `n` or more members of `data` in the messages that match, which are read whole."""
        rows: list[Any] = []
        async with asyncio.timeout(timeout):
            while len(rows) < n:
                message = await self.until(timeout=timeout, **subset)
                data = message.get("data", [])
                rows += data if isinstance(data, list) else [data]
        return rows

    async def closed(self, timeout: float = TIMEOUT_S) -> int | None:  # noqa: ASYNC109
        """Wait until the server closes; the close code."""
        async with asyncio.timeout(timeout):
            await self.connection.wait_closed()
        return self.connection.close_code

    async def close(self) -> None:
        await self.connection.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for text in self.connection:
                await self._received(json.loads(text))
        except ConnectionClosed:
            pass  # `next` says so, after what is still to be read
        finally:
            self._inbox.put_nowait(None)

    async def _received(self, message: Message) -> None:
        self.seen.append(message)
        if message.get("type") != "ping":
            self._inbox.put_nowait(message)
        elif self.answer_pings:
            await self.send({"type": "pong"})


@contextlib.asynccontextmanager
async def connected(url: str, **keywords: Any) -> AsyncIterator[Client]:
    """`async with connected(url) as client:`."""
    async with await Client.connect(url, **keywords) as client:
        yield client


def _has(message: Message, subset: dict[str, Any]) -> bool:
    return all(name in message and message[name] == value for name, value in subset.items())
