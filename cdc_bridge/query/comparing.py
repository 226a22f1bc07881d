"""Values of rows as Python values that compare as PostgreSQL compares them, exactly or not at all.

A value comes as the raw JSON that `row_to_json` wrote. Which type it is of is known beforehand, so each type has
functions that read its values. Where PostgreSQL alone can say how two values compare there is no such function; where
it is a single value that memory cannot tell of, or that is not of the type at all (its row is older than the column's
type), reading it raises `Undecided`.

An array's image does not tell its lower bounds; they are taken to be what they nearly always are.
"""

from __future__ import annotations

from collections.abc import Hashable
from decimal import Decimal
from functools import lru_cache
from json import JSONDecoder
from typing import Any

from cdc_bridge.model.catalog import Collation, PgType, TypeKind
from cdc_bridge.model.row import split_array
from cdc_bridge.query.scalars import (
    NULL,
    NULL_ELEMENT,
    ORDERED,
    Read,
    Undecided,
    enum,
    read_bpchar,
    read_numeric,
    read_text,
    same_bpchar,
    same_integer,
    same_text,
)

__all__ = [
    "NULL",
    "NULL_ELEMENT",
    "Read",
    "Undecided",
    "characters",
    "elements",
    "equality",
    "order",
    "read_numeric",
    "read_text",
]

READERS_MAX = 4096
TEXT = frozenset({"text", "character varying", "name"})
BPCHAR = "character"
INTEGERS = frozenset({"smallint", "integer", "bigint"})


@lru_cache(READERS_MAX)
def equality(type_: PgType, collation: Collation) -> Read | None:
    """Two values are equal in SQL exactly if what is read is equal. None: memory cannot tell."""
    if type_.name in TEXT or type_.name == BPCHAR:
        if not collation.is_deterministic:
            return None
        return same_bpchar if type_.name == BPCHAR else same_text
    if type_.labels:
        return enum(type_.labels)
    if type_.name in INTEGERS:
        return same_integer
    if type_.name == "jsonb":
        return _jsonb
    if type_.kind is TypeKind.ARRAY and type_.element is not None:
        return _array(equality(type_.element, collation), type_.element)
    return order(type_, collation)


@lru_cache(READERS_MAX)
def order(type_: PgType, collation: Collation) -> Read | None:
    """As `equality`, and `<` is SQL's too."""
    if type_.labels:
        return enum(type_.labels)
    if type_.kind is TypeKind.ARRAY and type_.element is not None:
        return _array(order(type_.element, collation), type_.element, is_ordered=True)
    if type_.name in TEXT:
        return read_text if collation.is_bytewise else None
    if type_.name == BPCHAR:
        return read_bpchar if collation.is_bytewise else None
    return ORDERED.get(type_.name)


def characters(type_: PgType) -> Read | None:
    """The text of types that have any, char(n) with the blanks that fill it."""
    return read_text if type_.name in TEXT or type_.name == BPCHAR else None


@lru_cache(READERS_MAX)
def elements(type_: PgType, collation: Collation) -> Read | None:
    """An array's elements as a set. Arrays contain each other as these do; but a NULL is in none of them."""
    if type_.kind is not TypeKind.ARRAY or type_.element is None:
        return None
    read = _array(equality(type_.element, collation), type_.element)
    if read is None:
        return None

    def read_elements(raw: bytes) -> Hashable:
        return frozenset(_flat(read(raw)))

    return read_elements


def _flat(items: Hashable) -> list[Hashable]:
    """The elements of all dimensions. (Elements are tuples only where a time has a zone.)"""
    assert isinstance(items, _Dimension)
    flat: list[Hashable] = []
    for item in items:
        flat += _flat(item) if isinstance(item, _Dimension) else [item]
    return flat


class _Dimension(tuple[Hashable, ...]):
    """The elements of an array, or of one of its dimensions."""

    __slots__ = ()


def _array(read: Read | None, element: PgType, *, is_ordered: bool = False) -> Read | None:
    """None for those of `jsonb`, which may look like dimensions, and of which NULL cannot be told from null.

    Those of several dimensions come in the order of all their elements first, whatever the dimensions.
    """
    if read is None or element.kind is TypeKind.ARRAY or element.name == "jsonb":
        return None

    def read_item(raw: bytes) -> Hashable:
        if raw == NULL:
            return NULL_ELEMENT
        return read(raw) if raw[:1] != b"[" else read_array(raw)

    def read_array(raw: bytes) -> Hashable:
        if raw[:1] != b"[" or (is_ordered and raw[1:2] == b"["):
            raise Undecided
        try:
            return _Dimension(map(read_item, map(bytes, split_array(raw))))
        except ValueError as error:
            raise Undecided from error

    return read_array


class _Container(tuple[Hashable, ...]):
    """An object or an array in `jsonb`, apart from each other and from scalars."""

    __slots__ = ()


class _Members(list[tuple[str, Any]]):
    """An object's members as they come."""


_decode_json = JSONDecoder(parse_int=Decimal, parse_float=Decimal, object_pairs_hook=_Members).decode


def _jsonb(raw: bytes) -> Hashable:
    try:
        return _frozen(_decode_json(raw.decode()))
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise Undecided from error


def _frozen(value: Any) -> Hashable:
    match value:
        case _Members():
            return _Container(("{", frozenset((name, _frozen(member)) for name, member in value)))
        case list():
            return _Container(("[", *map(_frozen, value)))
        case bool() | None:
            return _Container((value,))  # else True would be equal to the number 1
    return value  # type: ignore[no-any-return]
