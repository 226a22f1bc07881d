"""The messages of the Directus subscription protocol, in and out, and our close codes.

Texts of validation errors follow a recorded Directus 12.4.1. Where Directus is silent we answer: an unknown
`type` is an error, and a schema error carries the `uid` that the client sent.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec

from cdc_bridge import exactjson, values
from cdc_bridge.errors import RequestError
from cdc_bridge.subscription import Event, EventKind, Item, Meta, Transaction, Uid

UID_CHARACTERS_MAX = 1000
"""A uid is kept with its subscription and comes back in every message."""


class CloseCode(enum.IntEnum):
    """Why we close a socket (RFC 6455, section 7.4.1). The library adds 1007, 1009 and 1011 of its own accord."""

    GOING_AWAY = 1001  # shutdown
    POLICY_VIOLATION = 1008  # abuse of a limit, or no sign of life
    TRY_AGAIN_LATER = 1013  # too slow


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


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    uid: Uid


@dataclass(frozen=True, slots=True)
class Ping:
    uid: Uid


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Authenticate:
    uid: Uid


@dataclass(frozen=True, slots=True)
class ReadItems:
    """`items` with `action: read`. `item` is the row asked for by `id`."""

    collection: str
    item: Item | None
    query: dict[str, Any]
    uid: Uid


Message: TypeAlias = Subscribe | Unsubscribe | Ping | Pong | Authenticate | ReadItems


@dataclass
class InvalidMessage(Exception):
    """A message that breaks the protocol. `type` is the word that the error's frame begins with."""

    type: str
    error: RequestError
    uid: Uid = None


def parse(text: str | bytes) -> Message:
    """One client frame. Raises `InvalidMessage`, and nothing else, for whatever a client can send."""
    body = _decode(text)
    if not isinstance(body, dict):
        raise InvalidMessage("server", _validation(f"expected object, received {_type_of(body)}"))
    if not isinstance(body.get("type"), str):
        raise InvalidMessage("server", _validation(_expected("string", body, "type")))
    if "uid" in body and not _is_uid(body["uid"]):
        received = _type_of(body["uid"])
        raise InvalidMessage(
            "server",
            _validation(
                f'expected string, received {received} at "uid" or '
                f'Invalid input: expected number, received {received} at "uid"'
            ),
        )
    if isinstance(body.get("uid"), str) and len(body["uid"]) > UID_CHARACTERS_MAX:
        raise InvalidMessage("server", _validation(f'"uid" is longer than {UID_CHARACTERS_MAX} characters'))
    parser = _PARSERS.get(body["type"])
    if parser is None:
        known = ", ".join(f'"{name}"' for name in _PARSERS)
        raise InvalidMessage(
            "server",
            RequestError(
                "INVALID_PAYLOAD", f'Invalid payload. "type" is "{body["type"][:80]}"; it has to be one of {known}.'
            ),
            body.get("uid"),
        )
    return parser(body)


def _decode(text: str | bytes) -> Any:
    """Numbers with all their digits, but for those that are compared as JavaScript has them."""
    try:
        body = exactjson.decode(text)
        if isinstance(body, dict):
            body.update({member: _as_javascript(body[member]) for member in ("uid", "item", "id") if member in body})
        return body
    except ValueError:
        error = RequestError("INVALID_PAYLOAD", "Unable to parse the incoming message.")
        raise InvalidMessage("server", error) from None


def _as_javascript(value: Any) -> Any:
    """Raises `ValueError` for a number that JavaScript does not have."""
    if isinstance(value, dict):
        return {name: _as_javascript(each) if isinstance(each, Decimal) else each for name, each in value.items()}
    if not isinstance(value, Decimal):
        return value
    number = float(value)
    if math.isinf(number):
        raise ValueError("too large")
    return number


def _subscribe(body: dict[str, Any]) -> Subscribe:
    problems = _object_problems(
        body,
        collection="string",
        query="object",
        cursor="boolean",
        after="string",
        tx="boolean",
        old="boolean",
        related="boolean",
    )
    event = body.get("event")
    if "event" in body and event not in ("create", "update", "delete"):
        problems.append('Invalid option: expected one of "create"|"update"|"delete" at "event"')
    if "item" in body and not _is_item(body["item"]):
        problems.append(_expected("string", body, "item") + " or " + _expected("number", body, "item"))
    if "changes" in body and body["changes"] not in ("only", "all"):
        problems.append('Invalid option: expected one of "only"|"all" at "changes"')
    if problems:
        raise InvalidMessage("subscribe", _validation_of(problems), body.get("uid"))
    return Subscribe(
        body["collection"],
        EventKind(event) if event else None,
        body.get("item"),
        body.get("query", {}),
        body.get("uid"),
        body.get("cursor", False),
        body.get("after"),
        body.get("tx", False),
        body.get("old", False),
        body.get("changes") == "only",
        body.get("related", False),
    )


def _read_items(body: dict[str, Any]) -> ReadItems:
    uid = body.get("uid")
    if (action := body.get("action")) != "read":
        shown = f'"{action[:80]}"' if isinstance(action, str) else _type_of(action) if "action" in body else "missing"
        raise InvalidMessage(
            "items",
            RequestError("INVALID_PAYLOAD", f'Invalid payload. "action" is {shown}; the bridge only reads: "read".'),
            uid,
        )
    problems = _object_problems(body, collection="string", query="object")
    if "ids" in body:
        problems.append('"ids" is not supported: ask for one "id", or for rows by "query"')
    if "id" in body and not _is_item(body["id"]):
        problems.append(_expected("string", body, "id") + " or " + _expected("number", body, "id"))
    if problems:
        raise InvalidMessage("items", _validation_of(problems), uid)
    return ReadItems(body["collection"], body.get("id"), body.get("query", {}), uid)


_PARSERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "subscribe": _subscribe,
    "unsubscribe": lambda body: Unsubscribe(body.get("uid")),
    "ping": lambda body: Ping(body.get("uid")),
    "pong": lambda body: Pong(),
    "auth": lambda body: Authenticate(body.get("uid")),
    "items": _read_items,
}


def _object_problems(body: dict[str, Any], **expected: str) -> list[str]:
    """The members that have another JSON type than expected. Only `collection` is required."""
    return [
        _expected(type_, body, member)
        for member, type_ in expected.items()
        if (member in body or member == "collection") and _type_of(body.get(member, _MISSING)) != type_
    ]


_MISSING = object()


def _expected(type_: str, body: dict[str, Any], member: str) -> str:
    return f'Invalid input: expected {type_}, received {_type_of(body.get(member, _MISSING))} at "{member}"'


def _validation(problem: str) -> RequestError:
    return _validation_of([problem if problem.startswith("Invalid") else f"Invalid input: {problem}"])


def _validation_of(problems: Iterable[str]) -> RequestError:
    return RequestError("INVALID_PAYLOAD", "Validation error: " + "; ".join(problems))


def _type_of(value: Any) -> str:
    """JavaScript's word for the type of a JSON value."""
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


def _is_uid(value: Any) -> bool:
    return _type_of(value) in ("string", "number")


def _is_item(value: Any) -> bool:
    """Ours: an object names the columns of a composite key."""
    return _type_of(value) in ("string", "number", "object")


# --- what the server says -------------------------------------------------------------------------------------------

_HEADS = {kind: b'{"type":"subscription","event":"' + kind.value.encode() + b'"' for kind in EventKind}


def event_frame(event: Event, uid: str | None, *, one: bool, cursor: str | None = None) -> bytes:
    """A frame of a subscription. `one` is for an `item` subscription: its data is the row or key itself.

    Who has the same event, `uid` and cursor gets the same bytes; who has the same event only, the same up to these.
    """
    key = uid, one, cursor
    frame = event.frames.get(key)
    if frame is None:
        frame = event.frames[key] = b"".join([_body(event, one=one), *_tail(uid, cursor)])
    return frame


def _tail(uid: str | None, cursor: str | None) -> Iterator[bytes]:
    if cursor is not None:
        yield b',"cursor":"' + cursor.encode() + b'"'
    if uid is not None:
        yield b',"uid":' + msgspec.json.encode(uid)
    yield b"}"


def _body(event: Event, *, one: bool) -> bytes:
    """All but what is the client's own."""
    body = event.frames.get(one)
    if body is None:
        body = event.frames[one] = b"".join(_parts(event, one=one))
    return body


def _parts(event: Event, *, one: bool) -> Iterator[bytes]:
    yield _HEADS[event.kind]
    if event.rows is not None:
        yield b',"data":' + _data(event.rows, one=one)
    if event.meta:
        yield b',"meta":' + _meta(event.meta)
    if event.old is not None:
        yield b',"old":' + _data(event.old, one=one)
    if event.reason is not None:
        yield b',"reason":"' + event.reason.value.encode() + b'"'
    if event.more:
        yield b',"more":true'
    if event.resumed:
        yield b',"resumed":true'
    if event.transaction is not None:
        yield b',"tx":' + _transaction(event.transaction)


def _data(rows: Sequence[bytes], *, one: bool) -> bytes:
    return next(iter(rows), values.NULL) if one else values.array(rows)


def _meta(meta: Iterable[tuple[Meta, int]]) -> bytes:
    return msgspec.json.encode({each.value: count for each, count in meta})


def _transaction(transaction: Transaction) -> bytes:
    body = {"id": str(transaction.xid)}
    if transaction.at:
        body["at"] = _instant(transaction.at)
    return msgspec.json.encode(body)


_EPOCH = datetime(1970, 1, 1)  # UTC


def _instant(at: int) -> str:
    instant = _EPOCH + timedelta(microseconds=at)
    return instant.isoformat(timespec="microseconds" if at % 1000 else "milliseconds") + "Z"


def unsubscribed(uid: Uid) -> bytes:
    return _frame({"type": "subscription", "event": "unsubscribe"}, uid)


def ping() -> bytes:
    return b'{"type":"ping"}'


def pong(uid: Uid) -> bytes:
    return _frame({"type": "pong"}, uid)


def items(
    rows: Sequence[bytes], uid: Uid, *, one: bool, more: bool = False, meta: Sequence[tuple[Meta, int]] = ()
) -> bytes:
    """`one`: a row was asked for by its `id`, and its data is the row itself."""
    reply: dict[str, Any] = {"type": "items", "data": msgspec.Raw(_data(rows, one=one))}
    if meta:
        reply["meta"] = msgspec.Raw(_meta(meta))
    if more and not one:
        reply["more"] = True
    return _frame(reply, uid)


def error(type_: str, reason: RequestError, uid: Uid = None) -> bytes:
    body = {"type": type_, "status": "error", "error": {"code": reason.code, "message": reason.message}}
    return _frame(body, uid)


def _frame(body: dict[str, Any], uid: Uid) -> bytes:
    if uid is not None:
        body["uid"] = uid
    return msgspec.json.encode(body)
