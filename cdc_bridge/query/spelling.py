"""A client's JSON value as `row_to_json` would write it in a column.

Only spellings that PostgreSQL reads the same way in every version and under every setting are read here. It has many
more, for dates above all; those are its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.query import digits

JSON_DEPTH_MAX = 100
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
    spelled = digits.numeric(value)
    if spelled[:1] == b'"':
        raise ValueError("not a JSON number")
    return spelled


def _json_object(value: dict[str, Any], depth: int) -> bytes:
    """Its members by length, then by bytes."""
    named = sorted(((name.encode(), member) for name, member in value.items()), key=lambda m: (len(m[0]), m[0]))
    return b"{" + b", ".join([_text(n.decode()) + b": " + _json_value(m, depth + 1) for n, m in named]) + b"}"


_SPELLINGS: dict[str, Callable[[Any], bytes]] = {
    "smallint": digits.integer(-(2**15), 2**15 - 1),
    "integer": digits.integer(-(2**31), 2**31 - 1),
    "bigint": digits.integer(-(2**63), 2**63 - 1),
    "oid": digits.integer(0, 2**32 - 1, is_quoted=True),
    "numeric": digits.numeric,
    "real": digits.real,
    "double precision": digits.double,
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
