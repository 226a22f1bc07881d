"""How the values of scalar types are read so that they compare: what `comparing` chooses from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import TypeAlias

import msgspec

from cdc_bridge.model import instants
from cdc_bridge.query.literals import text_json

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
    positions = {text_json(label): position for position, label in enumerate(labels)}

    def read_enum(raw: bytes) -> int:
        try:
            return positions[raw]
        except KeyError as error:
            raise Undecided from error

    return read_enum
