"""Read values of rows as Python values that compare as PostgreSQL compares them, exactly or not at all.

A value comes as the raw JSON that `row_to_json` wrote, and its type is known beforehand, so each type has functions
that read its values. There is none where only PostgreSQL can compare two values of the type. A function raises one of
`UNREADABLE` for a single value that memory cannot read, or that is not of the type at all because its row is older than
the type.

The JSON of an array does not tell its lower bounds; they are taken to be 1, as they nearly always are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from decimal import Decimal
from functools import lru_cache, total_ordering
from typing import TypeAlias

import msgspec

from cdc_bridge.model import instants
from cdc_bridge.model.catalog import NO_COLLATION, Collation, PgType, TypeKind
from cdc_bridge.model.row import split_array

READERS_MAX = 4096
BPCHAR = "character"
TEXTS = frozenset({"text", "character varying", "name", BPCHAR})
NULL = b"null"

UNREADABLE = (ValueError, ArithmeticError, LookupError, RecursionError)
"""Raised where memory cannot say how a value compares."""

Read: TypeAlias = Callable[[bytes], Hashable]
"""Reads a raw JSON value, never `null`. May raise one of `UNREADABLE`."""


@total_ordering
class Greatest:
    """A value greater than all others but a `Greatest` of a higher rank, and equal to itself."""

    __slots__ = ("_rank",)

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def __lt__(self, other: object) -> bool:
        return isinstance(other, Greatest) and self._rank < other._rank


NAN = Greatest(1)
NULL_ELEMENT = Greatest(2)
"""A NULL in an array: equal to another one, and after everything else."""


def read_text(raw: bytes) -> str:
    """Read a JSON string."""
    if raw[:1] == b'"' and b"\\" not in raw:
        return raw[1:-1].decode()
    return msgspec.json.decode(raw, type=str)


def read_bpchar(raw: bytes) -> str:
    return read_text(raw).rstrip(" ")


def same_text(raw: bytes) -> bytes:
    """Read text for equality: PostgreSQL writes equal texts as equal JSON."""
    if raw[:1] != b'"':
        raise ValueError
    return raw


def same_bpchar(raw: bytes) -> bytes:
    return same_text(raw)[1:-1].rstrip(b" ")


def same_integer(raw: bytes) -> bytes:
    """Read an integer for equality: PostgreSQL writes equal integers as equal JSON."""
    if not (raw.isdigit() or (raw[:1] == b"-" and raw[1:].isdigit())):
        raise ValueError
    return raw


_SPECIAL_NUMBERS: dict[bytes, Hashable] = {
    b'"NaN"': NAN,
    b'"Infinity"': float("inf"),
    b'"-Infinity"': float("-inf"),
}


def read_numeric(raw: bytes) -> Hashable:
    """Read a numeric. Making a `Decimal` of text, comparing and hashing it are exact whatever the context."""
    return _SPECIAL_NUMBERS[raw] if raw[:1] == b'"' else Decimal(raw.decode())


def _float(raw: bytes) -> Hashable:
    """Read a float; a `real` as well, since different values print different digits, in the same order."""
    return _SPECIAL_NUMBERS[raw] if raw[:1] == b'"' else float(raw)


def _char(raw: bytes) -> str:
    """Read a `"char"`, one byte. Versions of PostgreSQL print bytes past ASCII differently."""
    text = read_text(raw)
    if len(text) > 1 or not text.isascii():
        raise ValueError
    return text


def _uuid(raw: bytes) -> bytes:
    """Read a uuid, whose digits order as its bytes do."""
    if len(raw) != 38:
        raise ValueError
    return raw


def _bytea(raw: bytes) -> bytes:
    """Read a bytea. The closing quote orders before all digits, as the end of the shorter value has to."""
    if raw[:4] != b'"\\\\x':
        raise ValueError
    return raw


ORDERED: dict[str, Read] = {
    "smallint": int,
    "integer": int,
    "bigint": int,
    "numeric": read_numeric,
    "real": _float,
    "double precision": _float,
    "boolean": {b"true": True, b"false": False}.__getitem__,
    "text": read_text,
    "character varying": read_text,
    "name": read_text,
    BPCHAR: read_bpchar,
    '"char"': _char,
    "uuid": _uuid,
    "date": instants.read_date,
    "timestamp without time zone": instants.read_timestamp,
    "timestamp with time zone": instants.read_timestamptz,
    "time without time zone": instants.read_time,
    "time with time zone": instants.read_timetz,
    "interval": instants.read_interval,
    "bytea": _bytea,
    "oid": lambda raw: int(raw.strip(b'"')),
}
EQUAL: dict[str, Read] = {
    **ORDERED,
    **dict.fromkeys(("smallint", "integer", "bigint"), same_integer),
    **dict.fromkeys(TEXTS, same_text),
    BPCHAR: same_bpchar,
}


def equality(type_: PgType, collation: Collation) -> Read | None:
    """Return how to read a type for equality, or None: what is read is equal exactly if SQL says so."""
    return _reader(type_, collation.is_deterministic, False)


def order(type_: PgType, collation: Collation) -> Read | None:
    """Return how to read a type for order, or None: what is read compares exactly as in SQL."""
    return _reader(type_, collation.is_bytewise, True)


@lru_cache(READERS_MAX)
def _reader(type_: PgType, has_text: bool, is_ordered: bool) -> Read | None:
    if type_.labels:
        # A label that the catalog does not know was added or renamed since.
        return {msgspec.json.encode(label): position for position, label in enumerate(type_.labels)}.__getitem__
    if type_.kind is TypeKind.ARRAY and type_.element is not None:
        return _array(_reader(type_.element, has_text, is_ordered), tuple)
    if type_.name in TEXTS and not has_text:
        return None
    return (ORDERED if is_ordered else EQUAL).get(type_.name)


def characters(type_: PgType, _: Collation = NO_COLLATION) -> Read | None:
    """Return how to read a type's text, a char(n) with the blanks that fill it, or None when it has none."""
    return read_text if type_.name in TEXTS else None


@lru_cache(READERS_MAX)
def elements(type_: PgType, collation: Collation) -> Read | None:
    """Return how to read an array's elements as a set: arrays contain each other as sets do, but for NULLs."""
    return _array(equality(type_.element, collation), frozenset) if type_.element else None


def _array(read: Read | None, made: Callable[[Iterator[Hashable]], Hashable]) -> Read | None:
    """Return how to read an array of one dimension. SQL orders others by all their elements first."""
    if read is None:
        return None

    def read_item(raw: bytes) -> Hashable:
        if raw[:1] == b"[":
            raise ValueError
        return NULL_ELEMENT if raw == NULL else read(raw)

    def read_array(raw: bytes) -> Hashable:
        if raw[:1] != b"[":
            raise ValueError
        return made(map(read_item, map(bytes, split_array(raw))))

    return read_array
