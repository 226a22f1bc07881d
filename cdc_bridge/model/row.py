"""Rows as PostgreSQL's `row_to_json` wrote them, and JSON taken apart one level deep.

A row stays the bytes that it came as. Its columns are looked up when the first of them is asked for, and their values
are never decoded: an `int8` past 2**53 and a `numeric` have more digits than Python's `float` can carry.

msgspec does the splitting. It gives up on nesting of about a thousand levels, which PostgreSQL stores without
complaint, and on half of a surrogate pair, which PostgreSQL keeps in a `json`; a scanner of our own, slow and without
recursion, takes over there. PostgreSQL wrote all that comes here, so it is known to be JSON; anything else raises
`ValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import msgspec

Raw: TypeAlias = msgspec.Raw

RowValues: TypeAlias = Mapping[str, Raw]
"""Column name -> the column's JSON value, not decoded."""

_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]')


class Row(RowValues):
    """One version of a row: a mapping from column name to raw value, in the order in which PostgreSQL wrote them.

    `raw` is the whole JSON object. Looking at a column raises `ValueError` when it is none.
    """

    __slots__ = ("_columns", "raw")

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self._columns: dict[str, Raw] | None = None

    @property
    def columns(self) -> dict[str, Raw]:
        """The same mapping as a dict, for code that reads many columns."""
        columns = self._columns
        if columns is None:
            try:
                columns = _decode_object(self.raw)
            except (RecursionError, msgspec.DecodeError):
                columns = _members(bytes(self.raw))
            self._columns = columns
        return columns

    def value_after(self, begin: bytes) -> bytes | None:
        """Return the value that follows when the row begins so; None when only taking the row apart can tell."""
        if self._columns is not None:
            return None
        raw = bytes(self.raw)
        start = len(begin)
        if not raw.startswith(begin):
            return None
        match raw[start : start + 1]:
            case b'"':
                end = raw.find(b'"', start + 1) + 1
                return None if raw.find(b"\\", start, end) >= 0 else raw[start:end]
            case b"{" | b"[":
                return None
        end = raw.find(b",", start)
        return raw[start : end if end >= 0 else -1]

    def __getitem__(self, name: str) -> Raw:
        return self.columns[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.columns.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        return f"Row({bytes(self.raw)!r})"


def split_rows(text: str) -> list[Row]:
    """Return the rows of a JSON array of objects."""
    if not text.startswith(("[{", "[]")):
        raise ValueError("not an array of rows")
    return [Row(raw) for raw in split_array(text)]


def split_array(text: str | bytes | Raw) -> list[Raw]:
    """Return the elements of a JSON array: `1` and `[2]` of `[1,[2]]`."""
    try:
        return _decode_array(text)
    except (RecursionError, msgspec.DecodeError):
        return [Raw(item) for item in _items(_bytes(text))]


def split_object(text: str | bytes | Raw) -> dict[str, Raw]:
    """Return the members of a JSON object: `1`, called `a`, of `{"a":1}`."""
    try:
        return _decode_object(text)
    except (RecursionError, msgspec.DecodeError):
        return _members(_bytes(text))


def _bytes(text: str | bytes | Raw) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


def _members(text: bytes) -> dict[str, Raw]:
    members = {}
    for member in _items(text):
        name = _TOKEN.match(member)
        if name is None or member[name.end() : name.end() + 1] != b":":
            raise ValueError("an object's member has no name")
        members[msgspec.json.decode(name.group(), type=str)] = Raw(member[name.end() + 1 :])
    return members


def _items(text: bytes) -> Iterator[bytes]:
    """Yield what stands between the commas of the outermost brackets."""
    depth = 0
    start = 1
    for token in _TOKEN.finditer(text):
        match token.group():
            case b"[" | b"{":
                depth += 1
            case b"]" | b"}":
                depth -= 1
                if depth == 0:
                    break
            case b"," if depth == 1:
                yield text[start : token.start()]
                start = token.end()
    else:
        raise ValueError("brackets are not closed")
    if token.start() > start:
        yield text[start : token.start()]


# --- JSON as clients write it ---

_exact_decoder = msgspec.json.Decoder(float_hook=Decimal)
_exact_encoder = msgspec.json.Encoder(decimal_format="number")


def decode_exact(text: str | bytes) -> Any:
    """Decode JSON. Numbers keep all digits: `1.50` is `Decimal("1.50")`, never a float.

    Raises `ValueError`, and nothing else, for what is no JSON or is nested too deep to be read.
    """
    try:
        return _exact_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidOperation) as error:
        raise ValueError("no JSON that can be read") from error


def encode_exact(value: Any) -> str:
    """Return a value that was decoded so as compact text."""
    return _exact_encoder.encode(value).decode()
