"""JSON taken apart one level deep, its values left as the bytes that they are.

msgspec does it, and fast. But it gives up on nesting of about a thousand levels, which PostgreSQL stores without
a word, and on half of a surrogate pair, which PostgreSQL keeps in a `json`; a scanner of our own, slow and without
recursion, takes over there. What comes here was written by PostgreSQL, so it is known to be JSON; anything else raises
`ValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from cdc_bridge.model.change import Row

_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_rows = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]')


def split_array(text: bytes) -> list[msgspec.Raw]:
    """`[1,[2]]` -> `1`, `[2]`."""
    try:
        return _decode_array(text)
    except (RecursionError, msgspec.DecodeError):
        return [msgspec.Raw(item) for item in _items(text)]


def split_object(text: str | bytes) -> Row:
    """`{"a":1}` -> `a: 1`."""
    try:
        return _decode_object(text)
    except (RecursionError, msgspec.DecodeError):
        return _members(text.encode() if isinstance(text, str) else text)


def split_rows(text: str) -> list[Row]:
    """An array of objects, each taken apart."""
    try:
        return list(_decode_rows(text))
    except (RecursionError, msgspec.DecodeError):
        return [_members(item) for item in _items(text.encode())]


def _members(text: bytes) -> Row:
    members = {}
    for member in _items(text):
        name = _TOKEN.match(member)
        if name is None or member[name.end() : name.end() + 1] != b":":
            raise ValueError("an object's member has no name")
        members[msgspec.json.decode(name.group(), type=str)] = msgspec.Raw(member[name.end() + 1 :])
    return members


def _items(text: bytes) -> Iterator[bytes]:
    """What stands between the commas of the outermost brackets."""
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
