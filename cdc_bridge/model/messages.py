"""Parse the messages of clients. `frames.py` has what a bridge sends.

The texts of validation errors follow a recorded Directus 12.4.1. Where Directus is silent the bridge answers: an
unknown `type` is an error, and a schema error carries the client's `uid`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from cdc_bridge.model.errors import RequestError, invalid_payload
from cdc_bridge.model.row import decode_exact
from cdc_bridge.model.subscription import EventKind, Item, Overflow, Uid

UID_CHARACTERS_MAX = 1000
"""Bounds a uid, which is kept with its subscription and repeated in every message."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    collection: str
    event: EventKind | None
    item: Item | None
    query: dict[str, Any]
    uid: Uid
    cursor: bool = False
    after: str | None = None
    tx: bool = False
    old: bool = False
    changes_only: bool = False
    related: bool = False
    overflow: Overflow = Overflow.CLOSE


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    uid: Uid


@dataclass(frozen=True, slots=True)
class Status:
    uid: Uid


@dataclass(frozen=True, slots=True)
class ReadCollections:
    uid: Uid


@dataclass(frozen=True, slots=True)
class Ping:
    uid: Uid


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Authenticate:
    """`access_token` is None for credentials that the bridge does not support: a password, or a refresh token."""

    access_token: str | None = field(repr=False)
    uid: Uid = None


@dataclass(frozen=True, slots=True)
class ReadItems:
    """`items` with `action: read`. `item` is the row asked for by `id`, `items` are those asked for by `ids`."""

    collection: str
    item: Item | None
    query: dict[str, Any]
    uid: Uid
    items: tuple[Item, ...] | None = None


Message: TypeAlias = Subscribe | Unsubscribe | Status | ReadCollections | Ping | Pong | Authenticate | ReadItems


@dataclass
class InvalidMessage(Exception):
    """A message that breaks the protocol. `type` is that of the error's frame."""

    type: str
    error: RequestError
    uid: Uid = None


def parse(text: str | bytes) -> Message:
    """Parse one frame. Raises `InvalidMessage`, and nothing else, whatever the client has sent."""
    body = _decode(text)
    if not isinstance(body, dict):
        raise InvalidMessage("server", _validation(f"expected object, received {_type_of(body)}"))
    if not isinstance(body.get("type"), str):
        raise InvalidMessage("server", _validation(_expected("string", body, "type")))
    uid = body.get("uid")
    if "uid" in body and _type_of(uid) not in ("string", "number"):
        raise InvalidMessage("server", _validation(_no_key(body, "uid")))
    if isinstance(uid, str) and len(uid) > UID_CHARACTERS_MAX:
        raise InvalidMessage("server", _validation(f'"uid" is longer than {UID_CHARACTERS_MAX} characters'))
    parser = _PARSERS.get(body["type"])
    if parser is None:
        known = ", ".join(f'"{name}"' for name in _PARSERS)
        raise InvalidMessage(
            "server", invalid_payload(f'"type" is "{body["type"][:80]}"; it has to be one of {known}'), uid
        )
    return parser(body)


def _decode(text: str | bytes) -> Any:
    """Decode a frame. Numbers keep all digits, except in uids and keys, which compare as JavaScript has them."""
    try:
        body = decode_exact(text)
        if isinstance(body, dict):
            body.update(
                {member: _as_javascript(body[member]) for member in ("uid", "item", "id", "ids") if member in body}
            )
        return body
    except ValueError:
        error = RequestError("INVALID_PAYLOAD", "Unable to parse the incoming message.")
        raise InvalidMessage("server", error) from None


def _as_javascript(value: Any) -> Any:
    """Convert numbers to JavaScript's. Raises `ValueError` for one that is too large."""
    if isinstance(value, dict):
        return {name: _as_javascript(each) if isinstance(each, Decimal) else each for name, each in value.items()}
    if isinstance(value, list):
        return [_as_javascript(each) if isinstance(each, (Decimal, dict)) else each for each in value]
    if not isinstance(value, Decimal):
        return value
    number = float(value)
    if math.isinf(number):
        raise ValueError("too large")
    return number


