"""Bring a client's values into PostgreSQL's text form: as `row_to_json` would write them in a column of the type.

The types that most filters compare are normalized here. Only PostgreSQL knows the form of `"1 day"`, of a float or of a
composite. Such values are collected in one pass over the whole request, PostgreSQL normalizes all of them in one query,
and the request is parsed once more with its answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.filter import Literal
from cdc_bridge.model.row import encode_exact

NUMERIC_DIGITS_MAX = 131_072
"""Before the point of a numeric."""
NUMERIC_SCALE_MAX = 16_383

_OF_TIME = re.compile("date|time|^ts")
_PASSING = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
"""Words that PostgreSQL would replace by the time at which it reads them."""

TypedText: TypeAlias = tuple[PgType, str]
"""A type, and a client's value for it as JSON text."""

PLACEHOLDER = Literal(b"null")
"""Stands for a missing answer of PostgreSQL. Discard what was parsed with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Literals:
    """`known` are PostgreSQL's answers; None: the type does not accept the value. `missing` collects the values that it
    has to be asked for.
    """

    known: Mapping[TypedText, bytes | None] = field(default_factory=dict)
    missing: dict[TypedText, None] = field(default_factory=dict)

    def normalize(self, type_: PgType, value: Any) -> Literal:
        """Return the value as a row has it, or `PLACEHOLDER`. Raises `ValueError` when the type does not accept it."""
        try:
            return Literal(normalize_literal(type_, value))
        except NotNative:
            text = encode_exact(value)
        if _OF_TIME.search(type_.name) and _PASSING.search(text):
            raise ValueError("a word that means another moment each time; $NOW is asked for with each change")
        if (type_, text) not in self.known:
            self.missing[type_, text] = None
            return PLACEHOLDER
        raw = self.known[type_, text]
        if raw is None:
            raise ValueError(f"not of type {type_.name}")
        return Literal(raw)


# --- one value ---


class NotNative(Exception):
    """Only PostgreSQL can normalize this value."""


def normalize_literal(type_: PgType, value: Any) -> bytes:
    """Return a client's JSON value as `row_to_json` would write it in a column of the type.

    Raises `ValueError` for a value that is not of the type, and `NotNative`. Only forms that PostgreSQL reads the same
    way in every version and under every setting are read here. It accepts many more, for dates above all.
    """
    if value is None:
        raise ValueError("null is no value")
    if type_.kind is TypeKind.ARRAY and type_.element is not None:
        return _array(type_.element, value)
    if type_.labels:
        if value not in type_.labels:
            raise ValueError("not one of " + ", ".join(type_.labels[:20]))
        return msgspec.json.encode(value)
    by_name = _NORMALIZERS.get(type_.name)
    if by_name is None:
        raise NotNative
    return by_name(value)


_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,40})\s*", re.ASCII)


def _integer(low: int, high: int, form: bytes = b"%d") -> Callable[[Any], bytes]:
    def normalize_integer(value: Any) -> bytes:
        match value:
            case int() if not isinstance(value, bool):
                number = value
            case float() | Decimal() if -(2**64) < value < 2**64 and value == int(value):
                number = int(value)
            case str() if found := _INTEGER.fullmatch(value):
                number = int(found[1])
            case _:
                raise ValueError("not a whole number")
        if not low <= number <= high:
            raise ValueError("out of range")
        return form % number

    return normalize_integer


_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_NONFINITE = re.compile(r"nan|([+-]?)inf(?:inity)?", re.IGNORECASE)


def _numeric(value: Any) -> bytes:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError("not a number")
    text = format(Decimal(value), "f") if isinstance(value, int) else str(value).strip(" \t\n\r\v\f")
    if special := _NONFINITE.fullmatch(text):
        return b'"NaN"' if special[1] is None else b'"-Infinity"' if special[1] == "-" else b'"Infinity"'
    if not _DECIMAL.fullmatch(text):
        raise ValueError("not a number")
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    if number.adjusted() >= NUMERIC_DIGITS_MAX or -int(exponent) > NUMERIC_SCALE_MAX:
        raise ValueError("too large or too long for a numeric")
    return format(number or number.copy_abs(), "f").encode()  # a numeric has no -0


def _text(value: Any) -> bytes:
    """Return a JSON string, escaped as PostgreSQL escapes it."""
    text = _plain(value)
    if "\0" in text:
        raise ValueError("PostgreSQL stores no NUL character")
    text.encode()  # half of a surrogate pair is a ValueError
    return msgspec.json.encode(text)


def _plain(value: Any) -> str:
    """Return a scalar as text, for clients that compare text with a number."""
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


_BOOLEANS = {
    **dict.fromkeys(("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"), b"true"),
    **dict.fromkeys(("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"), b"false"),
}


def _boolean(value: Any) -> bytes:
    written = _BOOLEANS.get(_plain(value).strip(" \t\n\r\v\f").lower())
    if written is None:
        raise ValueError("not a boolean")
    return written


_UUID = re.compile(r"(\{)?((?:[0-9a-f]{4}-?){7}[0-9a-f]{4})(?(1)\})")


def _uuid(value: Any) -> bytes:
    found = _UUID.fullmatch(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("not a uuid")
    digits = found[2].replace("-", "")
    return f'"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"'.encode()


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_STAMP = re.compile(
    rf"({_DATE.pattern})(?:[T ]((?:[01][0-9]|2[0-3]):[0-5][0-9])(:[0-5][0-9](?:\.[0-9]{{1,6}})?)?(?:Z|\+00:00)?)?"
)


def _date(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("not a string")
    if not _DATE.fullmatch(value):
        raise NotNative
    date.fromisoformat(value)
    return f'"{value}"'.encode()


def _stamp(zone: str) -> Callable[[Any], bytes]:
    """Read a time in UTC, which is the time zone of our sessions, and in which a time without a zone is."""

    def normalize_stamp(value: Any) -> bytes:
        if not isinstance(value, str):
            raise ValueError("not a string")
        found = _STAMP.fullmatch(value)
        if found is None:
            raise NotNative
        date.fromisoformat(found[1])
        seconds = found[3] or ":00"
        if "." in seconds:
            seconds = seconds.rstrip("0").removesuffix(".")
        return f'"{found[1]}T{found[2] or "00:00"}{seconds}{zone}"'.encode()

    return normalize_stamp


def _array(element: PgType, value: Any) -> bytes:
    """Arrays of one dimension. PostgreSQL's own text form is left to PostgreSQL."""
    if not isinstance(value, list) or element.kind is TypeKind.ARRAY:
        raise NotNative
    if any(isinstance(item, list) for item in value) and element.name not in ("json", "jsonb"):
        raise NotNative
    return b"[" + b",".join(b"null" if item is None else normalize_literal(element, item) for item in value) + b"]"


_NORMALIZERS: dict[str, Callable[[Any], bytes]] = {
    "smallint": _integer(-(2**15), 2**15 - 1),
    "integer": _integer(-(2**31), 2**31 - 1),
    "bigint": _integer(-(2**63), 2**63 - 1),
    "oid": _integer(0, 2**32 - 1, b'"%d"'),
    "numeric": _numeric,
    "boolean": _boolean,
    "text": _text,
    "character varying": _text,
    "character": _text,
    "uuid": _uuid,
    "date": _date,
    "timestamp without time zone": _stamp(""),
    "timestamp with time zone": _stamp("+00:00"),
}
