"""What the JSON of a row does not tell: the null of a JSON value is written there as NULL is.

A client's filter takes the two for one (`condition`). A policy need not, so what it says of such an image is certain
only when it says the same of every row that is written so. For a json or jsonb column these are two, and PostgreSQL is
asked about both. Inside of arrays and composites it reads every null back as NULL, and the lists in an array of JSON as
its dimensions: of these images nothing is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import msgspec

from cdc_bridge.model.catalog import Column, PgType, TypeKind
from cdc_bridge.model.filter import Filter, Policy, leaves
from cdc_bridge.model.row import RowValues, split_array, split_object
from cdc_bridge.model.values import NULL

NULLS_MAX = 4
"""Of one image. Each makes twice as many rows of it."""

UNREADABLE = "a change does not tell what was in a column with JSON"

NULLS = (msgspec.Raw(NULL), msgspec.Raw(b" " + NULL))
"""NULL, and the null of a JSON value: the blank tells whoever reads it back."""


def doubtful(filter_: Filter) -> tuple[Column, ...]:
    """The columns that policies use, and of which an image may not tell what is in them."""
    used = {column: None for leaf in leaves(filter_) if isinstance(leaf, Policy) for column in leaf.columns}
    return tuple([column for column in used if _has_json(column.type)])


def possible(image: RowValues, columns: Iterable[Column]) -> Sequence[RowValues]:
    """The rows that this may be an image of, as far as these columns go; none where nobody can say which they are."""
    nulls = []
    for column in columns:
        raw = bytes(image.get(column.name, NULL))
        if raw == NULL and column.type.is_json:
            nulls.append(column.name)
        elif not _is_certain(raw, column.type):
            return ()
    if len(nulls) > NULLS_MAX:
        return ()
    chosen = product(NULLS, repeat=len(nulls))
    return [{**image, **dict(zip(nulls, each, strict=True))} for each in chosen] if nulls else (image,)


def _has_json(type_: PgType) -> bool:
    """Whether there is any in it."""
    if type_.kind is TypeKind.ARRAY:
        return type_.element is not None and _has_json(type_.element)
    return type_.is_json or any(_has_json(inner) for _, inner in type_.fields)


def _is_certain(raw: bytes, type_: PgType) -> bool:
    """Whether PostgreSQL reads this back as it was."""
    raw = raw.strip()
    if not _has_json(type_) or type_.is_json or raw == NULL:
        return True
    if raw[:1] != (b"[" if type_.kind is TypeKind.ARRAY else b"{"):
        return False  # it is from before the column had this type
    if type_.kind is TypeKind.ARRAY:
        return all(_is_certain_in(type_, bytes(item).strip()) for item in split_array(raw))
    members = split_object(raw)
    return all(_is_certain_member(bytes(members.get(name, NULL)), inner) for name, inner in type_.fields)


def _is_certain_in(array: PgType, item: bytes) -> bool:
    """Dimensions nest, and the elements of an array of composites are no lists."""
    assert array.element is not None
    if array.element.is_json:
        return item != NULL and item[:1] != b"["
    return _is_certain(item, array if item[:1] == b"[" else array.element)


def _is_certain_member(raw: bytes, type_: PgType) -> bool:
    return raw.strip() != NULL if type_.is_json else _is_certain(raw, type_)
