"""How a server that ends lets its clients go, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from http import HTTPStatus

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request

from cdc_bridge.model.frames import come_again
from cdc_bridge.server.websocket_server import RETRY_MS_MAX
from tests.support.rawclient import CLOSE, PING, PONG, TEXT, WITHIN_S, frame, upgraded
from tests.support.stubserver import StubServer, created, stub_server

SUBSCRIBE = b'{"type":"subscribe","collection":"messages"}'
LONG_S = 3600.0
"""A time that no test waits for."""


def readiness(on: StubServer) -> tuple[int, str]:
    answer = on.server.request_policy.answer(Request("/readyz?verbose", Headers()))
    assert answer is not None
    return answer


async def farewell(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(WITHIN_S):
            await client.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_reason_fits_into_a_close() -> None:
    assert len(come_again(RETRY_MS_MAX).encode()) <= 123


async def test_server_without_clients_drains_at_once() -> None:
    async with stub_server(drain_s=LONG_S) as on, asyncio.timeout(WITHIN_S):
        await on.server.drain()


async def test_clients_are_asked_to_come_again_after_different_pauses() -> None:
    async with stub_server() as on, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(on.url, proxy=None)) for _ in range(20)]
        draining = asyncio.create_task(on.server.drain())
        farewells = [await farewell(client) for client in clients]
        await draining
    assert {code for code, _ in farewells} == {1012}
    pauses = [json.loads(reason)["retry_ms"] for _, reason in farewells]
    assert all(0 <= pause <= RETRY_MS_MAX for pause in pauses)
    assert len(set(pauses)) > 10


async def test_draining_server_is_not_ready_and_serves_those_that_are_left() -> None:
    async with (
        stub_server(drain_s=LONG_S) as on,
        connect(on.url, proxy=None) as first,
        connect(on.url, proxy=None) as second,
    ):
        status, text = readiness(on)
        assert (status, json.loads(text)["draining"]) == (HTTPStatus.OK, False)
        draining = asyncio.create_task(on.server.drain())
        assert (await farewell(first))[0] == 1012
        status, text = readiness(on)
        assert status == HTTPStatus.SERVICE_UNAVAILABLE
        state = json.loads(text)
        assert (state["ready"], state["reasons"], state["draining"]) == (False, ["shutting down"], True)
        with pytest.raises(InvalidStatus) as refused:
            await connect(on.url, proxy=None)
        assert refused.value.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        await second.send('{"type":"ping"}')
        assert await second.recv() == '{"type":"pong"}'
        draining.cancel()


async def test_drain_is_over_when_the_clients_have_left_by_themselves() -> None:
    async with stub_server(drain_s=0.5) as on, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(on.url, proxy=None)) for _ in range(3)]
        draining = asyncio.create_task(on.server.drain())
        for client in clients:
            await client.close()
        async with asyncio.timeout(WITHIN_S):
            await draining


async def test_what_waited_is_sent_and_not_all_that_comes_meanwhile() -> None:
    """Where much is written something always waits, and a client would never be let go."""
    async with stub_server(shutdown_timeout_s=LONG_S) as on, upgraded(on.port) as client:
        await client.send(frame(TEXT, SUBSCRIBE))
        _, subscriber = await on.engine.subscribed.get()
        for row in (b"1", b"2", b"3"):
            subscriber.push(created(row))
        draining = asyncio.create_task(on.server.drain())
        said = []
        async for opcode, payload in client.frames():
            said.append((opcode, payload.rpartition(b'"data":')[2]))
            if opcode == PING:
                subscriber.push(created(str(len(said)).encode()))
                await client.send(frame(PONG, payload))
            elif opcode == CLOSE:
                break
        assert [opcode for opcode, _ in said] == [TEXT, PING, TEXT, PING, CLOSE]
        assert [data for opcode, data in said if opcode == TEXT] == [b"[1]}", b"[2,3,2]}"]
        await client.send(frame(CLOSE, (1012).to_bytes(2)))
        async with asyncio.timeout(WITHIN_S):
            await draining


async def test_client_that_does_not_read_is_closed_all_the_same() -> None:
    async with stub_server(shutdown_timeout_s=0.05) as on, upgraded(on.port) as client:
        await client.send(frame(TEXT, SUBSCRIBE))
        _, subscriber = await on.engine.subscribed.get()
        for row in (b"1", b"2"):
            subscriber.push(created(row))  # it answers no PING, so the second one waits for ever
        draining = asyncio.create_task(on.server.drain())
        assert await client.close_code() == 1012
        async with asyncio.timeout(WITHIN_S):
            await draining


async def test_clients_are_told_when_they_are_cut_off() -> None:
    async with stub_server(drain_s=LONG_S) as on, connect(on.url, proxy=None) as client:
        on.server.abort()
        assert (await farewell(client))[0] == 1012
