"""An attacker's suite: what may hurt before anybody asks who it is.

Each attack ends as it should, in bounded memory, and meanwhile somebody else on the same bridge is told everything.

Times are bounds that only what hangs exceeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.rawclient import (
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PING,
    TEXT,
    UPGRADE,
    WITHIN_S,
    Raw,
    frame,
    raw,
    upgraded,
)
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once  # nothing here depends on the server's version

MIB = 1024 * 1024
PIECE = bytes(64 * 1024)


@dataclass
class Stage:
    """A bridge, somebody who behaves, and the table that he follows."""

    bridge: RunningBridge
    good: Client
    database: Database
    _last: int = 0

    @property
    def port(self) -> int:
        return int(self.bridge.http.rpartition(":")[2])

    async def during(self, attack: Awaitable[Any], changes: int = 5) -> Any:
        """What the attack ends in. While it lasts, and for so many changes at least, they arrive one by one."""
        attacking = asyncio.ensure_future(attack)
        begun = self._last
        while not attacking.done() or self._last < begun + changes:
            await self.change()
        return await attacking

    async def change(self) -> None:
        self._last += 1
        await asyncio.to_thread(self.database.execute, "INSERT INTO t (id) VALUES (%s)", [self._last])
        await self.good.expect(event="create", data=[{"id": self._last}], timeout=WITHIN_S)


@asynccontextmanager
async def stage(database: Database, **options: Any) -> AsyncIterator[Stage]:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    attach(database, "t")
    async with running_bridge(database.dsn, **options) as bridge, connected(bridge.url) as good:
        await good.send({"type": "subscribe", "collection": "t", "query": {"fields": ["id"]}})
        await good.expect(event="init", data=[])
        yield Stage(bridge, good, database)


@pytest.fixture(autouse=True)
def _nothing_is_logged_as_our_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Who can fill a log with tracebacks fills a disk."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


@pytest.fixture(autouse=True)
def _ends_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.server.limits.CLOSE_TIMEOUT_S", 0.2)


# --- before the upgrade ---


async def test_connections_that_say_nothing_give_way(database: Database) -> None:
    async with stage(database, handshakes_max=20) as on, contextlib.AsyncExitStack() as open_:

        async def open_many() -> list[Raw]:
            return [await open_.enter_async_context(raw(on.port)) for _ in range(300)]

        silent = await on.during(open_many())
        assert [await one.rest() for one in silent[:-20]] == [b""] * 280  # the end has come
        assert not any(one.reader.at_eof() for one in silent[-20:])
        async with connected(on.bridge.url) as another:
            await another.send({"type": "ping"})
            await another.expect(type="pong")


async def test_one_address_has_few_connections_that_say_nothing(database: Database) -> None:
    async with stage(database, connections_per_address_max=2) as on, raw(on.port) as first, raw(on.port), raw(on.port):
        assert await on.during(first.rest()) == b""
        async with connected(on.bridge.url) as another:
            await another.send({"type": "ping"})
            await another.expect(type="pong")


async def test_request_that_comes_byte_by_byte_is_not_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_bridge.server.limits.OPEN_TIMEOUT_S", 0.3)
    async with stage(database) as on, raw(on.port) as slow:

        async def trickle() -> None:
            for byte in UPGRADE.encode() * 1000:
                await slow.send(bytes([byte]))
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert await on.during(slow.rest()) == b""
        trickling.cancel()


REFUSED = [
    (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b" 414 "),
    (b"GET /" + b"x" * 10_000_000, b" 414 "),
    (b"GET /websocket HTTP/1.1\r\nCookie: " + b"x" * 9000 + b"\r\n\r\n", b" 431 "),
    (b"GET /websocket HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b" 431 "),
    (b"GET /websocket HTTP/1.1\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 100 + b"\r\n", b" 431 "),
    (b"POST /websocket HTTP/1.1\r\nHost: a\r\n\r\n", b" 405 "),
    (b"GET /websocket HTTP/1.0\r\nHost: a\r\n\r\n", b" 505 "),
    (b"GET /websocket HTTP/1.1\r\nHost: a\r\n\r\n", b" 426 "),
    (UPGRADE.replace("13", "12").encode() + b"\r\n", b" 400 "),
    (UPGRADE.encode() + b"Host: b\r\n\r\n", b" 400 "),
    (UPGRADE.encode() + b"Origin: null\r\n\r\n", b" 403 "),
    (UPGRADE.encode() + b"Sec-WebSocket-Key: BBBBBBBBBBBBBBBBBBBBBB==\r\n\r\n", b" 400 "),
    (b"GET http://127.0.0.1/websocket HTTP/1.1\r\n\r\n", b" 404 "),
    (b"GET //websocket/../readyz HTTP/1.1\r\n\r\n", b" 404 "),
    (b"GET /websocket%2f HTTP/1.1\r\n\r\n", b" 404 "),
]


async def test_request_that_is_none_of_ours_is_refused(database: Database) -> None:
    async with stage(database) as on:

        async def ask(request: bytes) -> bytes:
            async with raw(on.port) as stranger:
                sending = asyncio.create_task(stranger.send(request))
                answer = await stranger.rest()
                await sending
                return answer.partition(b"\r\n")[0]

        for request, status in REFUSED:
            assert status in await on.during(ask(request), changes=1), request[:100]


JUNK = [
    os.urandom(5000),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(508),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /websocket\r\n\r\n",
    b"GET /healthz HTTP/1.1\nHost: a\n\n",
    b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nA: \x00\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    UPGRADE.encode() + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    UPGRADE.encode() + b"Content-Length: 5\r\n\r\nhello",
    UPGRADE.encode() + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
]


async def test_what_is_no_request_gets_no_answer(database: Database) -> None:
    async with stage(database) as on:
        for junk in JUNK:
            async with raw(on.port) as stranger:
                await stranger.send(junk)
                assert await on.during(stranger.rest(), changes=1) == b"", junk[:100]


async def test_second_request_behind_the_first_is_not_answered(database: Database) -> None:
    async with stage(database) as on, raw(on.port) as stranger:
        await stranger.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert (await on.during(stranger.rest(), changes=1)).count(b"HTTP/1.1") == 1


async def test_frames_that_come_right_behind_the_request_wait_for_its_answer(database: Database) -> None:
    request = f"{UPGRADE}\r\n".encode() + frame(TEXT, b'{"type":"ping","uid":"early"}')
    async with stage(database) as on:
        for size in (len(request), 1, 7):
            async with raw(on.port) as client:
                for at in range(0, len(request), size):
                    await client.send(request[at : at + size])
                assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
                assert await client.text() == {"type": "pong", "uid": "early"}


async def test_much_behind_a_request_is_not_kept(database: Database) -> None:
    """What is answered without an upgrade is read no further."""
    async with stage(database) as on, raw(on.port) as stranger:
        tracemalloc.start()
        sending = asyncio.create_task(_sent_piece_by_piece(stranger, b"GET /healthz HTTP/1.1\r\n\r\n", 20 * MIB))
        answer = await on.during(stranger.rest(), changes=1)
        await sending
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert b" 200 " in answer.partition(b"\r\n")[0]
        assert peak_bytes < 4 * MIB  # those of the sender included


async def _sent_piece_by_piece(stranger: Raw, first: bytes, more_bytes: int) -> None:
    """As much as is read; the sender itself keeps little."""
    await stranger.send(first)
    for _ in range(more_bytes // len(PIECE)):
        await stranger.send(PIECE)


# --- frames ---


CLOSED = [
    (b"\x81\xff" + (2**40).to_bytes(8) + b"\0\0\0\0", 1009),
    (b"\x81\xff" + (2**64 - 1).to_bytes(8) + b"\0\0\0\0", 1009),
    (frame(TEXT, b"x" * (MIB + 1)), 1009),
    (frame(TEXT, b"x" * MIB, fin=False) + frame(CONTINUATION, b"x"), 1009),
    (frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * 1000, fin=False) * 2000, 1009),
    (frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 10_000, 1009),
    (frame(TEXT, b"\xff\xfe"), 1007),
    (frame(TEXT, b'{"type":"ping","uid":"\xed\xa0\x80"}'), 1007),
    (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\x28"), 1007),
    (frame(CONTINUATION, b"x"), 1002),
    (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    (frame(3, b"x"), 1002),
    (frame(TEXT, b"x", compressed=True), 1002),
    (frame(PING, b"x" * 126), 1002),
    (b"\x81\x02{}", 1002),  # not masked
]


async def test_frame_that_is_too_much_or_none_closes_with_its_code(database: Database) -> None:
    async with stage(database) as on:

        async def attack(data: bytes) -> int | None:
            async with upgraded(on.port) as hostile:
                sending = asyncio.create_task(hostile.send(data))
                code = await hostile.close_code()
                await sending
                return code

        for data, code in CLOSED:
            assert await on.during(attack(data), changes=1) == code, data[:20]


async def test_message_in_pieces_with_pings_between_them_is_understood(database: Database) -> None:
    async with stage(database) as on, upgraded(on.port) as client:
        first, *pieces, last = (bytes([byte]) for byte in b'{"type":"ping","uid":"p"}')
        await client.send(frame(TEXT, first, fin=False))
        for piece in pieces:
            await client.send(frame(PING, b"?") + frame(CONTINUATION, piece, fin=False))
        await client.send(frame(CONTINUATION, last))
        assert await client.text() == {"type": "pong", "uid": "p"}


async def test_message_that_explodes_is_not_unpacked(database: Database) -> None:
    """64 MiB of zeros come as 64 KiB, in one frame or in small ones."""
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(64 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
    pieces = [bomb[at : at + 900] for at in range(0, len(bomb), 900)]
    begin, *others = pieces
    in_pieces = frame(TEXT, begin, fin=False, compressed=True)
    in_pieces += b"".join(frame(CONTINUATION, piece, fin=False) for piece in others)
    async with stage(database, compression=True) as on:
        for data in (frame(TEXT, bomb[:-4], compressed=True), in_pieces):
            async with upgraded(on.port, DEFLATE) as hostile:
                tracemalloc.start()
                await hostile.send(data)
                code = await on.during(hostile.close_code(), changes=1)
                _, peak_bytes = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert code == 1009
                assert peak_bytes < 8 * MIB


# --- too much of what is allowed ---


async def test_flood_of_pings_is_answered_and_slows_nobody(database: Database) -> None:
    count = 20_000
    async with stage(database) as on, upgraded(on.port) as hostile:

        async def flood() -> int:
            sending = asyncio.create_task(hostile.send(frame(PING) * count + frame(CLOSE)))
            answers = [opcode async for opcode, _ in hostile.frames()]
            await sending
            return len(answers)

        assert await on.during(flood()) == count + 1


async def test_flood_of_pings_of_which_no_answer_is_read_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are not kept for it: they are sent, or the connection ends."""
    monkeypatch.setattr("cdc_bridge.server.limits.REST", 0)  # or it takes long to get there
    block = frame(PING, b"x" * 125) * 500
    async with stage(database) as on, upgraded(on.port, receive_bytes=4096) as hostile:

        async def flood() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    hostile.writer.write(block)
                    await hostile.writer.drain()

        tracemalloc.start()
        async with asyncio.timeout(WITHIN_S):
            await on.during(flood())
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 8 * MIB


