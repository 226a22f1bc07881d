"""What of a row a client gets, and the row as the JSON that it gets.

Most outputs are columns, which every image of a row has. The others (`author.name`, `year(created)`) the database has
to add; they come as a second row, the completion, of which the members are called by the position of their output.
Where the database reads the rows, it gives all outputs by their positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from cdc_bridge.model import values
from cdc_bridge.model.catalog import Collection, Column, Reference
from cdc_bridge.model.change import Row
from cdc_bridge.model.filter import EVERYTHING, Field, Filter
from cdc_bridge.model.rawjson import split_array, split_object


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


Encode: TypeAlias = Callable[[bytes], bytes]
Part: TypeAlias = tuple[bytes, str, Encode | None]
"""The name with its colon, the member of the row that has the value, and how to encode it."""


class RowEncoder:
    """Encodes rows by one projection."""

    def __init__(self, projection: Projection) -> None:
        """For images, with completions where the projection is not flat."""
        self._image: list[Part | None] = []
        self._completion: list[Part | None] = []
        for position, output in enumerate(projection.outputs):
            plain = output.column
            part = _part(output, str(position) if plain is None else plain.name)
            self._image.append(None if plain is None else part)
            self._completion.append(part if plain is None else None)
        self._plain = [part for part in self._image if part is not None]

    def encode(self, image: Row) -> bytes:
        """One JSON object, of a flat projection. A column that the image lacks (it is older) reads null."""
        return b"{" + b",".join([_member(part, image) for part in self._plain]) + b"}"

    def complete(self, image: Row, completion: Row) -> bytes:
        """One JSON object, of any projection."""
        members = []
        for of_image, of_completion in zip(self._image, self._completion, strict=True):
            if of_image is not None:
                members.append(_member(of_image, image))
            elif of_completion is not None:
                members.append(_member(of_completion, completion))
        return b"{" + b",".join(members) + b"}"


class ReadEncoder:
    """Encodes rows of which the members are called by the positions of a projection's outputs."""

    def __init__(self, projection: Projection) -> None:
        self._parts = [_part(output, str(position)) for position, output in enumerate(projection.outputs)]

    def encode(self, row: Row) -> bytes:
        return b"{" + b",".join([_member(part, row) for part in self._parts]) + b"}"


class KeyEncoder:
    """The key of a row as `delete` carries it: the value, or an object when the key has several columns."""

    def __init__(self, collection: Collection) -> None:
        self._columns = RowEncoder(Projection.of(collection.key_columns))
        self._single = collection.key_columns[0] if len(collection.key) == 1 else None
        self._encode = values.encoder(self._single.type) if self._single else None

    def encode(self, row: Row) -> bytes:
        if self._single is None:
            return self._columns.encode(row)
        raw = bytes(row.get(self._single.name, values.NULL))
        return self._encode(raw) if self._encode else raw


def _member(part: Part, row: Row) -> bytes:
    key, name, encode = part
    raw = row.get(name)
    if raw is None:
        return key + values.NULL
    return key + (bytes(raw) if encode is None else encode(bytes(raw)))


def _part(output: Output, name: str) -> Part:
    return values.name(output.name), name, _encoder(output.source)


def _encoder(source: Field | Nested) -> Encode | None:
    if isinstance(source, Field):
        return values.encoder(source.type)
    if source.is_count:
        return None
    one = _bare(source.projection.outputs[0].source) if source.is_bare else _object(source.projection)
    return _list(one) if source.reference.is_many else one


def _object(projection: Projection) -> Encode:
    encode = ReadEncoder(projection).encode
    return lambda raw: raw if raw == values.NULL else encode(split_object(raw))


def _bare(source: Field | Nested) -> Encode:
    encode = _encoder(source)

    def encode_bare(raw: bytes) -> bytes:
        value = raw if raw == values.NULL else bytes(split_object(raw)["0"])
        return encode(value) if encode else value

    return encode_bare


def _list(one: Encode) -> Encode:
    return lambda raw: values.array([one(bytes(item)) for item in split_array(raw)])
