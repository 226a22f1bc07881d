"""Read values of rows as Python values that compare as PostgreSQL compares them, exactly or not at all.

A value comes as the raw JSON that `row_to_json` wrote, and its type is known beforehand, so each type has functions
that read its values. There is none where only PostgreSQL can compare two values of the type. A function raises
`Undecided` for a single value that memory cannot read, or that is not of the type at all because its row is older than
the type.

The JSON of an array does not tell its lower bounds; they are taken to be 1, as they nearly always are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from decimal import Decimal
from functools import lru_cache
from json import JSONDecoder
from typing import Any, TypeAlias

import msgspec

from cdc_bridge.model import instants
from cdc_bridge.model.catalog import Collation, PgType, TypeKind
from cdc_bridge.model.row import split_array

READERS_MAX = 4096
TEXT = frozenset({"text", "character varying", "name"})
BPCHAR = "character"
INTEGERS = frozenset({"smallint", "integer", "bigint"})
NULL = b"null"


class Undecided(Exception):
    """Memory cannot say how this value compares."""


Read: TypeAlias = Callable[[bytes], Hashable]
"""Reads a raw JSON value, never `null`. May raise `Undecided`."""


class Greatest:
    """A value greater than all others but a `Greatest` of a higher rank, and equal to itself."""

    __slots__ = ("_rank",)

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def __lt__(self, other: object) -> bool:
        return isinstance(other, Greatest) and self._rank < other._rank

    def __le__(self, other: object) -> bool:
        return self is other or self < other

    def __gt__(self, other: object) -> bool:
        return not self <= other

    def __ge__(self, other: object) -> bool:
        return not self < other

    def __repr__(self) -> str:
        return f"Greatest({self._rank})"


NAN = Greatest(1)
NULL_ELEMENT = Greatest(2)
"""A NULL in an array: equal to another one, and after everything else."""


def read_text(raw: bytes) -> str:
    """Read a JSON string."""
    if raw[:1] != b'"':
        raise Undecided
    try:
        if b"\\" not in raw:
            return raw[1:-1].decode()
        return msgspec.json.decode(raw, type=str)
    except ValueError as error:
        raise Undecided from error


def _guarded(read: Callable[[bytes], Hashable]) -> Read:
    """Wrap a function that raises `ValueError` for a value of another type."""

    def read_guarded(raw: bytes) -> Hashable:
        try:
            return read(raw)
        except (ValueError, OverflowError) as error:
            raise Undecided from error

    return read_guarded


def same_text(raw: bytes) -> bytes:
    """Read text for equality: PostgreSQL writes equal texts as equal JSON."""
    if raw[:1] != b'"':
        raise Undecided
    return raw


def same_integer(raw: bytes) -> bytes:
    """Read an integer for equality: PostgreSQL writes equal integers as equal JSON."""
    if not (raw.isdigit() or (raw[:1] == b"-" and raw[1:].isdigit())):
        raise Undecided
    return raw


def same_bpchar(raw: bytes) -> bytes:
    if raw[:1] != b'"':
        raise Undecided
    return raw[1:-1].rstrip(b" ")


def read_bpchar(raw: bytes) -> str:
    return read_text(raw).rstrip(" ")


def _integer(raw: bytes) -> int:
    try:
        return int(raw)
    except ValueError as error:
        raise Undecided from error


def _oid(raw: bytes) -> int:
    return _integer(raw.strip(b'"'))


_NUMERICS: dict[bytes, Hashable] = {
    b'"NaN"': NAN,
    b'"Infinity"': Decimal("Infinity"),
    b'"-Infinity"': Decimal("-Infinity"),
}


def read_numeric(raw: bytes) -> Hashable:
    """Read a numeric. Making a `Decimal` of text, comparing and hashing it are exact whatever the context."""
    if raw[:1] == b'"':
        found = _NUMERICS.get(raw)
        if found is None:
            raise Undecided
        return found
    try:
        return Decimal(raw.decode())
    except (ValueError, ArithmeticError) as error:
        raise Undecided from error


_FLOATS: dict[bytes, Hashable] = {
    b'"NaN"': NAN,
    b'"Infinity"': float("inf"),
    b'"-Infinity"': float("-inf"),
}


def _float(raw: bytes) -> Hashable:
    """Read a float; a `real` as well, since different values print different digits, in the same order."""
    if raw[:1] == b'"':
        found = _FLOATS.get(raw)
        if found is None:
            raise Undecided
        return found
    try:
        return float(raw)
    except ValueError as error:
        raise Undecided from error


def _boolean(raw: bytes) -> bool:
    if raw not in (b"true", b"false"):
        raise Undecided
    return raw == b"true"


def _char(raw: bytes) -> str:
    """Read a `"char"`, one byte. Versions of PostgreSQL print bytes past ASCII differently."""
    text = read_text(raw)
    if len(text) > 1 or not text.isascii():
        raise Undecided
    return text


def _uuid(raw: bytes) -> bytes:
    """Read a uuid, whose digits order as its bytes do."""
    if len(raw) != 38:
        raise Undecided
    return raw


def _bytea(raw: bytes) -> bytes:
    """Read a bytea. The closing quote orders before all digits, as the end of the shorter value has to."""
    if raw[:4] != b'"\\\\x':
        raise Undecided
    return raw


ORDERED: dict[str, Read] = {
    "smallint": _integer,
    "integer": _integer,
    "bigint": _integer,
    "numeric": read_numeric,
    "real": _float,
    "double precision": _float,
    "boolean": _boolean,
    '"char"': _char,
    "uuid": _uuid,
    "date": _guarded(instants.read_date),
    "timestamp without time zone": _guarded(instants.read_timestamp),
    "timestamp with time zone": _guarded(instants.read_timestamptz),
    "time without time zone": _guarded(instants.read_time),
    "time with time zone": _guarded(instants.read_timetz),
    "interval": _guarded(instants.read_interval),
    "bytea": _bytea,
    "oid": _oid,
}


def enum(labels: tuple[str, ...]) -> Read:
    """Return how to read an enum. A label that the catalog does not know was added or renamed since."""
    positions = {msgspec.json.encode(label): position for position, label in enumerate(labels)}

    def read_enum(raw: bytes) -> int:
        try:
            return positions[raw]
        except KeyError as error:
            raise Undecided from error

    return read_enum


# Which function reads a type.


@lru_cache(READERS_MAX)
def equality(type_: PgType, collation: Collation) -> Read | None:
    """Return how to read a type for equality, or None: what is read is equal exactly if SQL says so."""
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
    """Return how to read a type for order, or None: what is read compares exactly as in SQL."""
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
    """Return how to read a type's text, a char(n) with the blanks that fill it, or None when it has none."""
    return read_text if type_.name in TEXT or type_.name == BPCHAR else None


