"""Encode values: from what `row_to_json` wrote to what clients read.

Initial data and changes are both rendered by PostgreSQL's `row_to_json` under the same pinned settings,
so the same value arrives as the same bytes. Most of them are already what the protocol asks for.
The exceptions: `int8` and `numeric` become strings (a JavaScript number would lose digits), `timestamptz`
gets its `Z` and at least three fraction digits, and so do those inside of arrays and composites.

An encoder of `None` means that the bytes pass as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias, assert_never

import msgspec

from cdc_bridge.model.catalog import PgType, TypeKind
from cdc_bridge.model.instants import civil, day_number
from cdc_bridge.model.row import split_array, split_object

Encoder: TypeAlias = Callable[[bytes], bytes]

NULL = b"null"


def encoder(type_: PgType) -> Encoder | None:
    """Return the encoder of a column's type. Encoders take and return one JSON value, `null` included."""
    match type_.kind:
        case TypeKind.PLAIN:
            return None
        case TypeKind.QUOTED:
            return quote
        case TypeKind.TIMESTAMPTZ:
            return timestamptz
        case TypeKind.ARRAY:
            return _array(type_.element)
        case TypeKind.COMPOSITE:
            return _composite(type_.fields)
    assert_never(type_.kind)


def quote(raw: bytes) -> bytes:
    """Turn `3.50000` into `"3.50000"`. `"NaN"` is quoted already."""
    if raw[:1] == b'"' or raw == NULL:
        return raw
    return b'"' + raw + b'"'


def timestamptz(raw: bytes) -> bytes:
    """Turn `"2026-11-24T10:34:56.7+00:00"` into `"2026-11-24T10:34:56.700Z"`; infinities pass.

    A trigger may have written it in the time zone of the writer's session, since setting that costs the writer.
    """
    if raw[-7:] == b'+00:00"' and raw[20:21] == b"." and len(raw) in (31, 34):  # nearly all, three or six digits
        return raw[:-7] + b'Z"'
    before, zone, after = raw.partition(b"+00:00")
    if not zone:
        return _in_utc(raw)
    seconds, _, fraction = before.partition(b".")
    digits = 3 if len(fraction) <= 3 else 6
    return seconds + b"." + fraction.ljust(digits, b"0") + b"Z" + after


_ZONED = re.compile(rb'"(\d{4,})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?([+-])(\d\d):(\d\d)(?::(\d\d))?( BC)?"')


def _in_utc(raw: bytes) -> bytes:
    found = _ZONED.fullmatch(raw)
    if found is None:
        return raw
    fraction, sign, era = found[7] or b"", found[8], found[12]
    year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
    offset_s = (int(found[9]) * 60 + int(found[10])) * 60 + int(found[11] or 0)
    local_s = (hour * 60 + minute) * 60 + second
    days, second_of_day = divmod(local_s + (offset_s if sign == b"-" else -offset_s), 86_400)
    year, month, day = civil(day_number(1 - year if era else year, month, day) + days)
    minutes, second = divmod(second_of_day, 60)
    digits = 3 if len(fraction) <= 3 else 6
    date = f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}"
    time = f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}.{fraction.decode().ljust(digits, '0')}Z"
    return f'"{date}T{time}{" BC" if year <= 0 else ""}"'.encode()


def name(text: str) -> bytes:
    """Return a JSON object's key with its colon."""
    return msgspec.json.encode(text) + b":"


def array(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _array(element: PgType | None) -> Encoder | None:
    while element is not None and element.kind is TypeKind.ARRAY:  # by way of a domain; it nests like a dimension
        element = element.element
    encode = encoder(element) if element else None
    if encode is None:
        return None

    def encode_array(raw: bytes) -> bytes:
        if raw == NULL:
            return raw
        # Dimensions nest, and no element of a type that has an encoder begins with a bracket.
        return array([(encode_array if item[:1] == b"[" else encode)(item) for item in map(bytes, split_array(raw))])

    return encode_array


def _composite(fields: Sequence[tuple[str, PgType]]) -> Encoder | None:
    encoders = {field: encode for field, type_ in fields if (encode := encoder(type_))}
    if not encoders:
        return None

    def encode_composite(raw: bytes) -> bytes:
        if raw == NULL:
            return raw
        parts = []
        for field, value in split_object(raw).items():
            encode = encoders.get(field)
            parts.append(name(field) + (encode(bytes(value)) if encode else bytes(value)))
        return b"{" + b",".join(parts) + b"}"

    return encode_composite
