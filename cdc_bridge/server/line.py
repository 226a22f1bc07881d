"""Requests of one client that wait for their turn.

Rule: they are carried out in their order, one at a time, and take up room until that is done.

Bound: `REQUESTS_MAX` requests, and as many bytes as `bytes_max` says, which may be another number as time passes; the
one that passes it is taken still. Policy: past either whoever joins waits, and so nothing more is read from the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cdc_bridge.server.session import Reply, Request

REQUESTS_MAX = 100


class Line:
    """See the module's docstring."""

    def __init__(self, bytes_max: Callable[[], int]) -> None:
        self._bytes_max = bytes_max
        self._requests: asyncio.Queue[tuple[Request | Reply, int]] = asyncio.Queue(REQUESTS_MAX)
        self._moves = asyncio.Condition()
        self._waiting_bytes = 0

    async def join(self, request: Request | Reply, size_bytes: int) -> None:
        async with self._moves:
            await self._moves.wait_for(lambda: self._waiting_bytes <= self._bytes_max())
        self._waiting_bytes += size_bytes
        await self._requests.put((request, size_bytes))

    @asynccontextmanager
    async def first(self) -> AsyncIterator[Request | Reply]:
        """Wait for it; it is done where this ends."""
        request, size_bytes = await self._requests.get()
        yield request
        async with self._moves:
            self._waiting_bytes -= size_bytes
            self._moves.notify()