def _subscribe(body: dict[str, Any]) -> Subscribe:
    flags = ("cursor", "tx", "old", "related")
    problems = _object_problems(
        body, {"collection": "string", "query": "object", "after": "string", **dict.fromkeys(flags, "boolean")}
    )
    event = body.get("event")
    if "event" in body and event not in ("create", "update", "delete"):
        problems.append('Invalid option: expected one of "create"|"update"|"delete" at "event"')
    if "item" in body and not _is_item(body["item"]):
        problems.append(_no_key(body, "item"))
    if "changes" in body and body["changes"] not in ("only", "all"):
        problems.append('Invalid option: expected one of "only"|"all" at "changes"')
    problems += _overflow_problems(body)
    if problems:
        raise InvalidMessage("subscribe", _validation(*problems), body.get("uid"))
    return Subscribe(
        body["collection"],
        EventKind(event) if event else None,
        body.get("item"),
        body.get("query", {}),
        body.get("uid"),
        after=body.get("after"),
        changes_only=body.get("changes") == "only",
        overflow=Overflow(body.get("overflow", "close")),
        **{flag: body.get(flag, False) for flag in flags},
    )


def _overflow_problems(body: dict[str, Any]) -> list[str]:
    overflow = body.get("overflow", "close")
    if overflow not in ("close", "latest", "resync"):
        return ['Invalid option: expected one of "close"|"latest"|"resync" at "overflow"']
    if overflow != "latest":
        return []
    return [
        f'Invalid option: "latest" at "overflow" leaves events out, which "{flag}" does not allow'
        for flag in ("tx", "old")
        if body.get(flag) is True
    ]


def _authenticate(body: dict[str, Any]) -> Authenticate:
    given = [each for each in _CREDENTIALS if each <= body.keys()]
    if not given:
        problem = 'expected "access_token", or "email" and "password", or "refresh_token"'
        raise InvalidMessage("auth", _validation(problem), body.get("uid"))
    if problems := _object_problems(body, dict.fromkeys(sorted(given[0]), "string")):
        raise InvalidMessage("auth", _validation(*problems), body.get("uid"))
    return Authenticate(body.get("access_token"), body.get("uid"))


def _read_items(body: dict[str, Any]) -> ReadItems:
    uid = body.get("uid")
    if (action := body.get("action")) != "read":
        shown = f'"{action[:80]}"' if isinstance(action, str) else _type_of(action) if "action" in body else "missing"
        error = invalid_payload(f'"action" is {shown}; the bridge only reads: "read"')
        raise InvalidMessage("items", error, uid)
    problems = _object_problems(body, {"collection": "string", "query": "object", "ids": "array"})
    if not problems and not all(map(_is_item, body.get("ids", ()))):
        problems.append('Invalid input: expected string or number in each element of "ids"')
    if "id" in body and not _is_item(body["id"]):
        problems.append(_no_key(body, "id"))
    if problems:
        raise InvalidMessage("items", _validation(*problems), uid)
    item, items = body.get("id"), body.get("ids")
    of_many = None if items is None or item is not None else tuple(items)
    return ReadItems(body["collection"], item, body.get("query", {}), uid, of_many)


_CREDENTIALS = ({"access_token"}, {"email", "password"}, {"refresh_token"})

_PARSERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "subscribe": _subscribe,
    "unsubscribe": lambda body: Unsubscribe(body.get("uid")),
    "status": lambda body: Status(body.get("uid")),
    "collections": lambda body: ReadCollections(body.get("uid")),
    "ping": lambda body: Ping(body.get("uid")),
    "pong": lambda body: Pong(),
    "auth": _authenticate,
    "items": _read_items,
}


def _object_problems(body: dict[str, Any], expected: dict[str, str]) -> list[str]:
    """Return a sentence for each member of another JSON type than expected. Only `collection` is required."""
    return [
        _expected(type_, body, member)
        for member, type_ in expected.items()
        if (member in body or member == "collection") and _type_of(body.get(member, _MISSING)) != type_
    ]


def _no_key(body: dict[str, Any], member: str) -> str:
    return _expected("string", body, member) + " or " + _expected("number", body, member)


_MISSING = object()


def _expected(type_: str, body: dict[str, Any], member: str) -> str:
    return f'Invalid input: expected {type_}, received {_type_of(body.get(member, _MISSING))} at "{member}"'


def _validation(*problems: str) -> RequestError:
    sentences = [each if each.startswith("Invalid") else f"Invalid input: {each}" for each in problems]
    return RequestError("INVALID_PAYLOAD", "Validation error: " + "; ".join(sentences))


def _type_of(value: Any) -> str:
    """Return JavaScript's name for the type of a JSON value."""
    match value:
        case bool():
            return "boolean"
        case None:
            return "null"
        case str():
            return "string"
        case int() | float() | Decimal():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
    return "undefined"


def _is_item(value: Any) -> bool:
    """Whether the value can be a key. (Not in Directus: an object, for a key of several columns.)"""
    return _type_of(value) in ("string", "number", "object")
