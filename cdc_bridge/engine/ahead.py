"""Reads a stream ahead of whoever takes from it, so that what has come by now can be taken together.

Bound: `items_max` items; past it the stream waits. What the stream raises is raised here, after what came before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _End:
    """Behind the last item: what the stream raised, if it did."""

    error: Exception | None = None


async def batches(stream: AsyncGenerator[Item, None], items_max: int) -> AsyncGenerator[list[Item], None]:
    """Whatever is there, at least one item each time."""
    queue: asyncio.Queue[Item | _End] = asyncio.Queue(items_max)
    pump = asyncio.create_task(_pump(stream, queue))
    end: _End | None = None
    try:
        while end is None:
            batch: list[Item] = []
            for item in await _arrived(queue):
                if isinstance(item, _End):
                    end = item
                else:
                    batch.append(item)
            if batch:
                yield batch
        if end.error is not None:
            raise end.error
    finally:
        pump.cancel()
        with suppress(asyncio.CancelledError):
            await pump


async def _arrived(queue: asyncio.Queue[Item]) -> list[Item]:
    """All that is there, waiting for the first."""
    items = [await queue.get()]
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


async def _pump(stream: AsyncGenerator[Item, None], queue: asyncio.Queue[Item | _End]) -> None:
    end = _End()
    try:
        async with aclosing(stream):
            async for item in stream:
                await queue.put(item)
    except Exception as error:  # it is raised where the stream is taken
        end = _End(error)
    await queue.put(end)
