"""The fields of a row that a client gets.

Most outputs are columns, which every version of a row has. The database has to add the others (`author.name`,
`year(created)`); `table` combines both into one JSON object.
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
    """Return the sort keys followed by the key of the collection, so that pages do not overlap."""
    named = {key.field.column.name for key in sort if not key.path and key.field.function is None}
    return *sort, *(SortKey(Field(column)) for column in collection.key_columns if column.name not in named)


@dataclass(frozen=True, slots=True)
class Nested:
    """Rows of another collection along a relation: one object or null, or with `reference.is_many` a list.

    `is_bare`: the value of the projection's only output instead of an object. `is_count`: the number of rows instead of
    a list, without a projection. The rest chooses among many rows and sorts them; a `limit` of None is all.
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
        """Return the column, if the output is a plain one."""
        is_plain = isinstance(self.source, Field) and self.source.function is None
        return self.source.column if is_plain and isinstance(self.source, Field) else None


@dataclass(frozen=True, slots=True)
class Projection:
    """The outputs in their order. Equal projections are equal values, so that work can be shared."""

    outputs: tuple[Output, ...]
    is_flat: bool = field(init=False, repr=False, compare=False)
    """Whether every version of a row has all outputs."""
    _hash: int = field(init=False, repr=False, compare=False)
    """Computed once: it is needed with every change."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_flat", all(output.column is not None for output in self.outputs))
        object.__setattr__(self, "_hash", hash(self.outputs))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, columns: Iterable[Column]) -> Projection:
        """Return the projection of these columns under their own names."""
        return cls(tuple(Output(column.name, Field(column)) for column in columns))
