"""Verify tokens and return their principals: JSON Web Tokens (RFC 7519) and the configuration's static tokens.

The claims of a token go to the database as the text that the issuer wrote. A text that PostgreSQL would read
differently than we do is therefore refused: one with duplicate names, or with values that `jsonb` cannot hold.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import jwt

from cdc_bridge.access.auth_state import Identity, authentication_failed
from cdc_bridge.access.keys import HS256, Key, PublishedKeys
from cdc_bridge.logs import facts
from cdc_bridge.model.row import decode_exact, encode_exact
from cdc_bridge.model.security_context import SELF, Principal

TOKEN_CHARACTERS_MAX = 16 * 1024

ALGORITHMS = frozenset({HS256, "RS256", "ES256", "EdDSA"})

FAR_S = 1e12
"""Times are cut to this many seconds from 1970. An expiry beyond it never comes."""

EXPONENT_MAX = 1000
"""The largest decimal exponent of a number in claims. PostgreSQL's `numeric` has a limit too."""


class TokenRefused(Exception):
    """A token proves nothing. The reason is for the operator's log, never for the client, and repeats no token."""


# --- claims ---


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a token. `text` is a JSON object as the issuer wrote it, `values` are its members."""

    text: str
    values: Mapping[str, Any]


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def read_claims(body: bytes) -> Claims:
    """Parse the payload of a token. Raises `TokenRefused`."""
    try:
        text = body.decode()
        values = decode_exact(text)
        json.loads(text, object_pairs_hook=_without_duplicates, parse_float=_moderate)
    except (ValueError, RecursionError):
        raise TokenRefused("its claims are not valid JSON, or a name occurs twice") from None
    if not isinstance(values, dict):
        raise TokenRefused("its claims are not an object")
    if _NUL.search(text):
        raise TokenRefused("its claims contain a NUL character, which PostgreSQL cannot store")
    return Claims(text, {**values, **{name: _seconds(values, name) for name in ("exp", "nbf") if name in values}})


def with_role(text: str, role: str) -> str:
    """Add the role to the text of claims that name none."""
    addition = encode_exact({"role": role})
    return addition if text.strip("{} \t\r\n") == "" else text.rstrip().removesuffix("}") + "," + addition[1:]


def _seconds(values: Mapping[str, Any], name: str) -> float:
    """Return a time in seconds since 1970. A string is refused, even if it holds digits."""
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise TokenRefused(f"{name} is not a number")
    return float(max(min(value, FAR_S), -FAR_S))


def _without_duplicates(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a name occurs twice")
    return found


def _moderate(digits: str) -> Decimal:
    number = Decimal(digits)
    if abs(number.adjusted()) > EXPONENT_MAX:
        raise ValueError("the exponent is too large")
    return number


# --- JSON Web Tokens ---


_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""A signed token: three parts, not encrypted, without the padding that some readers tolerate."""

_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.MissingRequiredClaimError: "it lacks its audience or its issuer",
}


def header_of(token: str) -> tuple[str, str | None]:
    """Return the algorithm and the `kid` that a token names: unverified, they select which of our keys are tried, and
    nothing else. Raises `TokenRefused`.

    `jku`, `jwk`, `x5u` and `x5c`, with which a token would bring its own key, are ignored.
    """
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise TokenRefused("it is too long")
    if not _FORM.fullmatch(token):
        raise TokenRefused("it is not a token")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise TokenRefused("it is not a token") from None
    if "crit" in header:
        raise TokenRefused("it requires an extension (crit)")
    if not isinstance(header.get("alg"), str) or header["alg"] not in ALGORITHMS:
        raise TokenRefused("its algorithm is not supported")
    return header["alg"], header.get("kid")


class _Exact(jwt.PyJWT):
    """Reads claims with all digits of their numbers, and keeps their text."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        found = read_claims(decoded["payload"])
        decoded["claims"] = found
        return dict(found.values)


@dataclass(frozen=True, slots=True)
class Verifier:
    """Checks the signature, audience, issuer and times of tokens. An empty audience or issuer is not checked."""

    audience: str = ""
    issuer: str = ""
    leeway_s: float = 5

    def verify(self, token: str, key: Key) -> Claims | None:
        """Return the claims; None when another key has signed the token. Raises `TokenRefused` when the token is
        signed with this key but not valid.
        """
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
            raise TokenRefused(_REASONS.get(type(error), "it is not a token")) from None
        found: Claims = decoded["claims"]
        return found

    def expiry(self, found: Claims) -> float | None:
        """Return when a connection with this token expires: the last moment at which the token would be accepted."""
        expires_at = found.values.get("exp")
        return None if expires_at is None else int(expires_at) + self.leeway_s


def mint(secret: str, claims: Mapping[str, Any]) -> str:
    """Sign a token with the shared secret: for development, where there is no issuer."""
    return jwt.encode(dict(claims), secret, algorithm=HS256)


# --- static tokens ---


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A token of the configuration, for programs that have no issuer.

    `sha256` is the hash of the token, in hex, so that the configuration does not reveal the token. A plain hash
    requires long random tokens (`openssl rand -hex 32`). `role` and `claims` are what a JWT would say.
    """

    sha256: str
    role: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_claims(self) -> Claims:
        """Return the claims with the role among them."""
        values: dict[str, Any] = dict(self.claims) | ({"role": self.role} if self.role else {})
        return Claims(encode_exact(values), values)


