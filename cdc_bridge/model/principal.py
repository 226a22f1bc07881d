"""On whose behalf the database is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc_bridge.model import exactjson

PASSING = frozenset({"exp", "iat", "jti", "nbf"})
"""Claims that differ between tokens of the same person (RFC 7519)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The role and claims of a client.

    `name` is the role's name in tokens and rules. `role` is the database role that reads for this principal; None: the
    bridge reads as itself. `claims` is the JSON text of the token's claims, for `request.jwt.claims`.
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
        """Return a text that is the same for the next token of the same person, for data that outlive a connection."""
        claims = {name: value for name, value in self.claim_values.items() if name not in PASSING}
        return exactjson.encode([self.name, self.role, dict(sorted(claims.items()))])


SELF = Principal()
"""The bridge itself, with the rights of its own role."""
