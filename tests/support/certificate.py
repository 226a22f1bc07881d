"""Certificates that nobody but a test trusts."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate for 127.0.0.1 and its key, as PEM files."""

    certificate: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        return "--tls-certificate", str(self.certificate), "--tls-key", str(self.key)

    def joined(self) -> Path:
        """Write certificate and key to one file, as HAProxy reads them."""
        both = self.certificate.with_name("both.pem")
        both.write_bytes(self.certificate.read_bytes() + self.key.read_bytes())
        return both

    @property
    def trusting(self) -> ssl.SSLContext:
        """For a client that trusts nothing else."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_pair(folder: Path, password: bytes | None = None) -> Pair:
    """Written over what an earlier one has left in that folder, as a renewal does."""
    pair = Pair(folder / "tls.crt", folder / "tls.key")
    key = ec.generate_private_key(ec.SECP256R1())
    pair.certificate.write_bytes(_certificate(key).public_bytes(serialization.Encoding.PEM))
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    return pair


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(hours=1),
        not_valid_after=now + datetime.timedelta(hours=1),
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return builder.add_extension(x509.SubjectAlternativeName([address]), critical=False).sign(key, hashes.SHA256())
