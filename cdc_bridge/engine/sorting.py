"""The rows of one message in the order that a subscription's `sort` asks for.

Nulls come as PostgreSQL puts them. Text goes by its code points: its collation is the database's own affair, and one
message is too little to ask it. What an image does not have (`author.name`, `year(created)`) orders nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from cdc_bridge.model import values
from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.change import Row
from cdc_bridge.model.projection import SortKey


def in_order(positions: Sequence[int], rows: Sequence[Row], sort: Sequence[SortKey]) -> Sequence[int]:
    """The positions of rows, sorted. Equal rows stay as they are."""
    keys = [key for key in sort if not (key.path or key.field.function)]
    if not keys or len(positions) < 2:
        return positions
    result = list(positions)
    for key in reversed(keys):
        column = key.field.column
        rank = _rank(column.type)
        ranks = {i: rank(bytes(rows[i].get(column.name, values.NULL))) for i in result}
        result.sort(key=ranks.__getitem__, reverse=key.descending)
    return result


def _rank(type_: PgType) -> Callable[[bytes], Any]:
    is_number = type_.kind is TypeKind.QUOTED or type_.name in ("smallint", "integer", "real", "double precision")
    return _number_rank if is_number else _text_rank


def _number_rank(raw: bytes) -> tuple[int, Decimal]:
    """NaN is more than any number, null more than everything."""
    if raw == values.NULL:
        return 2, Decimal()
    number = Decimal(raw.decode().strip('"'))
    return (1, Decimal()) if number.is_nan() else (0, number)


def _text_rank(raw: bytes) -> tuple[bool, Hashable]:
    if raw == values.NULL:
        return True, ""
    return False, msgspec.json.decode(raw) if raw[:1] == b'"' else raw.decode()
