"""A client's JSON value as `row_to_json` would write it in a column.

Only spellings that PostgreSQL reads the same way in every version and under every setting are read here. It has many
more, for dates above all; those are its own affair.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from cdc_bridge.catalog import PgType, TypeKind

NUMERIC_DIGITS_MAX = 131_072
"""Before the point of a numeric."""
NUMERIC_SCALE_MAX = 16_383
JSON_DEPTH_MAX = 500
NAME_BYTES_MAX = 63


class NotNative(Exception):
    """Only PostgreSQL can say what this value is in a column of this type."""


def spell(type_: PgType, value: Any) -> bytes:
    """Raises `ValueError` for a value that is not of the type, and `NotNative`."""
    if value is None:
        raise ValueError("null is no value")
    if type_.kind is TypeKind.ARRAY and type_.element is not None:
        return _array(type_.element, value)
    if type_.labels:
        return _enum(type_.labels, value)
    by_name = _SPELLINGS.get(type_.name)
    if by_name is None:
        raise NotNative
    return by_name(value)


def text_json(text: str) -> bytes:
    """A JSON string, escaped as PostgreSQL does it."""
    return msgspec.json.encode(text)


def _text(value: Any) -> bytes:
    text = _plain(value)
    if "\0" in text:
        raise ValueError("PostgreSQL stores no NUL character")
    text.encode()  # half of a surrogate pair is a ValueError
    return text_json(text)


def _plain(value: Any) -> str:
    """A scalar as text: what a client means that compares text with 7."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return format(Decimal(value), "f")
        case float():
            return repr(value).removesuffix(".0")
    raise ValueError("not a scalar")


def _name(value: Any) -> bytes:
    text = _plain(value)
    if len(text.encode()) > NAME_BYTES_MAX:
        raise NotNative
    return _text(text)


def _char(value: Any) -> bytes:
    text = _plain(value)
    if len(text) > 1 or not text.isascii():
        raise NotNative
    return _text(text)


_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,40})\s*", re.ASCII)


def _integer(low: int, high: int, write: Callable[[int], bytes]) -> Callable[[Any], bytes]:
    def spell_integer(value: Any) -> bytes:
        number = _whole(value)
        if not low <= number <= high:
            raise ValueError("out of range")
        return write(number)

    return spell_integer


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


def _digits(number: int) -> bytes:
    return b"%d" % number


def _quoted_digits(number: int) -> bytes:
    return b'"%d"' % number


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


def _numeric(value: Any) -> bytes:
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


def _double(value: Any) -> bytes:
    number = _float(value)
    return number if isinstance(number, bytes) else _printed(repr(number), fixed_digits=15)


def _real(value: Any) -> bytes:
    """The shortest digits that are still this number among all of four bytes."""
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
    """As PostgreSQL prints: with an exponent when it is less than -4 or has too many digits before the point."""
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


_BOOLEANS = {
    **dict.fromkeys(("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"), b"true"),
    **dict.fromkeys(("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"), b"false"),
}


def _boolean(value: Any) -> bytes:
    spelled = _BOOLEANS.get(_plain(value).strip(" \t\n\r\v\f").lower())
    if spelled is None:
        raise ValueError("not a boolean")
    return spelled


_UUID = re.compile(r"(\{)?((?:[0-9a-f]{4}-?){7}[0-9a-f]{4})(?(1)\})")


def _uuid(value: Any) -> bytes:
    found = _UUID.fullmatch(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("not a uuid")
    digits = found[2].replace("-", "")
    return f'"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"'.encode()


_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_STAMP = re.compile(rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})(?:[T ]({_CLOCK})(Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])?)?")
_TIME = re.compile(_CLOCK)
_INFINITE = ("infinity", "-infinity")


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    return value


def _date(value: Any) -> bytes:
    text = _string(value)
    if text not in _INFINITE:
        if not _DATE.fullmatch(text):
            raise NotNative
        date.fromisoformat(text)
    return f'"{text}"'.encode()


def _timestamp(value: Any) -> bytes:
    """A zone that it is given is passed over, as PostgreSQL does."""
    text = _string(value)
    return f'"{text if text in _INFINITE else _local(text)[0]}"'.encode()


