"""The server with an engine that does as it is told: how frames are paced, what is idle, and what HTTP is answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidMessage

from cdc_bridge.access.auth_state import AuthMode, Identity
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model.security_context import Principal
from cdc_bridge.server import limits
from cdc_bridge.server.connection import Connection
from cdc_bridge.server.framing import PING, PING_PAYLOAD
from cdc_bridge.server.websocket_server import Timer
from tests.support.rawclient import (
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PONG,
    TEXT,
    UPGRADE,
    WITHIN_S,
    Raw,
    frame,
    raw,
    upgraded,
)
from tests.support.stubserver import StubEngine, StubServer, created, stub_server

SUBSCRIBE = b'{"type":"subscribe","collection":"messages"}'
ITEMS = '{"type":"items","action":"read","collection":"messages"}'


@asynccontextmanager
async def subscribed(room_timeout_s: float = 10) -> AsyncIterator[tuple[Connection, ClientConnection, Subscriber]]:
    """A client with one subscription, of whose backlog more than half is taken. Nothing is sent yet."""
    async with (
        stub_server(backlog_bytes_max=1000, room_timeout_s=room_timeout_s) as on,
        connect(on.url, proxy=None) as client,
    ):
        await client.send(SUBSCRIBE.decode())
        connection, subscriber = await on.engine.subscribed.get()
        connection.pause_writing()
        subscriber.push(created(b"1" * 600))
        yield connection, client, subscriber


@asynccontextmanager
async def raw_subscribed(
    on: StubServer, more: str = "", path: str = "/websocket"
) -> AsyncIterator[tuple[Connection, Raw, Subscriber]]:
    async with upgraded(on.port, more, path=path) as client:
        await client.send(frame(TEXT, SUBSCRIBE))
        connection, subscriber = await on.engine.subscribed.get()
        yield connection, client, subscriber


# --- room for those who have much to tell ---


async def test_there_is_room_once_what_waited_has_been_sent() -> None:
    async with subscribed() as (connection, client, _):
        waiting = asyncio.create_task(connection.room(100))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        connection.resume_writing()
        await client.recv()
        assert await waiting


async def test_what_may_never_wait_has_room_when_nothing_else_waits() -> None:
    """So who is told much gets on, however large it is."""
    async with subscribed() as (connection, client, _):
        waiting = asyncio.create_task(connection.room(5000))
        await asyncio.sleep(0)
        connection.resume_writing()
        await client.recv()
        assert await waiting
        assert await connection.room(5000)


async def test_client_that_makes_no_room_in_time_is_closed_as_too_slow() -> None:
    async with subscribed(room_timeout_s=0.05) as (connection, client, _):
        assert not await connection.room(100)
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


async def test_subscription_that_ends_makes_room() -> None:
    async with subscribed() as (connection, _, subscriber):
        waiting = asyncio.create_task(connection.room(100))
        await asyncio.sleep(0)
        subscriber.forget()
        connection.drop(subscriber)
        assert await waiting


# --- pacing ---


async def test_client_that_takes_every_frame_is_sent_no_ping_and_waits_for_none() -> None:
    async with stub_server() as on, raw_subscribed(on, path="/websocket?pace=off") as (_connection, client, subscriber):
        frames = client.frames()
        for rows in ((b"1",), (b"2", b"3")):  # what comes in one turn of the loop leaves together
            for row in rows:
                subscriber.push(created(row))
            opcode, payload = await anext(frames)
            assert (opcode, payload.rpartition(b'"data":')[2]) == (TEXT, b"[" + rows[0] + b"]}")
        opcode, payload = await anext(frames)
        assert (opcode, payload.rpartition(b'"data":')[2]) == (TEXT, b"[3]}")


async def test_client_that_takes_every_frame_and_reads_nothing_fills_the_outbox_and_not_the_transport(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A client with so little room takes long on a busy machine.
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT_S", WITHIN_S)
    async with (
        stub_server(backlog_bytes_max=4_000_000, shutdown_timeout_s=WITHIN_S) as on,
        upgraded(on.port, receive_bytes=4096, path="/websocket?pace=off") as client,
    ):

        async def read_on() -> bytes:
            """Read up to the end of the WebSocket, and end the connection."""
            async for opcode, payload in client.frames():
                if opcode == CLOSE:
                    client.writer.transport.abort()
                    return payload
            return b""

        await client.send(frame(TEXT, SUBSCRIBE))
        connection, subscriber = await on.engine.subscribed.get()
        async with asyncio.timeout(WITHIN_S):
            while connection.has_room:
                subscriber.push(created(b"1" * 100_000))
                await asyncio.sleep(0)
            assert connection.transport.get_write_buffer_size() < 500_000
            waiting = asyncio.create_task(connection.room(1000))
            reading = asyncio.create_task(read_on())
            assert await waiting
            await on.server.drain()  # which sends the rest
            assert b"shutting down" in await reading


async def test_compressed_frames_go_without_pings_too() -> None:
    async with (
        stub_server(compression=True) as on,
        connect(on.url + "?pace=off", proxy=None) as client,
    ):
        await client.send(SUBSCRIBE.decode())
        _connection, subscriber = await on.engine.subscribed.get()
        for row in (b"1", b"2", b"3"):
            subscriber.push(created(row * 1000))
            assert row.decode() * 1000 in str(await client.recv())


@pytest.mark.parametrize("is_busy", [False, True])
async def test_engine_hears_of_a_client_that_is_behind_when_it_reads_again(is_busy: bool) -> None:
    """Something waits for another subscription of it every time."""
    async with stub_server() as on, raw_subscribed(on) as (connection, client, subscriber):
        for row in (b"1", b"2") if is_busy else ():
            subscriber.push(created(row))
        connection.outbox.behind[subscriber] = None
        connection.wake()
        assert on.engine.caught_up == ([] if is_busy else [connection])
        if is_busy:
            await client.reader.readuntil(PING)
            await client.send(frame(PONG, PING_PAYLOAD))
            await client.reader.readuntil(PING)
            assert on.engine.caught_up == [connection]


async def test_status_says_how_far_behind_each_subscription_is() -> None:
    async with stub_server() as on, raw_subscribed(on) as (connection, client, subscriber):
        for row in (b"1", b"2", b"3"):
            subscriber.push(created(row))  # of which the first one is sent
        expected = {"bytes": subscriber.waiting_bytes, "events": 2, "seconds": None, "awaits": "init"}
        await client.send(frame(TEXT, b'{"type":"status","uid":7}'))
        async with asyncio.timeout(WITHIN_S):
            while not connection.outbox.replies:  # noqa: ASYNC110 - nothing but looking tells
                await asyncio.sleep(0)
        await client.send(frame(PONG, PING_PAYLOAD))
        await client.text()
        assert await client.text() == {"type": "status", "data": [expected], "uid": 7}


async def test_frame_and_its_ping_are_one_write_and_the_next_frame_waits_for_the_pong() -> None:
    async with stub_server() as on, raw_subscribed(on) as (_connection, client, subscriber):
        subscriber.push(created(b"1"))
        assert (await client.reader.readuntil(PING)).endswith(b'"data":[1]}' + PING)
        for row in (b"2", b"3"):
            subscriber.push(created(row))
        await client.send(frame(PONG, b"none") + frame(PONG) + frame(9, b"x"))
        assert await client.reader.readexactly(3) == b"\x8a\x01x"  # nothing but the answer to its ping
        await client.send(frame(PONG, PING_PAYLOAD))
        assert (await client.reader.readuntil(PING)).endswith(b'"data":[2,3]}' + PING)  # what has gathered


@pytest.mark.parametrize(
    "pieces",
    [
        [bytes([byte]) for byte in frame(PONG, PING_PAYLOAD)],
        [frame(TEXT, b'{"type":"p', fin=False) + frame(PONG, PING_PAYLOAD) + frame(CONTINUATION, b'ong"}')],
        [frame(TEXT, b'{"type":"pong"}')[:7], frame(TEXT, b'{"type":"pong"}')[7:] + frame(PONG, PING_PAYLOAD)],
        [frame(TEXT, b'{"type":"p', fin=False), frame(PONG, PING_PAYLOAD), frame(CONTINUATION, b'ong"}')],
    ],
)
async def test_pong_is_understood_wherever_it_is(pieces: list[bytes]) -> None:
    async with stub_server() as on, raw_subscribed(on) as (_connection, client, subscriber):
        for row in (b"1", b"2"):
            subscriber.push(created(row))
            assert (await client.reader.readuntil(PING)).endswith(b'"data":[' + row + b"]}" + PING)
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0)


async def test_ten_bytes_inside_a_message_are_not_taken_for_a_pong() -> None:
    """The message has the very bytes of a PONG, at the begin of what is read."""
    pong = frame(PONG, PING_PAYLOAD)
    message = b'{"type":"ping","uid":"' + b"x" * 8
    async with stub_server() as on, raw_subscribed(on) as (_connection, client, subscriber):
        subscriber.push(created(b"1"))
        await client.reader.readuntil(PING)
        subscriber.push(created(b"2"))
        await client.send(frame(TEXT, message + pong + b'"}')[: 6 + len(message)])
        await asyncio.sleep(0.05)
        await client.send(pong)
        await asyncio.sleep(0.05)
        await client.send(b'"}')
        assert await client.close_code() == 1007  # these bytes are no text


async def test_client_that_reads_nothing_and_answers_every_ping_holds_up_only_itself() -> None:
    """A PONG that is forged lets no more frames into memory than the transport takes."""
    async with stub_server(backlog_bytes_max=4_000_000) as on, upgraded(on.port, receive_bytes=4096) as client:
        await client.send(frame(TEXT, SUBSCRIBE))
        connection, subscriber = await on.engine.subscribed.get()
        async with asyncio.timeout(WITHIN_S):
            while connection.has_room:
                subscriber.push(created(b"1" * 100_000))
                await client.send(frame(PONG, PING_PAYLOAD))
                await asyncio.sleep(0)
        assert connection.transport.get_write_buffer_size() < 500_000


async def test_client_that_is_ended_for_its_pings_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the protocol that was told to end it. Its pings fill whole reads, so nothing is ever left over."""
    monkeypatch.setattr("cdc_bridge.server.limits.REST", 0)
    ping = frame(9, b"x" * 122)
    assert limits.READ_BYTES % len(ping) == 0

    async def flood(hostile: Raw) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                hostile.writer.write(ping * 512)
                await hostile.writer.drain()

    async with (
        stub_server() as on,
        connect(on.url, proxy=None) as other,
        upgraded(on.port, receive_bytes=4096) as hostile,
    ):
        flooding = asyncio.create_task(flood(hostile))
        async with asyncio.timeout(WITHIN_S):
            is_over = False
            while not is_over:
                is_over = flooding.done()
                await other.send('{"type":"ping"}')
                assert await other.recv() == '{"type":"pong"}'
                await asyncio.sleep(0)


