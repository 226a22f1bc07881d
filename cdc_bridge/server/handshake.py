"""A new connection until its request is answered: with a refusal, a page, the AsyncAPI document, or the upgrade."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs

from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from cdc_bridge.access.auth_state import AuthMode, Identity
from cdc_bridge.model.errors import RequestError
from cdc_bridge.server import asyncapi, limits
from cdc_bridge.server.asyncapi import ASYNCAPI_PATH, DOCUMENT_TIMEOUT_S
from cdc_bridge.server.http import Answer
from cdc_bridge.server.limits import BoundedReader, peer_of

if TYPE_CHECKING:
    from cdc_bridge.server.websocket_server import WebSocketServer

log = logging.getLogger(__name__)

BLANK_LINE = b"\r\n\r\n"

NO_HEADERS: Mapping[str, str] = {}

_OTHER_METHOD = re.compile(rb"(?!GET |HEAD )[A-Z]{1,20} \S+ HTTP/1\.[01]\r\n")
_FIRST_LINE_BYTES_MAX = 8192


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
        "_is_head",
        "_protocol",
        "_request_bytes",
        "_server",
        "_tail",
        "_working",
    )

    def __init__(self, server: WebSocketServer) -> None:
        super().__init__(server.shared_buffer)
        self._server = server
        self._protocol: ServerProtocol = server.new_protocol()
        self._first_line: bytes | None = b""
        self._tail = b""
        self._request_bytes = 0
        self._behind: bytearray | None = None
        self._is_head = False
        self._working: asyncio.Task[None] | None = None
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
        if self._working is not None:
            self._working.cancel()
        self._server.answering.discard(self)
        self._server.describing.discard(self)

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
        """Whether a request is neither GET nor HEAD, to which websockets would give no answer."""
        if self._first_line is None:
            return False
        self._first_line += data
        is_other = _OTHER_METHOD.match(self._first_line) is not None
        if b"\n" in data or len(self._first_line) > _FIRST_LINE_BYTES_MAX:
            self._first_line = None
        return is_other

    def _answer(self, request: Request) -> None:
        self._ending.cancel()
        self._is_head = request.method == "HEAD"
        if page := self._server.request_policy.page(request):
            self._respond((HTTPStatus.OK, page.text), page.headers)
            return
        if answer := self._server.request_policy.answer(request, peer_of(self.transport)):
            self._respond(answer)
            return
        client = self._server.request_policy.client_of(request.headers, peer_of(self.transport))
        admitted = self._server.limits.admit(self, client)
        if not isinstance(admitted, str):
            self._respond(admitted)
            return
        self._address = admitted
        tokens = _parameters(request).get("access_token", [])
        if request.path.partition("?")[0] == ASYNCAPI_PATH:
            self._begin(self._describe(request, tokens[-1] if tokens else None))
        elif tokens or self._server.options.auth_mode is AuthMode.STRICT:
            self._begin(self._identify(request, tokens[-1] if tokens else ""))
        else:
            self._accept(request, None)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._working = self._server.start(work)
        self._server.answering.add(self)

    async def _describe(self, request: Request, token: str | None) -> None:
        """Answer with the AsyncAPI document."""
        server = self._server
        of_address = sum(each._address == self._address for each in server.describing)
        if len(server.describing) >= asyncapi.DOCUMENTS_MAX or of_address >= asyncapi.DOCUMENTS_OF_ADDRESS_MAX:
            self._respond((HTTPStatus.SERVICE_UNAVAILABLE, "too many ask for this; try again later\n"))
            return
        server.describing.add(self)
        try:
            status, text, headers = await asyncapi.respond(
                request.headers,
                token,
                server.request_policy.scheme_of(request.headers, is_encrypted=server.is_encrypted),
                mode=server.options.auth_mode,
                authenticator=server.authenticator,
                reader=server.engine,
            )
        except Exception:
            log.exception("the AsyncAPI document could not be made")
            self.transport.abort()
        else:
            if status is not HTTPStatus.OK:
                server.describing.discard(self)
            self._respond((status, text), headers)

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
            self._respond(answer, asyncapi.WANTS_TOKEN)
        else:
            self._accept(request, identity)

    def _accept(self, request: Request, identity: Identity | None) -> None:
        """Upgrade the connection, or say what the request lacks for that."""
        self._protocol.send_response(self._protocol.accept(request))
        self._write_out()
        if self._is_upgraded:
            self._server.answering.discard(self)
            assert self._address is not None
            address, self._address = self._address, None
            is_paced = _parameters(request).get("pace") != ["off"]
            self._server.upgrade(self.transport, self._protocol, address, identity, self._behind, is_paced=is_paced)

    def _respond(self, answer: Answer, headers: Mapping[str, str] = NO_HEADERS) -> None:
        if self.transport.is_closing():
            return
        self._server.traffic.responses[int(answer[0])] += 1
        response = self._protocol.reject(*answer)
        for name, value in headers.items():
            response.headers.pop(name, None)
            response.headers[name] = value
        if self._is_head:
            response.body = b""
        self._protocol.send_response(response)
        self._write_out()

    def _write_out(self) -> None:
        self.write_out(self._protocol)
        if self._protocol.close_expected():
            self._ending.cancel()
            within_s = DOCUMENT_TIMEOUT_S if self in self._server.describing else limits.CLOSE_TIMEOUT_S
            self._ending = asyncio.get_running_loop().call_later(within_s, self.transport.abort)


def _parameters(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.path.partition("?")[2], keep_blank_values=True)
