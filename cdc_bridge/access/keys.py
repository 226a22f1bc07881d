"""Keys that verify tokens: the configured ones, and those that an issuer publishes at a URL.

Rule: a key is for one algorithm, which it decides, never the token. So no token can have a public key used as a shared
secret, or do without a signature.

Rule: a well-formed published set is trusted until the next one is read, however long the issuer is down. A key that is
in no set is never accepted. Sets are read one at a time: at the start, every `refresh_s`, and when a token names an
unknown key, but not within `pause_s` of the last read, so that invented names cannot make us flood the issuer.

Theory: a token of a known key never waits for the issuer, so an issuer that hangs locks no client out. Since sets are
also read without a request, a withdrawn key is gone after `refresh_s`.
"""

from __future__ import annotations

import asyncio
import http
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
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

from cdc_bridge.logs import facts
from cdc_bridge.model.errors import SettingsError

log = logging.getLogger(__name__)

HS256 = "HS256"

RSA_BITS_MIN = 2048
"""RFC 7518, section 3.3."""

PUBLISHED_MAX = 100
"""The most keys read of one set. No issuer publishes more than a few."""

SET_BYTES_MAX = 256 * 1024
READ_AT_ONCE = 64 * 1024

LATE_S = 1.0
"""How much longer than a read may take a token waits for it."""

_FAMILIES: Mapping[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
"""The types of public keys. A published symmetric key (`oct`) is not a secret, so it is not accepted."""

_UNREADABLE = (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError)
"""The libraries raise these for text that is not a key."""


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
    if "-----BEGIN" in text:
        pem = text.replace("\\n", "\n")  # environment variables have one line
    else:
        try:
            pem = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError):
            raise SettingsError("jwt_public_key is neither PEM text nor the name of a readable file") from None
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


def _from_jwk(jwk: Mapping[str, Any]) -> Key | None:
    family, kid, operations = _FAMILIES.get(str(jwk.get("kty"))), jwk.get("kid"), jwk.get("key_ops", ["verify"])
    is_for_signatures = jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    if family is None or not is_for_signatures or not isinstance(kid, str | None):
        return None
    try:
        material = family.from_jwk(dict(jwk))
    except _UNREADABLE:
        return None
    algorithm = _algorithm(material)
    return Key(algorithm, material, kid) if algorithm and jwk.get("alg", algorithm) == algorithm else None


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


# --- the keys that an issuer publishes ---


class PublishedKeys:
    """The public keys at a URL (`jwt_jwks_url`). `keep_fresh` must run beside the callers of `named`."""

    def __init__(self, url: str, *, within_s: float = 5, refresh_s: float = 300, pause_s: float = 5) -> None:
        self._url = url
        self._within_s = within_s
        self._refresh_s = refresh_s
        self._pause_s = pause_s
        self._keys: tuple[Key, ...] = ()
        self._wanted = asyncio.Event()
        self._read = asyncio.Event()
        self._is_reading = False
        self._begun_s = float("-inf")
        self._call: asyncio.Future[bytes] | None = None
        self._is_failing = False

    async def keep_fresh(self) -> None:
        """Read the set again and again, until cancelled."""
        while True:
            await self._read_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s):
                    await self._wanted.wait()

    async def named(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """Return the keys that may have signed a token which names `kid`."""
        found = self._known(algorithm, kid)
        if not found:
            await self._read_anew()
            found = self._known(algorithm, kid)
        return found

    def _known(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        return [key for key in self._keys if key.algorithm == algorithm and kid in (None, key.kid)]

    async def _read_anew(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if not self._is_reading and now_s - self._begun_s < self._pause_s:
            return
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._within_s + LATE_S):
                await self._read.wait()

    async def _read_once(self) -> None:
        self._wanted.clear()
        self._begun_s = asyncio.get_running_loop().time()
        self._is_reading = True
        try:
            found = published(await self._fetch())
        except (OSError, ValueError) as error:
            if not self._is_failing:
                log.warning(
                    "cannot read the issuer's keys: known keys stay valid, others are refused",
                    extra=facts(reason=_reason(error), known=len(self._keys)),
                )
            self._is_failing = True
        else:
            if self._is_failing or {key.kid for key in found} != {key.kid for key in self._keys} or not found:
                level = logging.INFO if found else logging.WARNING
                log.log(level, "the issuer's keys were read", extra=facts(usable=len(found)))
            self._is_failing, self._keys = False, found
        finally:
            self._is_reading = False
            self._read.set()
            self._read = asyncio.Event()

    async def _fetch(self) -> bytes:
        """Use one thread at a time: an abandoned read may still hang in one."""
        loop = asyncio.get_running_loop()
        if self._call is None or self._call.done():
            self._call = loop.run_in_executor(None, fetch, self._url, self._within_s, SET_BYTES_MAX)
            self._call.add_done_callback(_retrieve)
        done, _ = await asyncio.wait([self._call], timeout=self._within_s)
        if not done:
            raise TimeoutError(f"no answer within {self._within_s:g} s")
        call, self._call = self._call, None
        return call.result()


def _retrieve(call: asyncio.Future[bytes]) -> None:
    """Retrieve the exception of an abandoned read: asyncio would otherwise log it, with the address."""
    if not call.cancelled():
        call.exception()


def _reason(error: Exception) -> str:
    """Describe an error without the address, which may hold a secret and which some errors repeat."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, OSError) else error
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)) or type(error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Trust the server at the address that the operator gave, and no other."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
    _NoRedirects,
):
    _opener.add_handler(_handler())


def fetch(url: str, within_s: float, bytes_max: int) -> bytes:
    """Read a small document by HTTP; blocks. Raises `OSError` or `ValueError`, whose reason omits the address."""
    deadline_s = time.monotonic() + within_s
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "cdc_bridge"})  # noqa: S310 - the opener knows http and https only
    try:
        with _opener.open(request, timeout=within_s) as response:
            if response.status != http.HTTPStatus.OK:
                raise ValueError(f"HTTP {response.status}")
            found = bytearray()
            while chunk := response.read1(READ_AT_ONCE):
                found += chunk
                if len(found) > bytes_max:
                    raise ValueError(f"more than {bytes_max} bytes")
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"not complete after {within_s:g} s")
            return bytes(found)
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"HTTP {error.code}") from None
    except http.client.HTTPException as error:
        raise ValueError(f"not HTTP ({type(error).__name__})") from None
