"""Reads a stream ahead of whoever takes from it, so that what has come by now can be taken together.

Bound: `items_max` items; past it the stream waits. What the stream raises is raised here, after what came before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TypeVar

Item = TypeVar("Item")


async def batches(stream: AsyncGenerator[Item, None], items_max: int) -> AsyncGenerator[list[Item], None]:
    """Whatever is there, at least one item each time."""
    queue: asyncio.Queue[Item] = asyncio.Queue(items_max)
    pump = asyncio.create_task(_pump(stream, queue))
    try:
        while True:
            batch = [await _next(queue, pump)]
            while not queue.empty():
                batch.append(queue.get_nowait())
            yield batch
    except StopAsyncIteration:
        return
    finally:
        pump.cancel()
        with suppress(asyncio.CancelledError):
            await pump


async def _pump(stream: AsyncGenerator[Item, None], queue: asyncio.Queue[Item]) -> None:
    async with aclosing(stream):
        async for item in stream:
            await queue.put(item)


async def _next(queue: asyncio.Queue[Item], pump: asyncio.Task[None]) -> Item:
    """Raises what ended the stream, or `StopAsyncIteration`."""
    if queue.empty():
        taking = asyncio.ensure_future(queue.get())
        try:
            await asyncio.wait((taking, pump), return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                pump.result()
                raise StopAsyncIteration
            return taking.result()
        finally:
            taking.cancel()
    return queue.get_nowait()
