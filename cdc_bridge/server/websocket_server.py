"""The connections of the port: their upgrade, what all of them share, and how they end together.

A server that ends is *draining* first: it is not ready, upgrades no request, and closes its connections one after the
other, so that clients come back to other bridges, or to the next one, over some seconds and not all at once. Each is
told after what pause (`frames.come_again`). Whoever has not been closed yet is served as ever.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from websockets.extensions.permessage_deflate import enable_server_permessage_deflate
from websockets.protocol import CONNECTING, OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from cdc_bridge.access.auth_state import AuthMode, AuthState, Identity, Moment
from cdc_bridge.access.authenticator import Authenticator
from cdc_bridge.model.frames import CloseCode, come_again
from cdc_bridge.server import framing, limits
from cdc_bridge.server.client_session import ClientSession, Engine
from cdc_bridge.server.connection import Connection
from cdc_bridge.server.framing import Framing
from cdc_bridge.server.handshake import Handshake
from cdc_bridge.server.http import WEBSOCKET_PATH, RequestPolicy
from cdc_bridge.server.listener import Certificate, Listener
from cdc_bridge.server.traffic import Traffic

RETRY_MS_MAX = 1000
"""The longest pause after which a client that is closed by a drain is asked to come back."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits of a connection, see the wire contract.

    `drain_s`: the time over which a drain closes its connections; 0 for all at once. `shutdown_timeout_s`: the time in
    which each of them is sent what waits for it.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    frame_bytes_max: int = 1024 * 1024
    backlog_bytes_max: int = 16 * 1024 * 1024
    messages_per_second_max: float = 0
    ping_interval_s: float = 25
    room_timeout_s: float = 30
    compression: bool = False
    auth_mode: AuthMode = AuthMode.PUBLIC
    auth_timeout_s: float = 10
    drain_s: float = 0
    shutdown_timeout_s: float = 3


class Timer:
    """Calls connections when they asked for it, in steps of `STEP_S`. One handle of the loop serves all of them."""

    STEP_S = 0.02

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, set[Connection]] = {}
        self._ticks: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._next_tick = 0

    def set(self, connection: Connection, when_s: float) -> None:
        """Call `time_is_up` then, and not at the time that was set before."""
        self.forget(connection)
        tick = ceil(when_s / self.STEP_S)
        connection.tick = tick
        if tick not in self._due:
            self._due[tick] = set()
            heapq.heappush(self._ticks, tick)
            self._wait()
        self._due[tick].add(connection)

    def forget(self, connection: Connection) -> None:
        if connection.tick in self._due:
            self._due[connection.tick].discard(connection)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _wait(self) -> None:
        if self._ticks and (self._handle is None or self._ticks[0] < self._next_tick):
            self.stop()
            self._next_tick = self._ticks[0]
            self._handle = self._loop.call_at(self._next_tick * self.STEP_S, self._go_off)

    def _go_off(self) -> None:
        self._handle = None
        now = floor(self._loop.time() / self.STEP_S + 0.01)  # loops may wake up a moment too early
        while self._ticks and self._ticks[0] <= now:
            for connection in self._due.pop(heapq.heappop(self._ticks)):
                connection.time_is_up()
        self._wait()