def _timestamptz(value: Any) -> bytes:
    """Without a zone it is UTC, which is the time zone of our sessions."""
    text = _string(value)
    if text in _INFINITE:
        return f'"{text}"'.encode()
    local, zone = _local(text)
    if zone not in ("", "Z"):
        try:
            local = _trimmed(datetime.fromisoformat(local + zone).astimezone(UTC).replace(tzinfo=None).isoformat())
        except OverflowError as error:  # by the hours of a zone before the year 1, or after 9999
            raise NotNative from error
    return f'"{local}+00:00"'.encode()


def _local(text: str) -> tuple[str, str]:
    """The time as it would be printed, and the zone that it says that it is in."""
    found = _STAMP.fullmatch(text)
    if found is None:
        raise NotNative
    date.fromisoformat(found[1])
    return f"{found[1]}T{_seconds(found[2] or '00:00')}", found[3] or ""


def _time(value: Any) -> bytes:
    text = _string(value)
    if not _TIME.fullmatch(text):
        raise NotNative
    return f'"{_seconds(text)}"'.encode()


def _seconds(clock: str) -> str:
    return _trimmed(f"{clock}:00" if len(clock) == 5 else clock)


def _trimmed(text: str) -> str:
    return text.rstrip("0").removesuffix(".") if "." in text else text


_BYTEA = re.compile(r"\\x((?:[0-9a-f]{2})*)")


def _bytea(value: Any) -> bytes:
    found = _BYTEA.fullmatch(_string(value).lower())
    if found is None:
        raise NotNative
    return f'"\\\\x{found[1]}"'.encode()


def _enum(labels: tuple[str, ...], value: Any) -> bytes:
    if value not in labels:
        raise ValueError("not one of " + ", ".join(labels[:20]))
    return text_json(value)


def _array(element: PgType, value: Any) -> bytes:
    """Of one dimension. What PostgreSQL's own way of writing them means, it has to say itself."""
    if not isinstance(value, list) or element.kind is TypeKind.ARRAY:
        raise NotNative
    if any(isinstance(item, list) for item in value) and element.name not in ("json", "jsonb"):
        raise NotNative
    return b"[" + b",".join(b"null" if item is None else spell(element, item) for item in value) + b"]"


def _json(value: Any) -> bytes:
    """A JSON value as itself, as `jsonb` prints it."""
    return _json_value(value, 0)


def _json_value(value: Any, depth: int) -> bytes:
    if depth > JSON_DEPTH_MAX:
        raise ValueError("nested too deep")
    match value:
        case None:
            return b"null"
        case bool():
            return b"true" if value else b"false"
        case str():
            return _text(value)
        case int() | float() | Decimal():
            return _json_number(value)
        case list():
            return b"[" + b", ".join([_json_value(item, depth + 1) for item in value]) + b"]"
        case dict():
            return _json_object(value, depth)
    raise ValueError("not JSON")


def _json_number(value: float | Decimal) -> bytes:
    spelled = _numeric(value)
    if spelled[:1] == b'"':
        raise ValueError("not a JSON number")
    return spelled


def _json_object(value: dict[str, Any], depth: int) -> bytes:
    """Its members by length, then by bytes."""
    named = sorted(((name.encode(), member) for name, member in value.items()), key=lambda m: (len(m[0]), m[0]))
    return b"{" + b", ".join([_text(n.decode()) + b": " + _json_value(m, depth + 1) for n, m in named]) + b"}"


_SPELLINGS: dict[str, Callable[[Any], bytes]] = {
    "smallint": _integer(-(2**15), 2**15 - 1, _digits),
    "integer": _integer(-(2**31), 2**31 - 1, _digits),
    "bigint": _integer(-(2**63), 2**63 - 1, _digits),
    "oid": _integer(0, 2**32 - 1, _quoted_digits),
    "numeric": _numeric,
    "real": _real,
    "double precision": _double,
    "boolean": _boolean,
    "text": _text,
    "character varying": _text,
    "character": _text,
    "name": _name,
    '"char"': _char,
    "uuid": _uuid,
    "date": _date,
    "timestamp without time zone": _timestamp,
    "timestamp with time zone": _timestamptz,
    "time without time zone": _time,
    "bytea": _bytea,
    "json": _json,
    "jsonb": _json,
}