async def test_storm_of_subscriptions_that_come_and_go_slows_nobody(database: Database) -> None:
    rounds = 500
    subscribe = {"type": "subscribe", "collection": "t", "uid": "s", "event": "create"}
    storm = frame(TEXT, json.dumps(subscribe).encode()) + frame(TEXT, b'{"type":"unsubscribe","uid":"s"}')
    async with stage(database) as on, upgraded(on.port) as hostile:

        async def rage() -> list[str]:
            sending = asyncio.create_task(hostile.send(storm * rounds + frame(TEXT, b'{"type":"unsubscribe"}')))
            said: list[str] = []
            async for opcode, payload in hostile.frames():
                if opcode == PING:
                    await hostile.send(frame(10, payload))
                elif opcode == TEXT and (message := json.loads(payload))["type"] == "subscription":
                    said.append(message["event"])
                    if message["event"] == "unsubscribe" and "uid" not in message:
                        break
            await sending
            return said

        said = await on.during(rage())
        assert said.count("unsubscribe") == rounds + 1


async def test_storm_of_messages_past_the_rate_is_dropped_and_then_closed(database: Database) -> None:
    async with (
        stage(database, messages_per_second_max=50) as on,
        upgraded(on.port) as hostile,
    ):
        sending = asyncio.create_task(hostile.send(frame(TEXT, b'{"type":"ping"}') * 5000))
        assert await on.during(hostile.close_code()) == 1008
        await sending


