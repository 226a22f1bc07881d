"""From a row to the JSON that clients get, compiled once per collection.

PostgreSQL's `row_to_json` renders initial data and changes under the same pinned settings, so the same value comes as
the same bytes, and most pass through. The exceptions: `int8` and `numeric` become strings (a JavaScript number would
lose digits), `timestamptz` gets its `Z` and at least three fraction digits, and so do those inside of arrays and
composites.

What the database has to add to the row of a change comes as a second row, `nested`, whose members are called by
the position of their output. Where the database reads the rows, all members are called so.

Bound: `ENCODERS_MAX` projections, since clients choose them. Policy: past it they are compiled anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias, assert_never

import msgspec

from cdc_bridge.model.catalog import Collection, PgType, TypeKind
from cdc_bridge.model.filter import Field
from cdc_bridge.model.instants import civil, day_number
from cdc_bridge.model.row import Row, RowValues, split_array, split_object
from cdc_bridge.model.subscription import Nested, Output, Projection

ENCODERS_MAX = 1000

NULL = b"null"

Encode: TypeAlias = Callable[[bytes], bytes]
EncodeRow: TypeAlias = Callable[[RowValues], bytes]
RowKey: TypeAlias = Callable[[Row], bytes]

Part: TypeAlias = tuple[bytes, str, Encode | None]
"""The name with its colon, the member of the row that has the value, and how to rewrite it."""


class RowEncoder:
    """Encodes rows of changes by one projection."""

    def __init__(self, projection: Projection) -> None:
        parts = [_part(output, position) for position, output in enumerate(projection.outputs)]
        is_plain = [output.column is not None for output in projection.outputs]
        self._parts = list(zip(parts, is_plain, strict=True))
        self._encode = object_encoder([part for part, is_plain in self._parts if is_plain])
        self._verbatim = _verbatim_names(projection)

    def for_rows_like(self, row: Row) -> EncodeRow:
        """Return the encoder, by a flat projection, of rows with the columns of this one.

        A column that they lack, since they are older than it, reads null.
        """
        return _verbatim if self._verbatim and tuple(row.columns) == self._verbatim else self._encode

    def complete(self, row: RowValues, nested: RowValues) -> bytes:
        """Encode by any projection."""
        members = [_member(part, row if is_plain else nested) for part, is_plain in self._parts]
        return b"{" + b",".join(members) + b"}"


@lru_cache(ENCODERS_MAX)
def row_encoder(projection: Projection) -> RowEncoder:
    return RowEncoder(projection)


def read_encoder(projection: Projection) -> EncodeRow:
    """Return the encoder of rows whose members are called by the positions of the projection's outputs."""
    return object_encoder([(member_name(o.name), str(i), _encoder(o.source)) for i, o in enumerate(projection.outputs)])


def key_encoder(collection: Collection) -> EncodeRow:
    """Return the encoder of keys as `delete` carries them: the value, or an object when there are several columns."""
    columns = collection.key_columns
    if len(columns) > 1:
        return object_encoder([(member_name(c.name), c.name, value_encoder(c.type)) for c in columns])
    name, encode = columns[0].name, value_encoder(columns[0].type)
    if encode is None:
        return lambda row: bytes(row.get(name, NULL))
    return lambda row: encode(bytes(row.get(name, NULL)))


def row_key(collection: Collection) -> RowKey | None:
    """Return the encoder of a row's key, None without a key. Most keys are read without taking the row apart."""
    if not collection.key:
        return None
    encode_key = key_encoder(collection)
    if len(collection.key) > 1:
        return lambda row: encode_key(row.columns)
    begin = b"{" + member_name(collection.key[0])
    encode = value_encoder(collection.key_columns[0].type)

    def encode_row_key(row: Row) -> bytes:
        raw = row.value_after(begin)
        if raw is None:
            return encode_key(row.columns)
        return raw if encode is None else encode(raw)

    return encode_row_key


