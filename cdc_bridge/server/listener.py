"""The port: its certificate, and the connections that it accepts.

Theory: thousands of clients can connect in the same second. uvloop accepts one connection a turn, and turns are long
just then. A client for which the queue of the kernel has no place tries again after 1, 3, 7, 15 and 31 seconds. So the
queue is long, and connections are accepted here, many in each turn.

Rule: what accepted clients have sent is read before more are accepted. So they wait in the queue of the kernel while
the bridge has no time for them, and their own time (`OPEN_TIMEOUT_S`) begins after that.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from cdc_bridge.logs import facts
from cdc_bridge.model.errors import SettingsError
from cdc_bridge.server import limits
from cdc_bridge.server.limits import ConnectionLimits

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Certificate:
    """Paths of PEM files: the certificate with its chain, and its key. Raises `SettingsError` if they are no pair.

    `context` is for the next connection. Open connections keep the one with which they began.
    """

    certificate: str
    key: str
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = _context(self.certificate, self.key)

    def reload(self) -> None:
        """Read the files again, after a renewal. A pair that does not fit changes nothing."""
        try:
            self.context = _context(self.certificate, self.key)
        except SettingsError as error:
            log.error("the certificate stays as it was", extra=facts(reason=str(error)))
        else:
            log.info("the certificate was read again")


def _context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        raise SettingsError(f"tls_certificate and tls_key are no pair of PEM files ({reason})") from None
    except ValueError:
        raise SettingsError(f"tls_key: {key} needs a password; give one that is not encrypted") from None
    except OSError as error:
        raise SettingsError(
            f"cannot read tls_certificate ({certificate}) or tls_key ({key}): {error.strerror}"
        ) from None
    return context


def _no_password() -> bytes:
    """Refuse. OpenSSL would ask for a password at a terminal, which may not be there."""
    raise ValueError("encrypted")


class Opening:
    """A connection during its TLS handshake. We count it, since event loops report it only afterwards."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task

    def turn_away(self) -> None:
        self.task.cancel()


class Listener:
    """Accepts connections and gives each of them a protocol, after the TLS handshake if there is a certificate.

    `start` runs a coroutine beside everything else.
    """

    def __init__(
        self,
        counts: ConnectionLimits,
        certificate: Certificate | None,
        new_protocol: Callable[[], asyncio.BaseProtocol],
        start: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self._limits = counts
        self._certificate = certificate
        self._new_protocol = new_protocol
        self._start = start
        self._sockets: list[socket.socket] = []

    async def listen(self, host: str, port: int) -> int:
        """Accept connections from now on. Return the port. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                listening = socket.create_server(address, family=family, backlog=limits.ACCEPT_QUEUE)
                self._sockets.append(listening)
                listening.setblocking(False)
        except OSError:
            self.close()
            raise
        for listening in self._sockets:
            self._watch(listening)
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more connections."""
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _watch(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(limits.ACCEPTED_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # too many open files, most likely
                log.error("connections cannot be accepted", extra=facts(reason=error.strerror or str(error)))
                loop = asyncio.get_running_loop()
                loop.remove_reader(listening)
                loop.call_later(limits.ACCEPT_REST_S, self._watch, listening)
                return
            self._open(accepted, str(address[0]))

    def _open(self, accepted: socket.socket, peer: str) -> None:
        accepted.setblocking(False)
        connect = asyncio.get_running_loop().connect_accepted_socket
        if self._certificate is None:
            self._start(connect(self._new_protocol, accepted))
            return
        opening = Opening(
            self._start(
                connect(
                    self._new_protocol,
                    accepted,
                    ssl=self._certificate.context,
                    ssl_handshake_timeout=limits.OPEN_TIMEOUT_S,
                    ssl_shutdown_timeout=limits.CLOSE_TIMEOUT_S,
                )
            )
        )
        opening.task.add_done_callback(lambda task: self._end(opening, accepted))
        self._limits.knock(opening, peer)

    def _end(self, opening: Opening, accepted: socket.socket) -> None:
        """Count a handshake out. If it succeeded, the connection has been counted under its protocol by now."""
        self._limits.leave(opening)
        if opening.task.cancelled():
            accepted.close()
        elif error := opening.task.exception():  # what ssl raises is an OSError, and so is a timeout
            log.debug("no TLS handshake", extra=facts(reason=str(error)))
            accepted.close()
