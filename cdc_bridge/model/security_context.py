"""Principals, and the security contexts in which tables are read on their behalf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cdc_bridge.model.filter import EVERYTHING, Filter
from cdc_bridge.model.row import decode_exact, encode_exact

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
        found = decode_exact(self.claims) if self.claims else {}
        return found if isinstance(found, dict) else {}

    @property
    def lasting(self) -> str:
        """Return a text that is the same for the next token of the same person, for data that outlive a connection."""
        claims = {name: value for name, value in self.claim_values.items() if name not in PASSING}
        return encode_exact([self.name, self.role, dict(sorted(claims.items()))])


SELF = Principal()
"""The bridge itself, with the rights of its own role."""


RowRules: TypeAlias = tuple[tuple[int, Filter], ...]
"""By the `oid` of a table, the filter on its visible rows."""


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """A principal, and the rows of each table that the rules of the configuration let it see.

    Grants and policies are not part of it, since PostgreSQL applies them when it reads as the principal's role.
    """

    principal: Principal = SELF
    rows: RowRules = ()
    _by_table: Mapping[int, Filter] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_table", dict(self.rows))
        object.__setattr__(self, "_hash", hash((self.principal, self.rows)))

    def __hash__(self) -> int:
        return self._hash

    def rows_of(self, relation_id: int) -> Filter:
        """Return the filter on the visible rows of a table."""
        return self._by_table.get(relation_id, EVERYTHING)


BY_ITSELF = SecurityContext()
"""The bridge reads for itself."""
