"""Keys that verify tokens. Each is for one algorithm.

Rule: the key decides the algorithm, never the token. So no token can have a public key used as a shared secret, or do
without a signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from cdc_bridge.model.errors import SettingsError

HS256 = "HS256"

RSA_BITS_MIN = 2048
"""RFC 7518, section 3.3."""

PUBLISHED_MAX = 100
"""The most keys read of one set. No issuer publishes more than a few."""

_FAMILIES: Mapping[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
"""The types of public keys. A published symmetric key (`oct`) is not a secret, so it is not accepted."""

_UNREADABLE = (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError)
"""What the libraries raise for text that is not a key."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key for one algorithm. `kid` is the issuer's name for it."""

    algorithm: str
    material: Any = field(repr=False)
    kid: str | None = None


def shared(secret: str) -> Key:
    return Key(HS256, secret.encode())


def public(text: str) -> Key:
    """Read a public key from PEM text, or from the file that the text names.

    Raises `SettingsError`, which repeats nothing of what was read.
    """
    pem = text.replace("\\n", "\n") if "-----BEGIN" in text else _read(text)  # environment variables have one line
    if "PRIVATE KEY-----" in pem:
        raise SettingsError("jwt_public_key is a private key, which only the issuer may have: give the public one")
    try:
        material = load_pem_public_key(pem.encode())
    except _UNREADABLE:
        raise SettingsError("jwt_public_key is neither a public key in PEM form nor a file that holds one") from None
    algorithm = _algorithm(material)
    if algorithm is None:
        raise SettingsError(
            f"jwt_public_key must be an RSA key of {RSA_BITS_MIN} bits or more, or a key on P-256, Ed25519 or Ed448"
        )
    return Key(algorithm, material)


def published(text: bytes) -> tuple[Key, ...]:
    """Read the usable keys of a JSON Web Key Set, and skip the others. Raises `ValueError` when it is not a set."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    members = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(members, list):
        raise ValueError("not a JSON Web Key Set")
    keys = [_from_jwk(member) for member in members[:PUBLISHED_MAX] if isinstance(member, dict)]
    return tuple(key for key in keys if key is not None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise SettingsError("jwt_public_key is neither PEM text nor the name of a readable file") from None


def _from_jwk(jwk: Mapping[str, Any]) -> Key | None:
    family = _FAMILIES.get(str(jwk.get("kty")))
    kid = jwk.get("kid")
    if family is None or not _is_for_signatures(jwk) or not isinstance(kid, str | None):
        return None
    try:
        material = family.from_jwk(dict(jwk))
    except _UNREADABLE:
        return None
    algorithm = _algorithm(material)
    return Key(algorithm, material, kid) if algorithm and jwk.get("alg", algorithm) == algorithm else None


def _is_for_signatures(jwk: Mapping[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _algorithm(material: object) -> str | None:
    """Return the algorithm of a public key. None for keys that are not accepted, private keys among them."""
    match material:
        case RSAPublicKey(key_size=bits) if bits >= RSA_BITS_MIN:
            return "RS256"
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return "ES256"
        case Ed25519PublicKey() | Ed448PublicKey():
            return "EdDSA"
    return None
