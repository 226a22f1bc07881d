"""Answers to plain HTTP: health, metrics, and why a request is not upgraded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request

from cdc_bridge.logs import facts
from cdc_bridge.server.asyncapi import ASYNCAPI_PATH
from cdc_bridge.server.limits import ConnectionLimits, counted, is_address, is_loopback
from cdc_bridge.server.pages import Page

log = logging.getLogger(__name__)

WEBSOCKET_PATH = "/websocket"
METRICS_PATH = "/metrics"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Answer = tuple[HTTPStatus, str]


class Reason(NamedTuple):
    """Why a bridge is not ready. `full`, which can name tables, roles and owners, is for those who may see metrics."""

    public: str
    full: str


def reason(sentence: str) -> Reason:
    """Return a reason that names nothing, so that everybody may read it in full."""
    return Reason(sentence, sentence)


_OWN_PORTS = {"http": 80, "https": 443}


@dataclass(slots=True)
class RequestPolicy:
    """Decides which requests may become WebSockets, and answers the others."""

    limits: ConnectionLimits
    allowed_origins: Sequence[str]
    reasons: Callable[[], Sequence[Reason]]
    """Return why the bridge is not ready; nothing when it is."""

    loopback_only: bool = True
    """Whether the port is on a loopback address, where a host has to be one of this machine's own names."""

    details: Callable[[], Mapping[str, object]] = dict
    """Return what else `/readyz?verbose` says: no data of rows, no secrets."""

    inner_details: Callable[[], Mapping[str, object]] = dict
    """Return what it says besides, or in the place of that, to those who may see metrics: it names tables."""

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
        if path not in (WEBSOCKET_PATH, ASYNCAPI_PATH) or self.metrics_only:
            return HTTPStatus.NOT_FOUND, "nothing here\n"
        if not self.is_open:
            return HTTPStatus.SERVICE_UNAVAILABLE, "shutting down\n"
        if len(request.headers.get_all("Host")) > 1:
            return HTTPStatus.BAD_REQUEST, "more than one Host\n"
        if not self._is_allowed_origin(request.headers):
            origin, host = (", ".join(request.headers.get_all(name)) for name in ("Origin", "Host"))
            log.debug("a web page of another origin was turned away", extra=facts(origin=origin, host=host))
            return HTTPStatus.FORBIDDEN, "this origin is not allowed\n"
        if path == ASYNCAPI_PATH and not self._is_own_host(request.headers):
            return HTTPStatus.FORBIDDEN, "this host is not allowed\n"
        return None

    def not_ready(self) -> list[Reason]:
        """Return why the bridge is not ready, or will be no more."""
        return [*([] if self.is_open else [reason("shutting down")]), *self.reasons()]

    def _readiness(self, *, is_verbose: bool, is_trusted: bool) -> Answer:
        reasons = list(dict.fromkeys(each.full if is_trusted else each.public for each in self.not_ready()))
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
        return found if self._is_own_host(request.headers) and "Upgrade" not in request.headers else None

    def _is_own_host(self, headers: Headers) -> bool:
        """Whether the host that is asked can be this one. On loopback any other name was made to resolve to it."""
        hosts = headers.get_all("Host")
        return len(hosts) == 1 and not (self.loopback_only and _parts(f"//{hosts[0]}").hostname not in LOOPBACK)

    def scheme_of(self, headers: Headers, *, is_encrypted: bool) -> str:
        """Return the scheme by which a client reaches the WebSocket."""
        is_encrypted |= self.limits.behind_proxy and headers.get_all("X-Forwarded-Proto")[-1:] == ["https"]
        return "wss" if is_encrypted else "ws"

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
