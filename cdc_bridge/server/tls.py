"""The certificate that the port shows, read anew when it is told to."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from cdc_bridge.logs import facts
from cdc_bridge.model.errors import SettingsError
from cdc_bridge.server import limits
from cdc_bridge.server.limits import ConnectionLimits, peer_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Certificate:
    """Paths of PEM files: the certificate with its chain, and its key. Raises `SettingsError` for what is no pair.

    `context` is for the next connection. Those that are open keep the one with which they began.
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
    """Instead of asking a terminal that may not be there."""
    raise ValueError("encrypted")


class Securing(asyncio.Protocol):
    """A connection from its acceptance to the end of the TLS handshake.

    The loop's own server tells of nobody before that has ended, and so would count nobody.
    """

    def __init__(
        self,
        counts: ConnectionLimits,
        certificate: Certificate,
        then: Callable[[], asyncio.BaseProtocol],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._limits = counts
        self._certificate = certificate
        self._then = then
        self._start = start
        self._task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = peer_of(transport)
        accepted = _socket_of(cast("asyncio.Transport", transport))
        self._task = self._start(self._secure(accepted))
        self._task.add_done_callback(lambda task: self._end(task, accepted))
        self._limits.knock(self, peer)

    def turn_away(self) -> None:
        self._task.cancel()

    async def _secure(self, accepted: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            self._then,
            accepted,
            ssl=self._certificate.context,
            ssl_handshake_timeout=limits.OPEN_TIMEOUT_S,
            ssl_shutdown_timeout=limits.CLOSE_TIMEOUT_S,
        )

    def _end(self, task: asyncio.Task[None], accepted: socket.socket) -> None:
        """Forget it; if it was secured, it knocks as another connection by now."""
        self._limits.leave(self)
        if task.cancelled():
            accepted.close()
        elif error := task.exception():  # what ssl raises is an OSError, and so is a timeout
            log.debug("no TLS handshake", extra=facts(reason=str(error)))
            accepted.close()


def _socket_of(transport: asyncio.Transport) -> socket.socket:
    """Return the socket, for a transport of its own: loops start to read from this one whatever they are told."""
    accepted: socket.socket = transport.get_extra_info("socket").dup()
    transport.set_protocol(asyncio.Protocol())  # which hears nothing
    transport.abort()
    return accepted
