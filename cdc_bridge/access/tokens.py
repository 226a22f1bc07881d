"""JSON Web Tokens (RFC 7519): who signed one, when it is good, and for whom it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jwt

from cdc_bridge.access import claims
from cdc_bridge.access.claims import Claims
from cdc_bridge.access.keys import Key
from cdc_bridge.access.refusal import Refused

TOKEN_CHARACTERS_MAX = 16 * 1024

ALGORITHMS = frozenset({"HS256", "RS256", "ES256", "EdDSA"})

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Three parts, signed and not encrypted, without the padding that some readers tolerate."""

_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not good yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.InvalidSignatureError: "no key of ours has signed it",
    jwt.MissingRequiredClaimError: "it lacks its audience or its issuer",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a token says of itself before anything is proved: by which of our keys it may be verified, and no more."""

    algorithm: str
    kid: str | None


def header_of(token: str) -> Header:
    """Raises `Refused`. `jku`, `jwk`, `x5u` and `x5c`, by which a token would bring its own key, are not looked at."""
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise Refused("it is too long")
    if not _FORM.fullmatch(token):
        raise Refused("it is no token")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise Refused("it is no token") from None
    if "crit" in header:
        raise Refused("it asks for an extension (crit)")
    if not isinstance(header.get("alg"), str) or header["alg"] not in ALGORITHMS:
        raise Refused("its algorithm is none of ours")
    return Header(header["alg"], header.get("kid"))


class _Exact(jwt.PyJWT):
    """Reads claims with all their digits, and keeps their text."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        found = claims.read(decoded["payload"])
        decoded["claims"] = found
        return dict(found.values)


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a token has to be besides well signed. Empty means anything."""

    audience: str = ""
    issuer: str = ""
    leeway_s: float = 5

    def verify(self, token: str, key: Key) -> Claims | None:
        """None when it was not this key that signed it. Raises `Refused` when it was, and the token is no good."""
        try:
            decoded = _Exact().decode_complete(
                token,
                key.material,
                algorithms=[key.algorithm],
                audience=self.audience or None,
                issuer=self.issuer or None,
                leeway=self.leeway_s,
                options={
                    "verify_aud": bool(self.audience),
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError:
            return None
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise Refused(_REASONS.get(type(error), "it is no token")) from None
        found: Claims = decoded["claims"]
        return found

    def expiry(self, found: Claims) -> float | None:
        """When an open connection ends that shows it: as late as it would be accepted anew."""
        expires_at = found.values.get("exp")
        return None if expires_at is None else int(expires_at) + self.leeway_s
