"""What of a row a client gets.

Most outputs are columns, which every version of a row has. The others (`author.name`, `year(created)`) the database has
to add; `table` says how the two become one JSON object.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cdc_bridge.model.catalog import Collection, Column, Reference
from cdc_bridge.model.filter import EVERYTHING, Field, Filter


@dataclass(frozen=True, slots=True)
class SortKey:
    """A field to sort by. `path` leads to its row along foreign keys, from row to row.

    A last step of the path to many rows sorts by the number of these; `field` is the column that they refer to.
    """

    field: Field
    descending: bool = False
    path: tuple[Reference, ...] = ()


def total_order(sort: tuple[SortKey, ...], collection: Collection) -> tuple[SortKey, ...]:
    """What was asked for, then the key, so that pages do not overlap."""
    named = {key.field.column.name for key in sort if not key.path and key.field.function is None}
    return *sort, *(SortKey(Field(column)) for column in collection.key_columns if column.name not in named)


@dataclass(frozen=True, slots=True)
class Nested:
    """Rows of another collection that belong to a row: one object or null, or with `reference.is_many` a list.

    `is_bare`: not objects, but the value of the projection's only output. `is_count`: their number instead, without a
    projection. The rest says which of many, and in what order; `limit` of None is all.
    """

    reference: Reference
    projection: Projection
    is_bare: bool = False
    is_count: bool = False
    filter: Filter = EVERYTHING
    sort: tuple[SortKey, ...] = ()
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """One member of the object that a client gets."""

    name: str
    source: Field | Nested

    @property
    def column(self) -> Column | None:
        """The column that it shows as it is."""
        is_plain = isinstance(self.source, Field) and self.source.function is None
        return self.source.column if is_plain and isinstance(self.source, Field) else None


@dataclass(frozen=True, slots=True)
class Projection:
    """The outputs in their order. Equal projections are equal values, so that work can be shared."""

    outputs: tuple[Output, ...]
    is_flat: bool = field(init=False, repr=False, compare=False)
    """Whether an image of a row has all of it."""
    _hash: int = field(init=False, repr=False, compare=False)
    """Worked out once: it is asked for with every change."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_flat", all(output.column is not None for output in self.outputs))
        object.__setattr__(self, "_hash", hash(self.outputs))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, columns: Iterable[Column]) -> Projection:
        """These columns under their own names."""
        return cls(tuple(Output(column.name, Field(column)) for column in columns))
