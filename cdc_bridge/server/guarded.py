"""The receiving half of a connection: what a client can make us do before it is known, and how much of it at one go.

websockets bounds messages, fragments, header lines and time. What it does not bound is bounded here: how many
connections have not sent a request yet, TLS included; how large a request is; how long everybody else waits for the
work that one read makes; and what piles up for a client that pings and does not read what it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from http import HTTPStatus
from typing import Any, cast

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from cdc_bridge.logs import facts
from cdc_bridge.server.addresses import peer_of
from cdc_bridge.server.http import Door
from cdc_bridge.server.tls import Certificate

log = logging.getLogger(__name__)

READ_BYTES = 2048
"""As much is read from one client before the others have their turn. It may hold 341 pings."""

ACCEPTED_AT_ONCE = 512
"""Connections that may wait to be accepted. More would be accepted in one go, while everybody waits; with less, whoever
comes in the midst of many has to try again, which TCP does after a second.
"""

LONG_S = 0.0005
REST = 4
"""After a read that took us long its client is not read from for this many times as long."""

BLANK_LINE = b"\r\n\r\n"
REQUEST_BYTES_MAX = 32 * 1024
UNREAD_BYTES_MAX = 64 * 1024
"""Answers to pings that wait for a client to read them."""

OPEN_TIMEOUT_S = 10.0
"""From the connection to the upgrade; for the TLS handshake before it as long again."""

CLOSE_TIMEOUT_S = 2.0


class GuardedConnection(ServerConnection):
    """A connection that is counted from the moment it is accepted, and read from in pieces."""

    def __init__(self, door: Door, certificate: Certificate | None, *rest: Any, **options: Any) -> None:
        super().__init__(*rest, **options)
        self._door = door
        self._certificate = certificate
        self._reader: _Reader
        self._securing: asyncio.Task[None] | None = None
        self._ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        accepted = cast("asyncio.Transport", transport)
        self._door.knock(self, peer_of(accepted))
        if self._certificate is None:
            self.begin(accepted)
        else:
            securing = self._secure(_socket_of(accepted), self._certificate)
            self._securing = self.loop.create_task(securing)

    def begin(self, transport: asyncio.Transport) -> None:
        """What comes now is a request."""
        self._reader = _Reader(self, transport)
        super().connection_made(transport)
        transport.set_protocol(self._reader)

    async def handshake(self, *rest: Any, **options: Any) -> None:
        await super().handshake(*rest, **options)
        if self.protocol.state is OPEN:
            self._reader.upgraded()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._ending is None and self.protocol.close_expected():
            # For websockets a connection that it has failed may stay until the client closes it.
            self._ending = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self)
        if self._ending is not None:
            self._ending.cancel()
        super().connection_lost(exc)

    def turn_away(self) -> None:
        if self._securing is not None and not self._securing.done():
            self._securing.cancel()
        else:
            self.transport.abort()

    @property
    def has_enough(self) -> bool:
        """Whether more has been read than anybody has taken."""
        return self.recv_messages.paused

    def refuse_large_request(self) -> None:
        text = f"a request may have {REQUEST_BYTES_MAX} bytes\n"
        self.protocol.send_response(self.protocol.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text))

    def refuse_to_be_unread(self) -> None:
        self.protocol.fail(CloseCode.POLICY_VIOLATION, "read what you are answered")

    async def _secure(self, accepted: socket.socket, certificate: Certificate) -> None:
        """Here and not in `create_server`, which tells of nobody before the TLS handshake has ended."""
        secured = False
        try:
            await self.loop.connect_accepted_socket(
                lambda: _Securing(self),
                accepted,
                ssl=certificate.context,
                ssl_handshake_timeout=OPEN_TIMEOUT_S,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
            )
            secured = True
        except OSError as error:  # what ssl raises is one, and so is a timeout
            log.debug("no TLS handshake", extra=facts(reason=str(error)))
        finally:
            if not secured:
                self._door.leave(self)
                accepted.close()


def _socket_of(transport: asyncio.Transport) -> socket.socket:
    """The socket, for a transport of its own: loops start to read from this one whatever they are told."""
    accepted: socket.socket = transport.get_extra_info("socket").dup()
    transport.set_protocol(asyncio.Protocol())  # which hears nothing
    transport.abort()
    return accepted


class _Securing(asyncio.BufferedProtocol):
    """Until the TLS handshake has ended. Nothing is read before that."""

    def __init__(self, connection: GuardedConnection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.begin(cast("asyncio.Transport", transport))


class _Reader(asyncio.BufferedProtocol):
    """Stands before a connection and hands on what is read, piece by piece.

    It is READING or resting: after a piece that was whole, or took us long, until the others have had their turn.
    What comes behind a request waits until that is answered. websockets would take it for frames at once, and stumble
    where the answer is no upgrade.
    """

    def __init__(self, connection: GuardedConnection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._buffer = bytearray()
        self._end_of_request = b""
        self._behind: bytes | None = None
        self._is_upgraded = False
        self._request_bytes = 0
        self._unread_bytes = 0

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        self._buffer = bytearray(READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data, self._buffer = bytes(self._buffer[:nbytes]), bytearray()
        began_s = time.perf_counter()
        self._hand_on(data if self._is_upgraded else self._of_the_request(data))
        took_s = time.perf_counter() - began_s
        if nbytes == READ_BYTES or took_s > LONG_S:
            self._transport.pause_reading()
            self._connection.loop.call_later(REST * took_s, self._go_on)

    def upgraded(self) -> None:
        """The request is answered, and frames may come."""
        self._is_upgraded = True
        if self._behind:
            self._hand_on(self._behind)
            self._behind = None
            self._go_on()

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def _of_the_request(self, data: bytes) -> bytes:
        if self._behind is not None:
            self._behind += data
            return b""
        joined = self._end_of_request + data
        end = joined.find(BLANK_LINE)
        if end < 0:
            self._end_of_request = joined[1 - len(BLANK_LINE) :]
            return data
        rest = len(joined) - end - len(BLANK_LINE)
        self._behind = data[len(data) - rest :]
        return data[: len(data) - rest]

    def _go_on(self) -> None:
        if self._behind is not None and len(self._behind) > REQUEST_BYTES_MAX:
            return
        if not self._transport.is_closing() and not self._connection.has_enough:
            self._transport.resume_reading()

    def _hand_on(self, data: bytes) -> None:
        if not data:
            return
        waiting_bytes = self._transport.get_write_buffer_size()
        self._count_request(len(data))
        self._connection.data_received(data)
        self._count_answers(waiting_bytes, self._transport.get_write_buffer_size())

    def _count_request(self, size_bytes: int) -> None:
        if self._connection.request is None:
            self._request_bytes += size_bytes
            if self._request_bytes - size_bytes <= REQUEST_BYTES_MAX < self._request_bytes:
                self._connection.refuse_large_request()

    def _count_answers(self, before_bytes: int, after_bytes: int) -> None:
        """Only a PING is answered while it is read. Who has read all answers begins anew."""
        before = self._unread_bytes if before_bytes else 0
        self._unread_bytes = before + max(0, after_bytes - before_bytes)
        if before <= UNREAD_BYTES_MAX < self._unread_bytes:
            self._connection.refuse_to_be_unread()
