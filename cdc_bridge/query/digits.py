"""Write a client's number as `row_to_json` writes it in a column of a numeric type."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

NUMERIC_DIGITS_MAX = 131_072
"""Before the point of a numeric."""
NUMERIC_SCALE_MAX = 16_383

_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,40})\s*", re.ASCII)


def integer(low: int, high: int, *, is_quoted: bool = False) -> Callable[[Any], bytes]:
    written = b'"%d"' if is_quoted else b"%d"

    def normalize_integer(value: Any) -> bytes:
        number = _whole(value)
        if not low <= number <= high:
            raise ValueError("out of range")
        return written % number

    return normalize_integer


def _whole(value: Any) -> int:
    match value:
        case bool():
            raise ValueError("not a number")
        case int():
            return value
        case float() | Decimal() if -(2**64) < value < 2**64 and value == int(value):
            return int(value)
        case str() if found := _INTEGER.fullmatch(value):
            return int(found[1])
    raise ValueError("not a whole number")


_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_NONFINITE = {
    "nan": b'"NaN"',
    "inf": b'"Infinity"',
    "+inf": b'"Infinity"',
    "-inf": b'"-Infinity"',
    "infinity": b'"Infinity"',
    "+infinity": b'"Infinity"',
    "-infinity": b'"-Infinity"',
}


def _number_text(value: Any) -> str:
    match value:
        case bool():
            raise ValueError("not a number")
        case int():
            return format(Decimal(value), "f")
        case float() | Decimal():
            return str(value)
        case str():
            return value.strip(" \t\n\r\v\f")
    raise ValueError("not a number")


def numeric(value: Any) -> bytes:
    text = _number_text(value)
    if special := _NONFINITE.get(text.lower()):
        return special
    if not _DECIMAL.fullmatch(text):
        raise ValueError("not a number")
    number = Decimal(text)
    if number.adjusted() >= NUMERIC_DIGITS_MAX or _scale(number) > NUMERIC_SCALE_MAX:
        raise ValueError("too large or too long for a numeric")
    return format(number or number.copy_abs(), "f").encode()  # a numeric has no -0


def _scale(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _float(value: Any) -> float | bytes:
    text = _number_text(value)
    if special := _NONFINITE.get(text.lower()):
        return special
    if not _DECIMAL.fullmatch(text):
        raise ValueError("not a number")
    number = float(text)
    if number in (float("inf"), float("-inf")) or (not number and re.search("[1-9]", text.lower().partition("e")[0])):
        raise ValueError("out of range")
    return number


def double(value: Any) -> bytes:
    number = _float(value)
    return number if isinstance(number, bytes) else _printed(repr(number), fixed_digits=15)


def real(value: Any) -> bytes:
    """Write the shortest digits that still read as this number of four bytes."""
    number = _float(value)
    if isinstance(number, bytes):
        return number
    rounded = _rounded(number)
    if number and not rounded:
        raise ValueError("out of range")
    shortest = next(text for digits in range(9) if _reads_as(text := f"{rounded:.{digits}e}", rounded))
    return _printed(shortest, fixed_digits=6)


def _reads_as(text: str, rounded: float) -> bool:
    try:
        return _rounded(float(text)) == rounded
    except ValueError:  # the largest ones, with too few digits, are larger than any
        return False


def _rounded(number: float) -> float:
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    except OverflowError as error:
        raise ValueError("out of range") from error
    return float(rounded)


def _printed(text: str, *, fixed_digits: int) -> bytes:
    """Write as PostgreSQL does: with an exponent below -4, or when too many digits stand before the point."""
    number = Decimal(text)
    sign, digits, _ = number.as_tuple()
    exponent = number.adjusted()
    minus = "-" if sign else ""
    plain = "".join(map(str, digits)).rstrip("0")
    if not plain:
        return f"{minus}0".encode()
    if -4 <= exponent < fixed_digits:
        fixed = format(number, "f")
        return (fixed.rstrip("0").removesuffix(".") if "." in fixed else fixed).encode()
    point = "." if len(plain) > 1 else ""
    return f"{minus}{plain[0]}{point}{plain[1:]}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}".encode()