# --- what is idle ---


async def test_idle_connection_has_no_task() -> None:
    async with stub_server() as on, raw_subscribed(on), raw_subscribed(on):
        before = {asyncio.current_task()}
        async with asyncio.timeout(WITHIN_S):
            while asyncio.all_tasks() != before:  # noqa: ASYNC110 - nothing tells when a task has ended
                await asyncio.sleep(0)


async def test_server_that_ends_waits_for_what_is_being_done() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    async with stub_server(StubEngine(read)) as on, connect(on.url, proxy=None) as client:
        await client.send(ITEMS)
        await begun.wait()
        client.transport.abort()
    assert ended.is_set()


async def test_server_that_ends_waits_for_no_token_to_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def identify(token: str) -> Identity:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError(token)

    async with asyncio.timeout(WITHIN_S), stub_server() as on:
        monkeypatch.setattr(on.authenticator, "identify", identify)
        opening = asyncio.create_task(connect(f"{on.url}?access_token=x", proxy=None).__aenter__())
        await begun.wait()
    with pytest.raises((ConnectionError, EOFError, InvalidMessage)):
        await opening


# --- time ---


async def test_request_that_came_while_the_bridge_was_late_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPEN_TIMEOUT_S", 0.2)
    async with stub_server() as on, raw(on.port) as client, upgraded(on.port):  # so both are accepted
        await client.send(f"{UPGRADE}\r\n".encode())
        time.sleep(0.3)  # noqa: ASYNC251 - the loop does nothing else meanwhile
        assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")


