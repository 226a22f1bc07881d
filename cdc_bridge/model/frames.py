"""Encode the messages that a bridge sends, and name its close codes. `messages.py` has those of clients."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.encoding import NULL, array
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.subscription import Event, EventKind, Meta, Transaction, Uid


class CloseCode(enum.IntEnum):
    """The close codes of the bridge (RFC 6455, section 7.4.1). The library also uses 1007, 1009 and 1011."""

    POLICY_VIOLATION = 1008  # a limit was abused, or a ping got no answer
    SERVICE_RESTART = 1012  # the bridge ends; another one, or the next one, goes on from the last cursor
    TRY_AGAIN_LATER = 1013  # the client is too slow
    UNAUTHENTICATED = 4401  # as HTTP's 401: authentication failed or has ended


_HEADS = {kind: b'{"type":"subscription","event":"' + kind.value.encode() + b'"' for kind in EventKind}


def event_body(event: Event, *, one: bool) -> bytes:
    """Encode a frame of a subscription, all but its `event_tail`. `one` is for an `item` subscription: its data is the
    row or key itself.
    """
    head = _HEADS[event.kind]
    if event.rows is not None:
        head += b',"data":' + (_data(event.rows, one=True) if one else b"[" + b",".join(event.rows) + b"]")
    if event.reason is None and event.old is None and event.transaction is None and event.kind is not EventKind.INIT:
        return head
    return head + b"".join(_parts(event, one=one))


def event_tail(uid: str | None, cursor: str | None) -> bytes:
    """Encode the end of that frame, which belongs to one client."""
    tail = b"}" if uid is None else b',"uid":' + msgspec.json.encode(uid) + b"}"
    return tail if cursor is None else b',"cursor":"' + cursor.encode() + b'"' + tail


def _parts(event: Event, *, one: bool) -> Iterator[bytes]:
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
    return next(iter(rows), NULL) if one else array(rows)


def _meta(meta: Iterable[tuple[Meta, int]]) -> bytes:
    return msgspec.json.encode({each.value: count for each, count in meta})


_EPOCH = datetime(1970, 1, 1)  # UTC


def _transaction(transaction: Transaction) -> bytes:
    body = {"id": str(transaction.xid)}
    if at := transaction.at:
        instant = _EPOCH + timedelta(microseconds=at)
        body["at"] = instant.isoformat(timespec="microseconds" if at % 1000 else "milliseconds") + "Z"
    return msgspec.json.encode(body)


def unsubscribed(uid: Uid) -> bytes:
    return _frame({"type": "subscription", "event": "unsubscribe"}, uid)


def authenticated(uid: Uid) -> bytes:
    return _frame({"type": "auth", "status": "ok"}, uid)


def ping() -> bytes:
    return b'{"type":"ping"}'


def pong(uid: Uid) -> bytes:
    return _frame({"type": "pong"}, uid)


def items(
    rows: Sequence[bytes], uid: Uid, *, one: bool, more: bool = False, meta: Sequence[tuple[Meta, int]] = ()
) -> bytes:
    """Return the reply to `items`. `one` is for a row by its `id`: its data is the row itself."""
    reply: dict[str, Any] = {"type": "items", "data": msgspec.Raw(_data(rows, one=one))}
    if meta:
        reply["meta"] = msgspec.Raw(_meta(meta))
    if more and not one:
        reply["more"] = True
    return _frame(reply, uid)


def status(subscriptions: Sequence[dict[str, Any]], uid: Uid) -> bytes:
    return _frame({"type": "status", "data": subscriptions}, uid)


def come_again(retry_ms: int) -> str:
    """Return the reason of a `SERVICE_RESTART`: JSON, at most the 123 bytes that RFC 6455 leaves for a reason."""
    return msgspec.json.encode({"reason": "shutting down", "retry_ms": retry_ms}).decode()


def collections(catalog: Catalog, uid: Uid) -> bytes:
    """Return the reply to `collections`: the fields, the key and the relations of each."""
    found = [_described(each, catalog) for each in catalog.by_name.values()]
    return _frame({"type": "collections", "data": found}, uid)


def _described(collection: Collection, catalog: Catalog) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "key": collection.key,
        "fields": [{"field": each.name, "type": each.type.name} for each in collection.columns],
        "relations": [
            {"field": name, "collection": catalog.by_relation_id[each.target_id].name, "many": each.is_many}
            for name, each in collection.by_reference.items()
        ],
    }


def error(type_: str, reason: RequestError, uid: Uid = None) -> bytes:
    body = {"type": type_, "status": "error", "error": {"code": reason.code, "message": reason.message}}
    return _frame(body, uid)


def _frame(body: dict[str, Any], uid: Uid) -> bytes:
    if uid is not None:
        body["uid"] = uid
    return msgspec.json.encode(body)
