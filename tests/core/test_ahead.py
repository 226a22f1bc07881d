"""A stream is read ahead, within a bound, and ends as it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from cdc_bridge.engine.ahead import batches


async def test_what_has_come_is_taken_together_in_order() -> None:
    gate = asyncio.Event()

    async def stream() -> AsyncGenerator[int, None]:
        for number in range(5):
            yield number
        await gate.wait()
        yield 5

    found: list[list[int]] = []
    async with aclosing(batches(stream(), 10)) as taken:
        async for batch in taken:
            found.append(batch)
            gate.set()
    assert [number for batch in found for number in batch] == list(range(6))
    assert len(found) < 6


async def test_stream_waits_for_who_takes_from_it() -> None:
    made = 0

    async def stream() -> AsyncGenerator[int, None]:
        nonlocal made
        while True:
            made += 1
            yield made

    async with aclosing(batches(stream(), 3)) as taken:
        first = await anext(taken)
        for _ in range(10):
            await asyncio.sleep(0)
        assert made <= len(first) + 3 + 1


async def test_what_ends_the_stream_comes_after_what_came_before() -> None:
    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        raise LookupError("the end")

    taken = batches(stream(), 3)
    assert await anext(taken) == [1]
    with pytest.raises(LookupError):
        await anext(taken)


async def test_stream_is_closed_with_who_takes_from_it() -> None:
    closed = asyncio.Event()

    async def stream() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with aclosing(batches(stream(), 3)) as taken:
        await anext(taken)
    assert closed.is_set()