async def test_time_in_which_a_token_is_judged_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPEN_TIMEOUT_S", 0.1)
    async with stub_server(auth_mode=AuthMode.STRICT) as on:

        async def identify(token: str) -> Identity:
            await asyncio.sleep(3 * limits.OPEN_TIMEOUT_S)
            return Identity(Principal("web", None, "{}"))

        monkeypatch.setattr(on.server.authenticator, "identify", identify)
        async with upgraded(on.port, path="/websocket?access_token=good"):
            pass


async def test_timer_calls_when_it_was_asked_last_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    timer, called = Timer(loop), asyncio.Queue[tuple[str, float]]()

    @dataclass(eq=False)
    class Asker:
        name: str
        tick: int = 0

        def time_is_up(self) -> None:
            called.put_nowait((self.name, loop.time()))

    now = loop.time()
    asked = {name: cast(Connection, Asker(name)) for name in ("late", "soon", "sooner", "never", "later")}
    due = {"late": now + 0.3, "soon": now + 0.1, "sooner": now + 0.05, "later": now + 0.2}
    for name in ("late", "soon", "never"):
        timer.set(asked[name], now + 0.1)
    for name, when_s in due.items():
        timer.set(asked[name], when_s)
    timer.forget(asked["never"])
    heard = [await called.get() for _ in due]
    assert [name for name, _ in heard] == ["sooner", "soon", "later", "late"]
    assert all(when_s >= due[name] - 0.002 for name, when_s in heard)
    await asyncio.sleep(0.05)
    assert called.empty()