def object_encoder(parts: Sequence[Part]) -> EncodeRow:
    """Return a function that makes one JSON object of these members of a row; null of those that it lacks."""
    if not parts:
        return lambda _: b"{}"
    names = [name for _, name, _ in parts]
    pick = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
    pieces: list[Any] = [piece for key, _, _ in parts for piece in (b"," + key, b"")] + [b"}"]
    pieces[0] = b"{" + parts[0][0]
    rewritten = [(2 * position + 1, encode) for position, (_, _, encode) in enumerate(parts) if encode is not None]

    def encode_object(row: RowValues) -> bytes:
        if isinstance(row, Row):
            row = row.columns
        members = pieces.copy()
        try:
            members[1::2] = pick(row)
        except KeyError:
            members[1::2] = [row.get(name, NULL) for name in names]
        for position, encode in rewritten:
            members[position] = encode(bytes(members[position]))
        return b"".join(members)

    return encode_object


def _verbatim(row: RowValues) -> bytes:
    assert isinstance(row, Row)
    return bytes(row.raw)


def _verbatim_names(projection: Projection) -> tuple[str, ...]:
    """Return the columns of the rows that the projection shows as PostgreSQL wrote them; empty when there are none.

    The text of a `json` may have blanks around it, which are no part of the value that other rows show.
    """
    for output in projection.outputs:
        column = output.column
        if column is None or column.name != output.name or column.type.name == "json":
            return ()
        if value_encoder(column.type) is not None or member_name(column.name) != b'"%b":' % column.name.encode():
            return ()
    return tuple([output.name for output in projection.outputs])


def _member(part: Part, row: RowValues) -> bytes:
    key, name, encode = part
    raw = bytes(row.get(name, NULL))
    return key + (raw if encode is None else encode(raw))


def _part(output: Output, position: int) -> Part:
    column = output.column
    return member_name(output.name), str(position) if column is None else column.name, _encoder(output.source)


def _encoder(source: Field | Nested) -> Encode | None:
    if isinstance(source, Field):
        return value_encoder(source.type)
    if source.is_count:
        return None
    one = _bare(source.projection.outputs[0].source) if source.is_bare else _object(source.projection)
    return _list(one) if source.reference.is_many else one


def _object(projection: Projection) -> Encode:
    encode = read_encoder(projection)
    return lambda raw: raw if raw == NULL else encode(split_object(raw))


def _bare(source: Field | Nested) -> Encode:
    encode = _encoder(source)

    def encode_bare(raw: bytes) -> bytes:
        value = raw if raw == NULL else bytes(split_object(raw)["0"])
        return encode(value) if encode else value

    return encode_bare


def _list(one: Encode) -> Encode:
    return lambda raw: array([one(bytes(item)) for item in split_array(raw)])


# --- single values ---


def value_encoder(type_: PgType) -> Encode | None:
    """Return the encoder of a column's type, which takes and returns one JSON value, `null` included. None: the bytes
    pass as they are.
    """
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
        return raw if raw == NULL else _in_utc(raw)
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


def member_name(text: str) -> bytes:
    """Return a JSON object's key with its colon."""
    return msgspec.json.encode(text) + b":"


def array(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _array(element: PgType | None) -> Encode | None:
    while element is not None and element.kind is TypeKind.ARRAY:  # by way of a domain; it nests like a dimension
        element = element.element
    encode = value_encoder(element) if element else None
    if encode is None:
        return None

    def encode_array(raw: bytes) -> bytes:
        if raw == NULL:
            return raw
        # Dimensions nest, and no element of a type that has an encoder begins with a bracket.
        return array([(encode_array if item[:1] == b"[" else encode)(item) for item in map(bytes, split_array(raw))])

    return encode_array


def _composite(fields: Sequence[tuple[str, PgType]]) -> Encode | None:
    encoders = {field: encode for field, type_ in fields if (encode := value_encoder(type_))}
    if not encoders:
        return None

    def encode_composite(raw: bytes) -> bytes:
        if raw == NULL:
            return raw
        parts = []
        for field, value in split_object(raw).items():
            encode = encoders.get(field)
            parts.append(member_name(field) + (encode(bytes(value)) if encode else bytes(value)))
        return b"{" + b",".join(parts) + b"}"

    return encode_composite
