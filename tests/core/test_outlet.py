"""The sending half of a real WebSocket: who has much to push waits for room, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

from cdc_bridge.engine.feed import Feed
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.subscription import Event, EventKind
from cdc_bridge.server.outlet import SocketOutlet
from tests.core.facts import subscription


@asynccontextmanager
async def outlet(room_timeout_s: float) -> AsyncIterator[tuple[SocketOutlet, ClientConnection, Subscriber]]:
    """With one subscription, of which more than half of what may wait does wait. Nothing is sent yet."""
    made: asyncio.Queue[SocketOutlet] = asyncio.Queue()

    async def converse(socket: ServerConnection) -> None:
        one = SocketOutlet(socket, 1000, room_timeout_s)
        made.put_nowait(one)
        await one.close_when_asked()

    async with serve(converse, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}") as client:
            one = await made.get()
            subscriber = Subscriber(one, subscription(), Feed(1000))
            one.open(subscriber)
            one.push(subscriber, Event(EventKind.CREATE, (b"1" * 600,)), None)
            yield one, client, subscriber
            one.close(CloseCode.GOING_AWAY, "the test is over")


async def test_there_is_room_once_what_waited_has_been_sent() -> None:
    async with outlet(10) as (one, client, _):
        waiting = asyncio.create_task(one.room(100))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        sending = asyncio.create_task(one.send())
        await client.recv()
        assert await waiting
        sending.cancel()


async def test_what_may_never_wait_has_room_when_nothing_else_waits() -> None:
    """So who is told much gets on, however large it is."""
    async with outlet(10) as (one, client, _):
        waiting = asyncio.create_task(one.room(5000))
        await asyncio.sleep(0)
        sending = asyncio.create_task(one.send())
        await client.recv()
        assert await waiting
        assert await one.room(5000)
        sending.cancel()


async def test_client_that_makes_no_room_in_time_is_closed_as_too_slow() -> None:
    async with outlet(0.05) as (one, client, _):
        assert not await one.room(100)
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


async def test_subscription_that_ends_makes_room() -> None:
    async with outlet(10) as (one, _, subscriber):
        waiting = asyncio.create_task(one.room(100))
        await asyncio.sleep(0)
        one.drop(subscriber)
        assert await waiting