class WebSocketServer:
    """Serves `/websocket` to many clients, and answers HTTP beside it."""

    def __init__(
        self,
        engine: Engine,
        request_policy: RequestPolicy,
        authenticator: Authenticator,
        options: ServerOptions,
        certificate: Certificate | None = None,
    ) -> None:
        self.engine = engine
        self.request_policy = request_policy
        self.limits = request_policy.limits
        self.authenticator = authenticator
        self.options = options
        self.timer: Timer
        self.shared_buffer = bytearray(limits.READ_BYTES)
        self.traffic = Traffic()
        self._loop: asyncio.AbstractEventLoop
        self._certificate = certificate
        self._extensions = enable_server_permessage_deflate(None) if options.compression else ()
        self._anonymous = authenticator.anonymous
        self.answering: set[Handshake] = set()
        """Handshakes that are admitted, and not upgraded yet."""
        self.describing: set[Handshake] = set()
        """Handshakes that ask for the AsyncAPI document, until they have it."""
        self._connections: dict[Connection, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._one_left = asyncio.Event()
        self._spare: Framing | None = None
        self._payload = b""
        self._framed = b""

    # --- from start to stop ---

    @asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        """Accept clients; the value is the URL. At the end every client is closed."""
        self._loop = asyncio.get_running_loop()
        self.timer = Timer(self._loop)
        listener = Listener(self.limits, self._certificate, lambda: Handshake(self), self.start)
        port = await listener.listen(self.options.host, self.options.port)
        try:
            yield self._url(port)
        finally:
            listener.close()
            self.abort()
            await self._wait_until_empty()
            self.timer.stop()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def drain(self) -> None:
        """Upgrade no more requests, close the connections over `drain_s`, and wait until all are gone.

        The first one is closed at once. What waits for a connection is sent before.
        """
        self.request_policy.is_open = False
        ends_s = self._loop.time() + self.options.drain_s
        left = deque(self._connections)
        while left:
            connection = left.popleft()
            if connection in self._connections:
                self._let_go(connection)
                await asyncio.sleep((ends_s - self._loop.time()) / (len(left) + 1) if left else 0)
        await self._wait_until_empty()

    def _let_go(self, connection: Connection) -> None:
        connection.drain(CloseCode.SERVICE_RESTART, _come_again(), self.options.shutdown_timeout_s)

    def abort(self) -> None:
        """Cut off the connections that are left. What waits for them is lost to them, until they resume."""
        self.request_policy.is_open = False
        self.limits.turn_all_away()
        for connection in list(self._connections):
            connection.close(CloseCode.SERVICE_RESTART, _come_again())
        for admitted in [*self.answering, *self._connections]:
            admitted.turn_away()

    async def _wait_until_empty(self) -> None:
        while self._connections:
            self._one_left.clear()
            await self._one_left.wait()

    def _url(self, port: int) -> str:
        host, scheme = self.options.host, "wss" if self._certificate else "ws"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{WEBSOCKET_PATH}"

    # --- connections ---

    def new_protocol(self) -> ServerProtocol:
        """Return a protocol that expects a request."""
        return framing.new_protocol(
            self.options.frame_bytes_max,
            state=CONNECTING,
            extensions=self._extensions,
            select_subprotocol=_first_offered,
        )

    def upgrade(
        self,
        transport: asyncio.Transport,
        protocol: ServerProtocol,
        address: str,
        identity: Identity | None,
        behind: bytearray | None,
        *,
        is_paced: bool,
    ) -> None:
        """Make a connection of a request that has been answered."""
        options = self.options
        own = Framing(protocol) if protocol.extensions else None
        connection = Connection(self, transport, address, own, is_paced=is_paced)
        auth_state = AuthState(options.auth_mode, options.auth_timeout_s, self._anonymous, self.now(), identity)
        self._connections[connection] = None
        connection.begin(ClientSession(self, connection, auth_state), behind)
        if not self.request_policy.is_open:
            self._let_go(connection)

    def forget(self, connection: Connection, address: str) -> None:
        """Count out a connection that has ended."""
        self.limits.depart(address)
        self.timer.forget(connection)
        del self._connections[connection]
        self._one_left.set()

    # --- what connections share ---

    @property
    def is_encrypted(self) -> bool:
        return self._certificate is not None

    def now(self) -> Moment:
        return Moment(self._loop.time(), time.time())

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it beside everything else. The end of the server waits for it."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def text_and_ping(self, payload: bytes) -> bytes:
        """Return the frame of this payload. Equal subscribers are sent the same payload one after the other."""
        if payload is not self._payload:
            self._payload, self._framed = payload, framing.text_and_ping(payload)
        return self._framed

    def borrow_framing(self) -> Framing:
        found, self._spare = self._spare, None
        return found or Framing(framing.new_protocol(self.options.frame_bytes_max, state=OPEN))

    def give_back(self, clean: Framing) -> None:
        self._spare = clean


def _come_again() -> str:
    """Return the reason of a close, with another pause for each client."""
    return come_again(random.randrange(RETRY_MS_MAX + 1))  # noqa: S311 - no secret


def _first_offered(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Return the first one, as Directus does."""
    return offered[0] if offered else None
