"""The plain HTTP answers of the port that serves WebSockets: health, and refusals before the upgrade."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast
from urllib.parse import SplitResult, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from cdc_bridge.logs import facts
from cdc_bridge.server.addresses import counted, is_address, peer_of
from cdc_bridge.server.crowd import Crowd, Visitor

log = logging.getLogger(__name__)

WEBSOCKET_PATH = "/websocket"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_OWN_PORTS = {"http": 80, "https": 443}


@dataclass(slots=True)
class Door:
    """Who may come in. 0 means no limit.

    A visitor KNOCKS from the moment the connection is accepted, is INSIDE once its request may be upgraded, and is
    neither once the connection has ended. Those who knock say nothing for as long as they like, so there are
    `handshakes_max` of them at most: past it the one that has knocked longest gives way, from the address from which
    most do. An attacker displaces his own, and whoever sends a request at once has been heard long before.
    """

    connections_max: int
    connections_per_address_max: int
    allowed_origins: Sequence[str]
    not_ready: Callable[[], str | None]
    """Why the bridge is not ready, or None when it is."""

    loopback_only: bool = True
    """Whether the port is on a loopback address, where only this machine's names are anybody's host."""

    handshakes_max: int = 1000
    behind_proxy: bool = False
    """Whether a proxy says who the client is. Then all connections come from its address."""

    open: bool = True
    _knocking: Crowd = field(default_factory=Crowd)
    _inside: Crowd = field(default_factory=Crowd)

    def knock(self, visitor: Visitor, peer: str) -> None:
        """A connection was accepted."""
        address = counted(peer)
        self._knocking.add(visitor, address)
        for gives_way in self._too_many(address):
            self._knocking.remove(gives_way)
            gives_way.turn_away()

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response to a request that is not to be upgraded, else None, and the connection is inside."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "alive\n")
        if path == "/readyz":
            reason = self.not_ready()
            status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
            return connection.respond(status, f"{reason or 'ready'}\n")
        if path != WEBSOCKET_PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, "nothing here\n")
        if refusal := self._refusal(connection, request.headers):
            return connection.respond(*refusal)
        return None

    def leave(self, visitor: Visitor) -> None:
        """The connection has ended, wherever it was."""
        self._knocking.remove(visitor)
        self._inside.remove(visitor)

    def turn_everybody_away(self) -> None:
        """Wait for no request any more."""
        for visitor in self._knocking:
            visitor.turn_away()

    def _refusal(self, connection: ServerConnection, headers: Headers) -> tuple[HTTPStatus, str] | None:
        if not self.open:
            return HTTPStatus.SERVICE_UNAVAILABLE, "shutting down\n"
        if len(headers.get_all("Host")) > 1:
            return HTTPStatus.BAD_REQUEST, "more than one Host\n"
        if not self._is_allowed_origin(headers):
            origin, host = (", ".join(headers.get_all(name)) for name in ("Origin", "Host"))
            log.debug("a web page of another origin was turned away", extra=facts(origin=origin, host=host))
            return HTTPStatus.FORBIDDEN, "this origin is not allowed\n"
        if self.connections_max and len(self._inside) >= self.connections_max:
            return HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n"
        address = counted(self._client_of(connection, headers))
        if self.connections_per_address_max and self._inside.count(address) >= self.connections_per_address_max:
            return HTTPStatus.TOO_MANY_REQUESTS, "too many connections from this address\n"
        self._let_in(connection, address)
        return None

    def _let_in(self, connection: ServerConnection, address: str) -> None:
        """Counted before the upgrade, or many that are upgraded at the same time would all find room."""
        visitor = cast("Visitor", connection)
        self._knocking.remove(visitor)
        self._inside.add(visitor, address)

    def _too_many(self, address: str) -> Iterator[Visitor]:
        """Those who have to give way for the one that knocks."""
        each_max = 0 if self.behind_proxy else self.connections_per_address_max
        if each_max and self._knocking.count(address) > each_max:
            yield self._knocking.first(address)
        if self.handshakes_max and len(self._knocking) > self.handshakes_max:
            yield self._knocking.first()

    def _client_of(self, connection: ServerConnection, headers: Headers) -> str:
        """Whose connection this is. What the last proxy has added is true; what stands before it may be a lie."""
        if self.behind_proxy and (forwarded := headers.get_all("X-Forwarded-For")):
            client = forwarded[-1].rpartition(",")[2].strip()
            if is_address(client):
                return client
        return peer_of(connection.transport)

    def _is_allowed_origin(self, headers: Headers) -> bool:
        """No Origin (not a browser), one on the list, or, where there is no list, a page from the host that was asked.

        Any web page can open a socket to a port of the reader's own machine; this is what stops it. A page can also
        let its own name resolve to 127.0.0.1, so on loopback a name does not count as this host. Pages of this very
        machine are let in from any port: one that serves an application is hardly ever ours.
        """
        origins = headers.get_all("Origin")
        if len(origins) != 1 or self.allowed_origins:
            return not origins or (len(origins) == 1 and origins[0] in self.allowed_origins)
        page = _parts(origins[0])
        asked = _parts(f"{page.scheme}://{headers.get('Host', '')}")
        if {page.hostname, asked.hostname} <= LOOPBACK:
            return True
        return not self.loopback_only and _place(page) is not None and _place(page) == _place(asked)


_NOWHERE = SplitResult("", "", "", "", "")


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return _NOWHERE


def _place(url: SplitResult) -> tuple[str, int] | None:
    """Host and port, the scheme's own one where none is named."""
    try:
        port = url.port or _OWN_PORTS.get(url.scheme)
    except ValueError:
        return None
    return (url.hostname, port) if url.hostname and port else None
