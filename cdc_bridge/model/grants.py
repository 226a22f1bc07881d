"""What roles may see of tables by grants and row-level security: facts of the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class RowPolicy:
    """A policy for SELECT. `expression` is its condition as PostgreSQL prints it; it uses these `columns`.

    `digest` is another one when the policy, or what it depends on, has changed. `obstacle` is why it cannot be judged
    of a row that is not in the table any more; empty where nothing is known to stand in the way.
    """

    name: str
    expression: str
    columns: tuple[str, ...]
    is_permissive: bool = True
    digest: str = ""
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class TableAccess:
    """The access of one role to one table. `columns` of None are all; with `policies` of None all rows are visible."""

    columns: frozenset[str] | None = None
    policies: tuple[RowPolicy, ...] | None = None


EVERYTHING_THERE = TableAccess()
NO_ACCESS = TableAccess(frozenset(), ())

RoleAccess: TypeAlias = Mapping[int, TableAccess]
"""By the `oid` of a table."""


@dataclass(frozen=True, slots=True)
class Access:
    """The access of all roles that the bridge may take; None is the bridge itself.

    `claim_functions`, by schema and name, give what depends on nothing but the claims of a token.
    """

    roles: Mapping[str | None, RoleAccess] = field(default_factory=dict)
    claim_functions: frozenset[tuple[str, str]] = frozenset()

    def of(self, role: str | None) -> RoleAccess:
        return self.roles.get(role, _NOWHERE)

    def to(self, relation_id: int, role: str | None) -> TableAccess:
        """Return what the role may see of a table. Without a database, the bridge itself may see everything."""
        if role is None and None not in self.roles:
            return EVERYTHING_THERE
        return self.of(role).get(relation_id, NO_ACCESS)


_NOWHERE: RoleAccess = MappingProxyType({})
UNKNOWN = Access()
