"""Clients over WebSocket: who is let in, and the conversations of those who are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qs
from weakref import WeakKeyDictionary

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from cdc_bridge.access.auth_state import AuthMode, AuthState, Identity
from cdc_bridge.access.authenticator import Authenticator
from cdc_bridge.engine.broker import Broker
from cdc_bridge.model.errors import RequestError
from cdc_bridge.server import guarded
from cdc_bridge.server.conversation import Conversation, now
from cdc_bridge.server.guarded import GuardedConnection
from cdc_bridge.server.http import WEBSOCKET_PATH, Door
from cdc_bridge.server.outlet import SocketOutlet
from cdc_bridge.server.session import Session
from cdc_bridge.server.tls import Certificate


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
    auth_mode: AuthMode = AuthMode.PUBLIC
    auth_timeout_s: float = 10


class WebSocketServer:
    """Serves `/websocket` to many clients, and answers HTTP beside it."""

    def __init__(
        self,
        broker: Broker,
        door: Door,
        authenticator: Authenticator,
        options: WebSocketOptions,
        certificate: Certificate | None = None,
    ) -> None:
        self._broker = broker
        self._door = door
        self._authenticator = authenticator
        self._options = options
        self._certificate = certificate
        self._outlets: dict[SocketOutlet, None] = {}
        self._identities: WeakKeyDictionary[ServerConnection, Identity] = WeakKeyDictionary()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        """Accept clients; the value is the URL. At the end every client is closed."""
        options = self._options
        async with serve(
            self._converse,
            options.host,
            options.port,
            create_connection=partial(GuardedConnection, self._door, self._certificate),  # type: ignore[arg-type]
            process_request=self._answer,
            logger=_discreet_logger(),
            select_subprotocol=_first_offered,
            compression="deflate" if options.compression else None,
            max_size=options.frame_bytes_max,
            ping_interval=None,  # the protocol has its own heartbeat
            backlog=guarded.ACCEPTED_AT_ONCE,
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
        conversation = self._conversation(socket, outlet)
        self._outlets[outlet] = None
        if not self._door.open:
            outlet.drain()
        try:
            await conversation.run()
        finally:
            del self._outlets[outlet]
            outlet.gone.set_result(None)

    def _conversation(self, socket: ServerConnection, outlet: SocketOutlet) -> Conversation:
        options, authenticator = self._options, self._authenticator
        identity = self._identities.pop(socket, None)
        return Conversation(
            self._broker,
            socket,
            outlet,
            session=Session(options.messages_per_second_max),
            auth_state=AuthState(options.auth_mode, options.auth_timeout_s, authenticator.anonymous, now(), identity),
            identify=authenticator.identify,
            ping_interval_s=options.ping_interval_s,
        )

    async def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response to a request that is not to be upgraded, else None."""
        if refusal := self._door.answer(connection, request):
            return refusal
        tokens = parse_qs(request.path.partition("?")[2], keep_blank_values=True).get("access_token", [])
        if not tokens and self._options.auth_mode is not AuthMode.STRICT:
            return None
        try:
            self._identities[connection] = await self._authenticator.identify(tokens[-1] if tokens else "")
        except RequestError:
            return _unauthorized(connection)
        return None


def _unauthorized(connection: ServerConnection) -> Response:
    response = connection.respond(HTTPStatus.UNAUTHORIZED, "a good token is needed, as ?access_token=\n")
    response.headers["WWW-Authenticate"] = "Bearer"  # HTTP wants some
    return response


def _discreet_logger() -> logging.Logger:
    """For websockets, which would tell of each request's address and of each frame, and there the tokens are."""
    discreet = logging.getLogger(f"{__name__}.library")
    discreet.setLevel(logging.WARNING)
    return discreet


def _first_offered(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Directus takes the first one, and so do clients expect."""
    return offered[0] if offered else None


def _url(server: Server, host: str, scheme: str) -> str:
    port = next(iter(server.sockets)).getsockname()[1]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{WEBSOCKET_PATH}"
