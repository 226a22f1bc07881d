"""Values of rows as Python values that compare as PostgreSQL compares them, exactly or not at all.

A value comes as the raw JSON that `row_to_json` wrote. Which type it is of is known beforehand, so each type has
functions that read its values. Where PostgreSQL alone can say how two values compare there is no such function; where
it is a single value that memory cannot tell of, or that is not of the type at all (its row is older than the column's
type), reading it raises `Undecided`.

An array's image does not tell its lower bounds; they are taken to be what they nearly always are.
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
    """Memory cannot tell of this value."""


Read: TypeAlias = Callable[[bytes], Hashable]
"""From a raw JSON value, never `null`, to one that compares. It may raise `Undecided`."""


class Greatest:
    """More than anything else but a `Greatest` of a higher rank, and equal to itself."""

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
"""A NULL in an array. It equals another one, and comes after all else."""


def read_text(raw: bytes) -> str:
    """A JSON string as text."""
    if raw[:1] != b'"':
        raise Undecided
    try:
        if b"\\" not in raw:
            return raw[1:-1].decode()
        return msgspec.json.decode(raw, type=str)
    except ValueError as error:
        raise Undecided from error


def _guarded(read: Callable[[bytes], Hashable]) -> Read:
    """For functions that raise `ValueError` when they are given something else."""

    def read_guarded(raw: bytes) -> Hashable:
        try:
            return read(raw)
        except (ValueError, OverflowError) as error:
            raise Undecided from error

    return read_guarded


def same_text(raw: bytes) -> bytes:
    """PostgreSQL writes equal texts as equal JSON."""
    if raw[:1] != b'"':
        raise Undecided
    return raw


def same_integer(raw: bytes) -> bytes:
    """PostgreSQL writes equal integers alike."""
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
    """Making a `Decimal` of text, comparing and hashing it are exact whatever the context."""
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
    """That of a `real` too: what prints as different digits is different, and in the same order."""
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
    """The type with the quotes, one byte; those past ASCII are printed differently by different versions."""
    text = read_text(raw)
    if len(text) > 1 or not text.isascii():
        raise Undecided
    return text


def _uuid(raw: bytes) -> bytes:
    """Its digits come in the order of their letters."""
    if len(raw) != 38:
        raise Undecided
    return raw


def _bytea(raw: bytes) -> bytes:
    """The closing quote comes before all digits, as the end of the shorter one has to."""
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
    """A label that the catalog does not know has been added or renamed since."""
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