async def test_client_that_never_reads_is_closed_and_slows_nobody(database: Database) -> None:
    async with (
        stage(database, backlog_bytes_max=MIB) as on,
        upgraded(on.port, receive_bytes=4096) as deaf,
    ):
        subscribe = {"type": "subscribe", "collection": "t", "uid": "s"}
        await deaf.send(frame(TEXT, json.dumps(subscribe).encode()))
        await deaf.reader.readexactly(10)  # it is subscribed; nothing more is read

        await on.change()
        for letter in "abcdefghijkl":
            await asyncio.to_thread(on.database.execute, "UPDATE t SET v = repeat(%s, 900000)", [letter])
            await on.good.expect(event="update", data=[{"id": 1}], timeout=WITHIN_S)
        assert len(await on.during(deaf.rest())) < 12 * 900_000


async def test_frame_that_never_ends_is_not_a_sign_of_life(database: Database) -> None:
    async with stage(database, ping_interval_s=0.3) as on, upgraded(on.port) as slow:

        async def trickle() -> None:
            await slow.send(frame(TEXT, b"x" * 1000)[:8])
            while True:
                await slow.send(b"x")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await on.during(slow.close_code()) == 1008
        trickling.cancel()


async def test_message_that_comes_byte_by_byte_is_understood(database: Database) -> None:
    async with stage(database) as on, upgraded(on.port) as slow:

        async def ask() -> Any:
            for byte in frame(TEXT, b'{"type":"ping","uid":7}'):
                await slow.send(bytes([byte]))
            return await slow.text()

        assert await on.during(ask(), changes=1) == {"type": "pong", "uid": 7}
