"""The plain HTTP answers of the port that serves WebSockets: health, and refusals before the upgrade."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

WEBSOCKET_PATH = "/websocket"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(slots=True)
class Door:
    """Who may come in. 0 means no limit."""

    connections_max: int
    connections_per_address_max: int
    allowed_origins: Sequence[str]
    not_ready: Callable[[], str | None]
    """Why the bridge is not ready, or None when it is."""

    loopback_only: bool = True
    """Whether the port is on a loopback address, where only this machine's names are anybody's host."""

    open: bool = True
    _by_address: Counter[str] = field(default_factory=Counter)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response to a request that is not to be upgraded, else None."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "alive\n")
        if path == "/readyz":
            reason = self.not_ready()
            status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
            return connection.respond(status, f"{reason or 'ready'}\n")
        if path != WEBSOCKET_PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, "nothing here\n")
        if not self.open:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "shutting down\n")
        if not self._is_allowed_origin(request):
            return connection.respond(HTTPStatus.FORBIDDEN, "this origin is not allowed\n")
        if self.connections_max and self._by_address.total() >= self.connections_max:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        address = address_of(connection)
        if self.connections_per_address_max and self._by_address[address] >= self.connections_per_address_max:
            return connection.respond(HTTPStatus.TOO_MANY_REQUESTS, "too many connections from this address\n")
        return None

    def enter(self, connection: ServerConnection) -> None:
        self._by_address[address_of(connection)] += 1

    def leave(self, connection: ServerConnection) -> None:
        address = address_of(connection)
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _is_allowed_origin(self, request: Request) -> bool:
        """No Origin (not a browser), one on the list, or a page from the host that was asked.

        Any web page can open a socket to a port of the reader's own machine; this is what stops it. A page can also
        let its own name resolve to 127.0.0.1, so on loopback a name does not count as this host.
        """
        origin = request.headers.get("Origin")
        if origin is None or origin in self.allowed_origins:
            return True
        page = _hostname(origin)
        asked = _hostname(f"//{request.headers.get('Host', '')}")
        if self.loopback_only:
            return page in LOOPBACK and asked in LOOPBACK
        return page is not None and (page == asked or {page, asked} <= LOOPBACK)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(connection: ServerConnection) -> str:
    """The peer's address as it is seen here."""
    peer = connection.remote_address
    return str(peer[0]) if isinstance(peer, tuple) else "local"