# --- requests ---


@pytest.mark.parametrize("swallows", [False, True])
async def test_what_is_done_while_a_token_expires_is_not_told(swallows: bool) -> None:
    """Also when it is done in that very moment, so that the cancellation is lost."""
    begun: asyncio.Queue[None] = asyncio.Queue()
    reads = 0

    async def read() -> None:
        nonlocal reads
        reads += 1
        if reads == 1:
            begun.put_nowait(None)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise

    async with (
        stub_server(StubEngine(read), auth_mode=AuthMode.HANDSHAKE, auth_timeout_s=60) as on,
        connect(on.url, proxy=None) as client,
    ):
        ann = Principal("ann", None, "{}")
        on.authenticator.tokens = {"short": Identity(ann, time.time() + 1), "long": Identity(ann)}
        await client.send('{"type":"auth","access_token":"short"}')
        assert '"status":"ok"' in str(await client.recv())
        await client.send(ITEMS)
        await begun.get()
        for _ in range(2):
            assert "TOKEN_EXPIRED" in str(await client.recv())
        await client.send('{"type":"auth","access_token":"long"}')
        assert '"status":"ok"' in str(await client.recv())
        await client.send(ITEMS)
        assert '"data":[{"id":1}]' in str(await client.recv())
        assert on.engine.seen_as == [ann]


async def test_fault_of_ours_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    async def read() -> None:
        raise ZeroDivisionError

    async with stub_server(StubEngine(read)) as on, connect(on.url, proxy=None) as client:
        await client.send(ITEMS)
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["a request has failed"]


async def test_nothing_more_is_read_while_requests_wait() -> None:
    go_on = asyncio.Event()

    async def read() -> None:
        await go_on.wait()

    pings = frame(TEXT, b'{"type":"ping"}') * 1000
    async with stub_server(StubEngine(read)) as on, upgraded(on.port) as client:
        await client.send(frame(TEXT, ITEMS.encode()) * 2000)
        await client.send(pings)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.text()  # the pings are not answered, since they are not read
        go_on.set()
        assert (await client.text())["type"] == "items"


async def test_connection_that_ends_ends_its_subscriptions() -> None:
    async with stub_server() as on:
        async with raw_subscribed(on) as (connection, _, subscriber):
            pass
        async with asyncio.timeout(WITHIN_S):
            while not on.engine.ended:  # noqa: ASYNC110 - nothing tells when the server has noticed
                await asyncio.sleep(0.01)
        assert on.engine.ended == [subscriber]
        assert connection.count == 0


# --- HTTP ---


async def answer(port: int, request: bytes) -> tuple[bytes, bytes]:
    async with raw(port) as client:
        await client.send(request)
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        return head, body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("body", ["", "Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
async def test_other_methods_than_get_are_answered(method: str, body: str) -> None:
    async with stub_server() as on:
        for path in ("/websocket", "/healthz"):
            request = f"{method} {path} HTTP/1.1\r\nHost: a\r\n{body or chr(13) + chr(10)}".encode()
            head, text = await answer(on.port, request)
            assert head.startswith(b"HTTP/1.1 405 ")
            assert b"\r\nAllow: GET, HEAD" in head
            assert text


async def test_head_of_health_has_no_body() -> None:
    async with stub_server() as on:
        head, text = await answer(on.port, b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert text == b""


@pytest.mark.parametrize("compression", [False, True])
async def test_compression_is_offered_where_it_is_on(compression: bool) -> None:
    async with stub_server(compression=compression) as on, raw(on.port) as client:
        await client.send(f"{UPGRADE}{DEFLATE}\r\n".encode())
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head
        assert (b"permessage-deflate" in head) == compression


async def test_compressed_frames_are_paced_too() -> None:
    async with stub_server(compression=True) as on, connect(on.url, proxy=None) as client:
        await client.send(SUBSCRIBE.decode())
        _connection, subscriber = await on.engine.subscribed.get()
        for row in (b"1", b"2", b"3"):
            subscriber.push(created(row * 1000))
            assert row.decode() * 1000 in str(await client.recv())
