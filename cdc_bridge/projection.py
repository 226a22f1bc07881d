"""Which columns of a row a client gets, and the row as the JSON that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cdc_bridge import values
from cdc_bridge.catalog import Collection, Column
from cdc_bridge.change import Row


@dataclass(frozen=True, slots=True)
class Projection:
    """Columns in the order of the output. Equal projections are equal values, so that work can be shared."""

    columns: tuple[Column, ...]
    _hash: int = field(init=False, repr=False, compare=False)
    """Worked out once: it is asked for with every change."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.columns))

    def __hash__(self) -> int:
        return self._hash


class RowEncoder:
    """Encodes rows by one projection."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._parts = [(values.name(c.name), c.name, values.encoder(c.type)) for c in columns]

    def encode(self, row: Row) -> bytes:
        """One JSON object. A column that the image lacks (it is older than the column) reads null."""
        parts = []
        for key, column, encode in self._parts:
            raw = row.get(column)
            if raw is None:
                parts.append(key + values.NULL)
            elif encode is None:
                parts.append(key + bytes(raw))
            else:
                parts.append(key + encode(bytes(raw)))
        return b"{" + b",".join(parts) + b"}"


class KeyEncoder:
    """The key of a row as `delete` carries it: the value, or an object when the key has several columns."""

    def __init__(self, collection: Collection) -> None:
        self._columns = RowEncoder(collection.key_columns)
        self._single = collection.key_columns[0] if len(collection.key) == 1 else None
        self._encode = values.encoder(self._single.type) if self._single else None

    def encode(self, row: Row) -> bytes:
        if self._single is None:
            return self._columns.encode(row)
        raw = bytes(row.get(self._single.name, values.NULL))
        return self._encode(raw) if self._encode else raw