@lru_cache(READERS_MAX)
def elements(type_: PgType, collation: Collation) -> Read | None:
    """Return how to read an array's elements as a set: arrays contain each other as sets do, but for NULLs."""
    if type_.kind is not TypeKind.ARRAY or type_.element is None:
        return None
    read = _array(equality(type_.element, collation), type_.element)
    if read is None:
        return None

    def read_elements(raw: bytes) -> Hashable:
        return frozenset(_flat(read(raw)))

    return read_elements


def _flat(items: Hashable) -> list[Hashable]:
    """Return the elements of all dimensions. (Elements are tuples only where a time has a zone.)"""
    assert isinstance(items, _Dimension)
    flat: list[Hashable] = []
    for item in items:
        flat += _flat(item) if isinstance(item, _Dimension) else [item]
    return flat


class _Dimension(tuple[Hashable, ...]):
    """The elements of an array, or of one of its dimensions."""

    __slots__ = ()


def _array(read: Read | None, element: PgType, *, is_ordered: bool = False) -> Read | None:
    """Return how to read an array, or None: elements of type jsonb may look like dimensions, and their null like NULL.

    Arrays of several dimensions are not read for order: SQL orders them by all their elements first.
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
    """An object or an array in `jsonb`; objects, arrays and scalars never equal each other."""

    __slots__ = ()


class _Members(list[tuple[str, Any]]):
    """An object's members in the order in which they come."""


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
