"""On whose behalf the database is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc_bridge.model import exactjson

PASSING = frozenset({"exp", "iat", "jti", "nbf"})
"""Claims that are others in each token of the same person (RFC 7519)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a client is.

    `name` is the role as tokens and rules call it. `role` is the database role that reads for this principal; with
    None the bridge reads as itself. `claims` are those of the token, as JSON text, for `request.jwt.claims`.
    """

    name: str = ""
    role: str | None = None
    claims: str = ""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.name, self.role, self.claims)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def claim_values(self) -> Mapping[str, Any]:
        found = exactjson.decode(self.claims) if self.claims else {}
        return found if isinstance(found, dict) else {}

    @property
    def lasting(self) -> str:
        """What stays the same in the next token of the same person: for what outlives a connection."""
        claims = {name: value for name, value in self.claim_values.items() if name not in PASSING}
        return exactjson.encode([self.name, self.role, dict(sorted(claims.items()))])


SELF = Principal()
"""The bridge itself: everything that its own role may read."""