class StaticTokens:
    """All static tokens. A lookup takes the same time whether or not it finds one."""

    def __init__(self, tokens: Iterable[StaticToken]) -> None:
        self._tokens = [(bytes.fromhex(token.sha256), token) for token in tokens]

    def __contains__(self, token: StaticToken) -> bool:
        return any(token == known for _, known in self._tokens)

    def find(self, token: str) -> StaticToken | None:
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        found = [each for known, each in self._tokens if hmac.compare_digest(known, digest)]
        return found[-1] if found else None


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles that tokens may name.

    A role is a database role if the setting `roles` has it (`database`), or if it is the setting `anon_role`
    (`anonymous`) and no rule names it. It is a role of the configuration alone if a rule names it and `roles` does not:
    then the bridge reads as itself, and rules decide what is shown. Tokens with any other role are refused.
    """

    database: Set[str] = frozenset()
    anonymous: str = ""
    is_ruled: Callable[[str], bool] = lambda name: False
    """Whether a rule names the role. Rules can change while the bridge runs."""
    public: bool = False
    """Whether anonymous clients may see all that the bridge itself sees."""

    def principal(self, name: str, claims: str) -> Principal:
        """Raises `TokenRefused` for a role that tokens may not name."""
        if name in self.database:
            return Principal(name, name, claims)
        if self.is_ruled(name):
            return Principal(name, None, claims)
        if name == self.anonymous and name:
            return Principal(name, name, claims)
        raise TokenRefused("tokens may not name its role")

    def nobody(self) -> Principal | None:
        """Return the principal of clients without a token. None: they may see nothing."""
        if self.anonymous:
            return self.principal(self.anonymous, encode_exact({"role": self.anonymous}))
        return SELF if self.public else None


class Authenticator:
    """Verifies tokens: with `keys` (the shared secret, a public key) and with the `published` ones of the issuer."""

    def __init__(
        self,
        roles: Roles,
        verifier: Verifier,
        keys: Sequence[Key] = (),
        published: PublishedKeys | None = None,
        static_tokens: Sequence[StaticToken] = (),
    ) -> None:
        self._roles = roles
        self._verifier = verifier
        self._keys = keys
        self._published = published
        self._static_tokens = StaticTokens(static_tokens)
        self.refused: Counter[str] = Counter()
        """Tokens that were refused, by the reason, for metrics. There are as many as sentences in this module."""

    def take(self, static_tokens: Sequence[StaticToken]) -> None:
        """Replace the static tokens. Open connections with a token that is not among them end."""
        self._static_tokens = StaticTokens(static_tokens)

    def anonymous(self) -> Principal | None:
        """Return the principal of clients without a token. None: they may see nothing."""
        return self._roles.nobody()

    async def identify(self, token: str) -> Identity:
        """Raises `RequestError`, which does not tell the client the reason."""
        try:
            if static := self._static_tokens.find(token):
                principal = self._principal(static.all_claims)
                return Identity(principal, is_revoked=lambda: static not in self._static_tokens)
            async for key in self._candidates(*header_of(token)):
                if found := self._verifier.verify(token, key):
                    return Identity(self._principal(found), self._verifier.expiry(found))
            raise TokenRefused("it is not signed with any known key")
        except TokenRefused as refused:
            self.refused[str(refused)] += 1
            log.debug("a token was refused", extra=facts(reason=str(refused)))
            raise authentication_failed() from None

    async def keep_fresh(self) -> None:
        """Follow the issuer's keys, until cancelled."""
        if self._published is not None:
            await self._published.keep_fresh()

    async def _candidates(self, algorithm: str, kid: str | None) -> AsyncIterator[Key]:
        """Keys at hand go first, since they do not wait for the issuer."""
        for key in self._keys:
            if key.algorithm == algorithm:
                yield key
        if self._published is not None:
            for key in await self._published.named(algorithm, kid):
                yield key

    def _principal(self, found: Claims) -> Principal:
        role = found.values.get("role", self._roles.anonymous)
        if not isinstance(role, str) or not role:
            raise TokenRefused("it names no role, and there is no anon_role")
        return self._roles.principal(role, found.text if "role" in found.values else with_role(found.text, role))
