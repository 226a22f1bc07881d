"""Answers to plain HTTP: health, refusals before the upgrade, and the upgrade itself."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import SplitResult, parse_qs, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from cdc_bridge.access.auth_state import AuthMode, Identity
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import RequestError
from cdc_bridge.server import limits
from cdc_bridge.server.limits import BoundedReader, ConnectionLimits, counted, is_address, is_loopback, peer_of
from cdc_bridge.server.pages import Page

if TYPE_CHECKING:
    from cdc_bridge.server.websocket_server import WebSocketServer

log = logging.getLogger(__name__)

WEBSOCKET_PATH = "/websocket"
METRICS_PATH = "/metrics"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BLANK_LINE = b"\r\n\r\n"

NO_HEADERS: Mapping[str, str] = {}

Answer = tuple[HTTPStatus, str]

_OWN_PORTS = {"http": 80, "https": 443}
_OTHER_METHOD = re.compile(rb"(?!GET |HEAD )[A-Z]{1,20} \S+ HTTP/1\.[01]\r\n")
_FIRST_LINE_BYTES_MAX = 8192


@dataclass(slots=True)
class RequestPolicy:
    """Decides which requests may become WebSockets, and answers the others."""

    limits: ConnectionLimits
    allowed_origins: Sequence[str]
    reasons: Callable[[], Sequence[str]]
    """Return why the bridge is not ready; nothing when it is."""

    loopback_only: bool = True
    """Whether the port is on a loopback address, where a host has to be one of this machine's own names."""

    details: Callable[[], Mapping[str, object]] = dict
    """Return what else `/readyz?verbose` says: no data of rows, no secrets."""

    inner_details: Callable[[], Mapping[str, object]] = dict
    """Return what it says besides to those who may see metrics, since it names what clients follow."""

    is_open: bool = True
    """Whether requests are upgraded. A bridge that ends is not ready either."""

    pages: Mapping[str, Page] = field(default_factory=dict)
    """The files of the inspector by their paths; none where it is off."""

    metrics: Callable[[], str] = lambda: ""
    """Return the metrics as Prometheus reads them."""

    metrics_only: bool = False
    """Whether the port is for metrics, and is no way to a WebSocket. The bridge's own port shows them to this machine
    only.
    """

    def answer(self, request: Request, peer: str = "") -> Answer | None:
        """Return the answer to a request that may not be upgraded, else None. `peer` is the other end's address."""
        path, _, query = request.path.partition("?")
        if path == "/healthz":
            return HTTPStatus.OK, "alive\n"
        if path == "/readyz":
            is_trusted = self._may_see_metrics(request.headers, peer)
            return self._readiness(is_verbose=query == "verbose", is_trusted=is_trusted)
        if path == METRICS_PATH and self._may_see_metrics(request.headers, peer):
            return HTTPStatus.OK, self.metrics()
        if path != WEBSOCKET_PATH or self.metrics_only:
            return HTTPStatus.NOT_FOUND, "nothing here\n"
        if not self.is_open:
            return HTTPStatus.SERVICE_UNAVAILABLE, "shutting down\n"
        if len(request.headers.get_all("Host")) > 1:
            return HTTPStatus.BAD_REQUEST, "more than one Host\n"
        if not self._is_allowed_origin(request.headers):
            origin, host = (", ".join(request.headers.get_all(name)) for name in ("Origin", "Host"))
            log.debug("a web page of another origin was turned away", extra=facts(origin=origin, host=host))
            return HTTPStatus.FORBIDDEN, "this origin is not allowed\n"
        return None

    def not_ready(self) -> list[str]:
        """Return why the bridge is not ready, or will be no more."""
        return [*([] if self.is_open else ["shutting down"]), *self.reasons()]

    def _readiness(self, *, is_verbose: bool, is_trusted: bool) -> Answer:
        reasons = self.not_ready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        if not is_verbose:
            return status, f"{'; '.join(reasons) or 'ready'}\n"
        state = {
            "ready": not reasons,
            "reasons": reasons,
            "draining": not self.is_open,
            "connections": self.limits.admitted_count,
            **self.details(),
            **(self.inner_details() if is_trusted else {}),
        }
        return status, json.dumps(state, ensure_ascii=False, indent=2) + "\n"

    def page(self, request: Request) -> Page | None:
        """Return the page that is asked for, unless under the name of another host, or as a WebSocket."""
        found = self.pages.get(request.path.partition("?")[0])
        hosts = request.headers.get_all("Host")
        is_own = len(hosts) == 1 and not (self.loopback_only and _parts(f"//{hosts[0]}").hostname not in LOOPBACK)
        return found if is_own and "Upgrade" not in request.headers else None

    def _may_see_metrics(self, headers: Headers, peer: str) -> bool:
        """Whether a request comes from this machine, or the port is meant for others.

        What a proxy on this machine forwards does not come from it, and neither does what a web page asks for, whatever
        name it has for 127.0.0.1.
        """
        if self.metrics_only and not self.loopback_only:
            return True
        is_forwarded = self.limits.behind_proxy or "X-Forwarded-For" in headers or "Forwarded" in headers
        hosts = headers.get_all("Host")
        is_direct = len(hosts) == 1 and not is_forwarded and "Origin" not in headers
        return is_direct and is_loopback(counted(peer)) and _parts(f"http://{hosts[0]}").hostname in LOOPBACK

    def client_of(self, headers: Headers, peer: str) -> str:
        """Return the client's address: what the last proxy has added. What stands before that may be a lie."""
        if self.limits.behind_proxy and (forwarded := headers.get_all("X-Forwarded-For")):
            client = forwarded[-1].rpartition(",")[2].strip()
            if is_address(client):
                return client
        return peer

    def _is_allowed_origin(self, headers: Headers) -> bool:
        """Allow no Origin (not a browser), one on the list, or, without a list, a page of the host that was asked.

        Any web page can open a socket to a port of its reader's machine; this stops it. A page can also let its own
        name resolve to 127.0.0.1, so on loopback a name does not count as this host. Pages of this machine are
        allowed from any port: one that serves an application is hardly ever ours.
        """
        origins = headers.get_all("Origin")
        if len(origins) != 1 or self.allowed_origins:
            return not origins or (len(origins) == 1 and origins[0] in self.allowed_origins)
        page = _parts(origins[0])
        asked = _parts(f"{page.scheme}://{headers.get('Host', '')}")
        if {page.hostname, asked.hostname} <= LOOPBACK:
            return True
        return not self.loopback_only and _place(page) is not None and _place(page) == _place(asked)


