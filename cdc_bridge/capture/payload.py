"""Payloads of notifications, and rows of the log.

`sql/functions/send.sql` writes what tables in live mode tell:

    1 U 4711 812 16390 16395 0 .      version, operation, seq, xid, oid, filenode, part, last (.) or not (+)
    [{"id":1},{"id":1}]               the body, or this part of it

and `sql/functions/tell.sql` what has been written to the log, whole or not at all:

    2 U 0/1E148C0 812 16390 16395 1 3   version, operation, seq, xid, oid, filenode, microseconds since 1970, gate
    [[{"id":1}],[{"id":1}]]             old and new rows; nothing when they do not fit

    2 S                                 the gate is shut: no writer notifies from here on

Bridges send heartbeats:

    1 H a1b2 17                       version, heartbeat, sender, count
    812:815:813                       the sender's pg_snapshot

Versions: a new decoder is released before the trigger that writes the new form, and knows both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from cdc_bridge.model.change import OPERATIONS, Change, Heartbeat, Operation, Snapshot, made
from cdc_bridge.model.errors import PayloadError
from cdc_bridge.model.row import Raw, Row, split_rows


class Wake(NamedTuple):
    """The log has changes that the notification does not have. `is_shut`: writers do not notify any more."""

    is_shut: bool = False


class Inline(NamedTuple):
    """A change that is in the log, and came with its notification. `gate` is the value that its writer found."""

    change: Change
    gate: int


Received: TypeAlias = Change | Heartbeat | Inline | Wake


def heartbeat(sender: str, beat: int) -> str:
    """The head of a heartbeat; the database appends its snapshot."""
    return f"1 H {sender} {beat}\n"


_decode_inline = msgspec.json.Decoder(tuple[list[Raw], list[Raw]]).decode


class Decoder:
    """Turns payloads, in the order of their arrival, into changes and heartbeats.

    It is either between two payloads or inside one that comes in parts. Parts of one payload follow each
    other without a stranger in between, since PostgreSQL queues the notifications of a transaction in one
    piece. Anything else means that something was lost: it raises `PayloadError` and is between payloads again.
    """

    def __init__(self) -> None:
        self._head: list[str] = []
        self._parts: list[str] = []

    def receive(self, payload: str) -> Received | None:
        """Return the change or heartbeat that this payload completes, or None when parts are still to come."""
        line, newline, body = payload.partition("\n")
        words = line.split(" ")
        if len(words) == 8 and newline and words[0] == "2":
            return _inline(words, body) if body else _WAKE
        match words:
            case ["1", "H", sender, beat] if newline:
                return self._heartbeat(sender, beat, body)
            case ["2", "S", *_] if newline:
                return Wake(is_shut=True)
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
        """Be between payloads, and return the parts that were there."""
        parts, self._parts = self._parts, []
        return parts

    def _complete(self) -> Change:
        body = "".join(self._forget())
        try:
            letter, seq, xid, relation_id, filenode = self._head
            operation = Operation(letter)
            rows = split_rows(body) if operation is not Operation.TRUNCATE else []
            old, new = _old_and_new(operation, rows)
            require_columns(new, old)
            return Change(operation, int(seq), int(xid), int(relation_id), int(filenode), tuple(old), tuple(new))
        except (ValueError, msgspec.DecodeError) as error:
            raise PayloadError(f"a payload cannot be read: {error}") from error


def log_sequence(position: int, xid: int) -> int:
    """The `seq` of a change in the log. Two transactions can write at the same position of the WAL."""
    return position << 64 | xid


def logged_rows(written: Iterable[Sequence[Any]], column: int) -> tuple[Row, ...]:
    """Return the old or the new rows of a change in the log, whose text is in this column of the log's rows.

    Each text is one row as an object, or several as an array. Raises `ValueError`.
    """
    rows: list[Row] = []
    for each in written:
        text = each[column]
        if not text:
            continue
        if text[0] == "{":
            rows.append(Row(Raw(text)))
        else:
            rows += split_rows(text)
    return tuple(rows)


def require_columns(new: Sequence[Row], old: Sequence[Row]) -> None:
    """Raise `ValueError` if the first row is no object: the stream looks at its columns, and would end.

    They are kept, so looking at them twice costs nothing. A later row can only fail while its change is matched, which
    calls for fresh data.
    """
    if rows := new or old:
        _ = rows[0].columns


_WAKE = Wake()


def _inline(words: list[str], body: str) -> Inline | Wake:
    """Decode an inline change. If that fails, as for nesting too deep for msgspec, have the log read instead."""
    try:
        _, letter, seq, xid_text, relation_id, filenode, at, gate = words
        xid = int(xid_text)
        high, _, low = seq.partition("/")
        raw_old, raw_new = _decode_inline(body)
        old = tuple(map(Row, raw_old)) if raw_old else ()
        new = (Row(raw_new[0]),) if len(raw_new) == 1 else tuple(map(Row, raw_new))
        require_columns(new, old)
        seq_number = (int(high, 16) << 32 | int(low, 16)) << 64 | xid  # see `log_sequence`
        change = made(
            Change,
            (OPERATIONS[letter], seq_number, xid, int(relation_id), int(filenode), old, new, int(at), None),
        )
        inline: Inline = made(Inline, (change, int(gate)))
        return inline
    except (ValueError, KeyError, msgspec.DecodeError, RecursionError):
        return _WAKE


def _old_and_new(operation: Operation, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    match operation:
        case Operation.INSERT:
            return [], rows
        case Operation.DELETE:
            return rows, []
        case Operation.UPDATE:
            if len(rows) % 2:
                raise ValueError("an update has an old row without a new one")
            return rows[0::2], rows[1::2]
        case Operation.TRUNCATE:
            return [], []
