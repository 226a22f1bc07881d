"""On whose behalf tables are read, and under which rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.model.filter import EVERYTHING, Filter
from cdc_bridge.model.principal import SELF, Principal

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
