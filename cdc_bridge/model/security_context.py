"""With whose eyes tables are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.model.filter import EVERYTHING, Filter
from cdc_bridge.model.principal import SELF, Principal

RowRules: TypeAlias = tuple[tuple[int, Filter], ...]
"""By the `oid` of a table: what its rows have to be like to be seen."""


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """A principal, and which rows of each table (by its `oid`) the rules of the configuration let it see.

    What grants and policies say is not here: PostgreSQL knows it, and reads as the principal's role.
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
        """What its rows have to be like to be seen."""
        return self._by_table.get(relation_id, EVERYTHING)


BY_ITSELF = SecurityContext()
"""The bridge reads for itself."""
