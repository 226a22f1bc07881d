"""From a token to who its bearer is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cdc_bridge.access import claims
from cdc_bridge.access.auth_state import Identity, authentication_failed
from cdc_bridge.access.claims import Claims
from cdc_bridge.access.keys import Key
from cdc_bridge.access.published_keys import PublishedKeys
from cdc_bridge.access.refusal import Refused
from cdc_bridge.access.roles import Roles
from cdc_bridge.access.static_tokens import StaticToken, StaticTokens
from cdc_bridge.access.tokens import Header, Verifier, header_of
from cdc_bridge.logs import facts
from cdc_bridge.model import exactjson
from cdc_bridge.model.principal import Principal

log = logging.getLogger(__name__)


class Authenticator:
    """`keys` are those that are at hand: the shared secret, a public key. `published` are the issuer's."""

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
        """These are good from now on, and no others, also for those who are in already."""
        self._static_tokens = StaticTokens(static_tokens)

    def anonymous(self) -> Principal | None:
        """Who has shown no token; None when nobody may see anything without one."""
        return self._roles.nobody()

    async def identify(self, token: str) -> Identity:
        """Raises `RequestError`, which tells the client nothing of the reason."""
        try:
            return await self._identify(token)
        except Refused as refused:
            log.debug("a token was refused", extra=facts(reason=str(refused)))
            raise authentication_failed() from None

    async def keep_fresh(self) -> None:
        """Beside everything else: follow the issuer's keys."""
        if self._published is not None:
            await self._published.keep_fresh()

    async def _identify(self, token: str) -> Identity:
        if static := self._static_tokens.find(token):
            return Identity(self._viewer(_claims_of(static)), is_revoked=lambda: static not in self._static_tokens)
        found = await self._verified(token)
        return Identity(self._viewer(found), self._verifier.expiry(found))

    async def _verified(self, token: str) -> Claims:
        async for key in self._candidates(header_of(token)):
            if found := self._verifier.verify(token, key):
                return found
        raise Refused("no key of ours has signed it")

    async def _candidates(self, header: Header) -> AsyncIterator[Key]:
        """Those at hand first: they wait for nobody."""
        for key in self._keys:
            if key.algorithm == header.algorithm:
                yield key
        if self._published is not None:
            for key in await self._published.named(header.algorithm, header.kid):
                yield key

    def _viewer(self, found: Claims) -> Principal:
        role = found.values.get("role", self._roles.anonymous)
        if not isinstance(role, str) or not role:
            raise Refused("it names no role, and there is no anon_role")
        return self._roles.principal(role, found.text if "role" in found.values else claims.with_role(found.text, role))


def _claims_of(static: StaticToken) -> Claims:
    values: dict[str, Any] = dict(static.claims) | ({"role": static.role} if static.role else {})
    return Claims(exactjson.encode(values), values)
