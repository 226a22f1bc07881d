"""Payloads of notifications: `sql/functions/send.sql` writes them, this reads them.

    1 U 4711 812 16390 16395 0 .      version, operation, seq, xid, oid, filenode, part, last (.) or not (+)
    [{"id":1},{"id":1}]               the body, or this part of it

    1 H a1b2 17                       version, heartbeat, sender, count
    812:815:813                       the sender's pg_snapshot

Versions: a new decoder is released before the trigger that writes the new form, and knows both.
"""

from __future__ import annotations

import msgspec

from cdc_bridge.change import Change, Heartbeat, Operation, Row, Snapshot
from cdc_bridge.errors import PayloadError
from cdc_bridge.rawjson import split_rows

VERSION = "1"


def heartbeat(sender: str, beat: int) -> str:
    """The head of a heartbeat; the database appends its snapshot."""
    return f"{VERSION} H {sender} {beat}\n"


class Decoder:
    """Turns payloads, in the order of their arrival, into what was heard.

    It is either between two payloads or inside one that comes in parts. Parts of one payload follow each
    other without a stranger in between, since PostgreSQL queues the notifications of a transaction in one
    piece. Anything else means that something was lost: it raises `PayloadError` and is between payloads again.
    """

    def __init__(self) -> None:
        self._head: list[str] = []
        self._parts: list[str] = []

    def receive(self, payload: str) -> Change | Heartbeat | None:
        """The change or heartbeat that this payload completes, or None when parts are still to come."""
        line, newline, body = payload.partition("\n")
        match line.split(" "):
            case ["1", "H", sender, beat] if newline:
                return self._heartbeat(sender, beat, body)
            case ["1", *head, part, "+"] if newline:
                self._receive_part(head, part, body)
                return None
            case ["1", *head, part, "."] if newline:
                self._receive_part(head, part, body)
                return self._complete()
        raise PayloadError(f"a notification begins with {line[:80]!r}, which this version does not know")

    def _heartbeat(self, sender: str, beat: str, body: str) -> Heartbeat:
        if self._forget():
            raise PayloadError("the rest of a payload in parts is missing")
        try:
            return Heartbeat(sender, int(beat), Snapshot.parse(body))
        except ValueError as error:
            raise PayloadError(f"a heartbeat cannot be read: {error}") from error

    def _receive_part(self, head: list[str], part: str, body: str) -> None:
        if part != str(len(self._parts)) or (self._parts and head != self._head):
            self._forget()
            raise PayloadError("a part of a payload is missing")
        self._head = head
        self._parts.append(body)

    def _forget(self) -> list[str]:
        """Be between payloads; the parts that were there."""
        parts, self._parts = self._parts, []
        return parts

    def _complete(self) -> Change:
        body = "".join(self._forget())
        try:
            letter, seq, xid, relation_id, filenode = self._head
            operation = Operation(letter)
            rows = tuple(split_rows(body)) if operation is not Operation.TRUNCATE else ()
            old, new = _images(operation, rows)
            return Change(operation, int(seq), int(xid), int(relation_id), int(filenode), old, new)
        except (ValueError, msgspec.DecodeError) as error:
            raise PayloadError(f"a payload cannot be read: {error}") from error


def _images(operation: Operation, rows: tuple[Row, ...]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    match operation:
        case Operation.INSERT:
            return (), rows
        case Operation.DELETE:
            return rows, ()
        case Operation.UPDATE:
            if len(rows) % 2:
                raise ValueError("an update has an old row without a new one")
            return rows[0::2], rows[1::2]
        case Operation.TRUNCATE:
            return (), ()
