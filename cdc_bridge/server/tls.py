"""The certificate that the port shows, read anew when it is told to."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field

from cdc_bridge.logs import facts
from cdc_bridge.model.errors import SettingsError

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
