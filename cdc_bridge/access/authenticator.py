"""From a token to the principal that it proves."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence, Set
from dataclasses import dataclass

from cdc_bridge.access.auth_state import Identity, authentication_failed
from cdc_bridge.access.keys import Key
from cdc_bridge.access.published_keys import PublishedKeys
from cdc_bridge.access.tokens import (
    Claims,
    Header,
    StaticToken,
    StaticTokens,
    TokenRefused,
    Verifier,
    header_of,
    with_role,
)
from cdc_bridge.logs import facts
from cdc_bridge.model import exactjson
from cdc_bridge.model.principal import SELF, Principal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which roles tokens may name, and what they are.

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
            return self.principal(self.anonymous, exactjson.encode({"role": self.anonymous}))
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

    def take(self, static_tokens: Sequence[StaticToken]) -> None:
        """Replace the static tokens. Open connections with a token that is not among them end."""
        self._static_tokens = StaticTokens(static_tokens)

    def anonymous(self) -> Principal | None:
        """Return the principal of clients without a token. None: they may see nothing."""
        return self._roles.nobody()

    async def identify(self, token: str) -> Identity:
        """Raises `RequestError`, which does not tell the client the reason."""
        try:
            return await self._identify(token)
        except TokenRefused as refused:
            log.debug("a token was refused", extra=facts(reason=str(refused)))
            raise authentication_failed() from None

    async def keep_fresh(self) -> None:
        """Follow the issuer's keys, until cancelled."""
        if self._published is not None:
            await self._published.keep_fresh()

    async def _identify(self, token: str) -> Identity:
        if static := self._static_tokens.find(token):
            principal = self._principal(static.all_claims)
            return Identity(principal, is_revoked=lambda: static not in self._static_tokens)
        found = await self._verified(token)
        return Identity(self._principal(found), self._verifier.expiry(found))

    async def _verified(self, token: str) -> Claims:
        async for key in self._candidates(header_of(token)):
            if found := self._verifier.verify(token, key):
                return found
        raise TokenRefused("it is not signed with any known key")

    async def _candidates(self, header: Header) -> AsyncIterator[Key]:
        """Keys at hand go first, since they do not wait for the issuer."""
        for key in self._keys:
            if key.algorithm == header.algorithm:
                yield key
        if self._published is not None:
            for key in await self._published.named(header.algorithm, header.kid):
                yield key

    def _principal(self, found: Claims) -> Principal:
        role = found.values.get("role", self._roles.anonymous)
        if not isinstance(role, str) or not role:
            raise TokenRefused("it names no role, and there is no anon_role")
        return self._roles.principal(role, found.text if "role" in found.values else with_role(found.text, role))
