"""Clients over WebSocket: one task group a connection, with a reader, a sender, a server of requests and a pulse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from cdc_bridge import protocol
from cdc_bridge.broker.broker import Broker
from cdc_bridge.errors import RequestError
from cdc_bridge.protocol import CloseCode, ReadItems, Subscribe, Unsubscribe
from cdc_bridge.session import Abuse, Reply, Request, Session
from cdc_bridge.subscription import Uid, uid_text
from cdc_bridge.transport import guarded
from cdc_bridge.transport.guarded import GuardedConnection
from cdc_bridge.transport.http import WEBSOCKET_PATH, Door
from cdc_bridge.transport.outlet import SocketOutlet
from cdc_bridge.transport.tls import Certificate

log = logging.getLogger(__name__)

REQUESTS_MAX = 100
WAITING_BYTES_MAX = 4 * 1024 * 1024
"""Requests of one client that wait for their turn. Past either bound we stop reading from the client."""


@dataclass(frozen=True, slots=True)
class WebSocketOptions:
    """Limits of a connection, see the wire contract."""

    host: str = "127.0.0.1"
    port: int = 8765
    frame_bytes_max: int = 1024 * 1024
    backlog_bytes_max: int = 16 * 1024 * 1024
    messages_per_second_max: float = 0
    ping_interval_s: float = 30
    room_timeout_s: float = 30
    compression: bool = False


class WebSocketServer:
    """Serves `/websocket` to many clients, and answers HTTP beside it."""

    def __init__(
        self, broker: Broker, door: Door, options: WebSocketOptions, certificate: Certificate | None = None
    ) -> None:
        self._broker = broker
        self._door = door
        self._options = options
        self._certificate = certificate
        self._outlets: dict[SocketOutlet, None] = {}

    @asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        """Accept clients; the value is the URL. At the end every client is closed."""
        options = self._options
        async with serve(
            self._converse,
            options.host,
            options.port,
            create_connection=partial(GuardedConnection, self._door, self._certificate),  # type: ignore[arg-type]
            process_request=self._door.answer,
            select_subprotocol=_first_offered,
            compression="deflate" if options.compression else None,
            max_size=options.frame_bytes_max,
            ping_interval=None,  # the protocol has its own heartbeat
            open_timeout=guarded.OPEN_TIMEOUT_S,
            close_timeout=guarded.CLOSE_TIMEOUT_S,
            server_header=None,
        ) as server:
            yield _url(server, options.host, "wss" if self._certificate else "ws")

    async def say_goodbye(self) -> None:
        """Accept nobody any more, send everybody what waits for them, close, and wait until they are gone."""
        self._door.open = False
        for outlet in self._outlets:
            outlet.drain()
        while self._outlets:
            await asyncio.wait([outlet.gone for outlet in self._outlets])

    def abort(self) -> None:
        """Cut off whoever is still there."""
        self._door.turn_everybody_away()
        for outlet in self._outlets:
            outlet.abort()

    async def _converse(self, socket: ServerConnection) -> None:
        outlet = SocketOutlet(socket, self._options.backlog_bytes_max, self._options.room_timeout_s)
        conversation = _Conversation(self._broker, socket, outlet, self._options)
        self._outlets[outlet] = None
        if not self._door.open:
            outlet.drain()
        try:
            await conversation.run()
        finally:
            del self._outlets[outlet]
            outlet.gone.set_result(None)


class _Conversation:
    """One client, from its first frame to its last."""

    def __init__(
        self, broker: Broker, socket: ServerConnection, outlet: SocketOutlet, options: WebSocketOptions
    ) -> None:
        self._broker = broker
        self._socket = socket
        self._outlet = outlet
        self._session = Session(options.messages_per_second_max)
        self._ping_interval_s = options.ping_interval_s
        self._requests: asyncio.Queue[tuple[Request, int]] = asyncio.Queue(REQUESTS_MAX)
        self._line = asyncio.Condition()
        self._waiting_bytes = 0

    async def run(self) -> None:
        """Ends when the socket is closed, by whomever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive())
                tasks.create_task(self._outlet.send())
                tasks.create_task(self._outlet.close_when_asked())
                tasks.create_task(self._serve())
                tasks.create_task(self._pulse())
        except* ConnectionClosed:
            log.debug("a client has gone")
        finally:
            for follower in self._outlet.followers():
                self._broker.unsubscribe(follower)

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await self._socket.recv(decode=None)
            received = self._session.receive(frame, loop.time())
            match received:
                case Reply(frame):
                    self._outlet.reply(frame)
                case Abuse(reason):
                    self._outlet.close(CloseCode.POLICY_VIOLATION, reason)
                case None:
                    pass
                case _:
                    await self._wait_in_line(received, len(frame))

    async def _wait_in_line(self, request: Request, size_bytes: int) -> None:
        async with self._line:
            await self._line.wait_for(lambda: self._waiting_bytes <= WAITING_BYTES_MAX)
        self._waiting_bytes += size_bytes
        await self._requests.put((request, size_bytes))

    async def _serve(self) -> None:
        """Carry out requests in their order, away from the reader, so that a slow one stops no ping."""
        while True:
            request, size_bytes = await self._requests.get()
            await self._carry_out(request)
            async with self._line:
                self._waiting_bytes -= size_bytes
                self._line.notify()

    async def _carry_out(self, request: Request) -> None:
        match request:
            case Subscribe():
                await self._subscribe(request)
            case Unsubscribe():
                self._unsubscribe(request)
            case ReadItems():
                await self._read_items(request)
            case _:
                assert_never(request)

    async def _subscribe(self, request: Subscribe) -> None:
        self._end(request.uid)  # even when the new one fails, as in Directus
        try:
            await self._broker.subscribe(self._outlet, request)
        except RequestError as error:
            self._outlet.reply(protocol.error("subscribe", error, request.uid))

    def _unsubscribe(self, request: Unsubscribe) -> None:
        if request.uid is None:
            for follower in self._outlet.followers():
                self._broker.unsubscribe(follower)
        self._end(request.uid)
        self._outlet.reply(protocol.unsubscribed(request.uid))

    def _end(self, uid: Uid) -> None:
        """End the subscription of that uid, if there is one."""
        text = uid_text(uid)
        if text is not None and (follower := self._outlet.follower(text)):
            self._broker.unsubscribe(follower)

    async def _read_items(self, request: ReadItems) -> None:
        try:
            data = await self._broker.read_items(request)
        except RequestError as error:
            self._outlet.reply(protocol.error("items", error, request.uid))
        else:
            one = request.item is not None
            self._outlet.reply(protocol.items(data.rows, request.uid, one=one, more=data.more, meta=data.meta))

    async def _pulse(self) -> None:
        """Ping every period; close a client of which nothing was heard since the last ping."""
        while True:
            await asyncio.sleep(self._ping_interval_s)
            if not self._session.tick():
                return self._outlet.close(CloseCode.POLICY_VIOLATION, "no answer to a ping")
            self._outlet.reply(protocol.ping())


def _first_offered(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Directus takes the first one, and so do clients expect."""
    return offered[0] if offered else None


def _url(server: Server, host: str, scheme: str) -> str:
    port = next(iter(server.sockets)).getsockname()[1]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{WEBSOCKET_PATH}"
