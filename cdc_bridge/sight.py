"""With whose eyes tables are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.filters.filter import EVERYTHING, Filter
from cdc_bridge.viewer import SELF, Viewer

RowRules: TypeAlias = tuple[tuple[int, Filter], ...]
"""By the `oid` of a table: what its rows have to be like to be seen."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A viewer, and which rows of each table (by its `oid`) the rules of the configuration let it see.

    What grants and policies say is not here: PostgreSQL knows it, and reads as the viewer's role.
    """

    viewer: Viewer = SELF
    rows: RowRules = ()
    _by_table: Mapping[int, Filter] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_table", dict(self.rows))
        object.__setattr__(self, "_hash", hash((self.viewer, self.rows)))

    def __hash__(self) -> int:
        return self._hash

    def rows_of(self, relation_id: int) -> Filter:
        """What its rows have to be like to be seen."""
        return self._by_table.get(relation_id, EVERYTHING)


BY_ITSELF = Sight()
"""The bridge reads for itself."""