class Handshake(BoundedReader):
    """One request of a new connection, until it is answered.

    Rule: what comes behind the request waits until that is answered. Then a `Connection` takes over, or the rest is
    thrown away and the connection ends.

    Bound: `OPEN_TIMEOUT_S` for the client to send its request. Policy: past it the connection is cut off. The time in
    which the client waits for us does not count: event loops read what has come before they look at the time, and a
    whole request has all the time that its answer takes.
    """

    __slots__ = (
        "_address",
        "_behind",
        "_ending",
        "_first_line",
        "_identifying",
        "_protocol",
        "_request_bytes",
        "_server",
        "_tail",
    )

    def __init__(self, server: WebSocketServer) -> None:
        super().__init__(server.shared_buffer)
        self._server = server
        self._protocol: ServerProtocol = server.new_protocol()
        self._first_line: bytes | None = b""
        self._tail = b""
        self._request_bytes = 0
        self._behind: bytearray | None = None
        self._identifying: asyncio.Task[None] | None = None
        self._address: str | None = None
        self._ending: asyncio.TimerHandle

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.limits.knock(self, peer_of(transport))
        self._ending = asyncio.get_running_loop().call_later(limits.OPEN_TIMEOUT_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._ending.cancel()
        self._server.limits.leave(self)
        if self._address is not None:
            self._server.limits.depart(self._address)
        if self._identifying is not None:
            self._identifying.cancel()
        self._server.identifying.discard(self)

    # --- limits ---

    @property
    def may_read(self) -> bool:
        return self._behind is None or len(self._behind) <= limits.REQUEST_BYTES_MAX

    def read_on(self) -> None:
        if not self._is_upgraded:
            super().read_on()

    # --- the request ---

    def received(self, data: bytearray) -> None:
        if self._protocol.eof_sent:
            return
        if self._behind is not None:
            self._behind += data
            return
        before = len(self._tail)
        joined = self._tail + data
        end = joined.find(BLANK_LINE)
        self._tail = joined[1 - len(BLANK_LINE) :]
        if end < 0:
            self._feed(data)
        else:
            rest = end + len(BLANK_LINE) - before
            self._behind = data[rest:]
            self._feed(data[:rest])

    @property
    def _is_upgraded(self) -> bool:
        return self._protocol.state is OPEN

    def _feed(self, data: bytearray) -> None:
        self._request_bytes += len(data)
        if self._is_of_another_method(data):
            self._respond((HTTPStatus.METHOD_NOT_ALLOWED, "only GET is understood here\n"), {"Allow": "GET, HEAD"})
            return
        self._protocol.receive_data(data)
        for request in self._protocol.events_received():
            self._answer(cast("Request", request))
        if self._request_bytes > limits.REQUEST_BYTES_MAX and not self._protocol.eof_sent:
            text = f"a request may have {limits.REQUEST_BYTES_MAX} bytes\n"
            self._respond((HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text))
        else:
            self._write_out()

    def _is_of_another_method(self, data: bytearray) -> bool:
        """Websockets gives no answer to a request with a body."""
        if self._first_line is None:
            return False
        self._first_line += data
        is_other = _OTHER_METHOD.match(self._first_line) is not None
        if b"\n" in data or len(self._first_line) > _FIRST_LINE_BYTES_MAX:
            self._first_line = None
        return is_other

    def _answer(self, request: Request) -> None:
        self._ending.cancel()
        if page := self._server.requests.page(request):
            self._respond((HTTPStatus.OK, page.text), page.headers, has_body=request.method != "HEAD")
            return
        if answer := self._server.requests.answer(request, peer_of(self.transport)):
            self._respond(answer, has_body=request.method != "HEAD")
            return
        client = self._server.requests.client_of(request.headers, peer_of(self.transport))
        admitted = self._server.limits.admit(self, client)
        if not isinstance(admitted, str):
            self._respond(admitted)
            return
        self._address = admitted
        tokens = _parameters(request).get("access_token", [])
        if tokens or self._server.options.auth_mode is AuthMode.STRICT:
            self._identifying = self._server.start(self._identify(request, tokens[-1] if tokens else ""))
            self._server.identifying.add(self)
        else:
            self._accept(request, None)

    async def _identify(self, request: Request, token: str) -> None:
        identity: Identity | None = None
        try:
            identity = await self._server.authenticator.identify(token)
        except RequestError:
            pass
        except Exception:
            log.exception("a token could not be judged")
            self.transport.abort()
        if self.transport.is_closing():
            return
        if identity is None:
            answer = HTTPStatus.UNAUTHORIZED, "a good token is needed, as ?access_token=\n"
            self._respond(answer, {"WWW-Authenticate": "Bearer"})  # HTTP wants some
        else:
            self._accept(request, identity)

    def _accept(self, request: Request, identity: Identity | None) -> None:
        """Upgrade, or say what the request lacks for that."""
        self._protocol.send_response(self._protocol.accept(request))
        self._write_out()
        if self._is_upgraded:
            self._server.identifying.discard(self)
            assert self._address is not None
            address, self._address = self._address, None
            is_paced = _parameters(request).get("pace") != ["off"]
            self._server.upgrade(self.transport, self._protocol, address, identity, self._behind, is_paced=is_paced)

    def _respond(self, answer: Answer, headers: Mapping[str, str] = NO_HEADERS, *, has_body: bool = True) -> None:
        self._server.traffic.responses[int(answer[0])] += 1
        response = self._protocol.reject(*answer)
        for name, value in headers.items():
            response.headers.pop(name, None)
            response.headers[name] = value
        if not has_body:
            response.body = b""
        self._protocol.send_response(response)
        self._write_out()

    def _write_out(self) -> None:
        self.write_out(self._protocol)
        if self._protocol.close_expected():
            self._ending.cancel()
            self._ending = asyncio.get_running_loop().call_later(limits.CLOSE_TIMEOUT_S, self.transport.abort)


def _parameters(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.path.partition("?")[2], keep_blank_values=True)


_NOWHERE = SplitResult("", "", "", "", "")


def _parts(url: str) -> SplitResult:
    """Return the parts of a URL; of nowhere when it, or its port, is malformed."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return _NOWHERE
    return parts


def _place(url: SplitResult) -> tuple[str, int] | None:
    """Return host and port, the scheme's own one where none is named."""
    port = url.port or _OWN_PORTS.get(url.scheme)
    return (url.hostname, port) if url.hostname and port else None
