"""What waits to be sent on one connection, and how it becomes frames.

Rule: a frame is made at the last moment. While the client is busy with one frame, events of the same kind
and subscription gather behind it and leave together, so that a slow reader gets fewer and larger frames
instead of a longer queue. Order is kept inside a subscription; subscriptions take turns. Events of two transactions
are not mixed when clients are told whose they are.

A frame's cursor says what has left in full with it. So no event is begun in a frame that others are in
already, unless all of it fits, and no change of several events in a frame that says so of another one.

Bound: `bytes_max` of waiting data. The policy is the caller's: `push` says no, and the connection is closed.
A single larger message still goes when nothing else waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec.structs import replace

from cdc_bridge.model import frames
from cdc_bridge.model.cursor import Receipt
from cdc_bridge.model.subscription import Event, EventKind

FRAME_ROWS_MAX = 1000
FRAME_BYTES_MAX = 1024 * 1024
REPLY_COST_BYTES = 48
"""What Python takes for an answer besides its bytes. Of very short ones a client can make a million."""

_MERGED = (EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE)


Waiting: TypeAlias = tuple[Event, Receipt | None]
"""An event with what can be claimed when it has been sent; None when that is no more than before it."""


@dataclass(slots=True)
class Stream:
    """The waiting events of one subscription. `sent_rows` counts those of the first event that are gone.

    `receipt` is of all that has been sent.
    """

    uid: str | None
    one: bool
    events: deque[Waiting] = field(default_factory=deque)
    sent_rows: int = 0
    receipt: Receipt | None = None

    @property
    def cursor(self) -> str | None:
        return self.receipt.text if self.receipt else None


class Backlog:
    """See the module's docstring."""

    def __init__(self, bytes_max: int, frame_rows_max: int = FRAME_ROWS_MAX) -> None:
        self._bytes_max = bytes_max
        self._frame_rows_max = frame_rows_max
        self._replies: deque[bytes] = deque()
        self._streams: dict[Hashable, Stream] = {}
        self._turns: deque[Hashable] = deque()
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._replies or self._turns)

    def reply(self, frame: bytes) -> bool:
        """Put an answer in front of the events. False when there is no room."""
        if not self._admit(len(frame) + REPLY_COST_BYTES):
            return False
        self._replies.append(frame)
        return True

    def open(self, key: Hashable, uid: str | None, *, one: bool) -> None:
        """Begin a subscription. `one`: its data is one row, not a list (an `item` subscription)."""
        self._streams[key] = Stream(uid, one)

    def drop(self, key: Hashable) -> None:
        """End a subscription; what still waits for it is forgotten."""
        stream = self._streams.pop(key, None)
        if stream is None:
            return
        if stream.events:
            self._turns.remove(key)
        self.size_bytes -= sum(event.cost_bytes for event, _ in stream.events)

    def push(self, key: Hashable, event: Event, receipt: Receipt | None = None) -> bool:
        """Queue an event. False when there is no room."""
        if not self._admit(event.cost_bytes):
            return False
        stream = self._streams[key]
        if not stream.events:
            self._turns.append(key)
        stream.events.append((event, receipt))
        return True

    def next_frame(self) -> bytes:
        """The next frame to send. Raises `IndexError` when nothing waits."""
        if self._replies:
            frame = self._replies.popleft()
            self.size_bytes -= len(frame) + REPLY_COST_BYTES
            return frame
        key = self._turns.popleft()
        stream = self._streams[key]
        is_merged = stream.events[0][0].kind in _MERGED and not stream.one
        frame = self._merged(stream) if is_merged else self._single(stream)
        if stream.events:
            self._turns.append(key)
        return frame

    def _admit(self, size_bytes: int) -> bool:
        if self and self.size_bytes + size_bytes > self._bytes_max:
            return False
        self.size_bytes += size_bytes
        return True

    def _single(self, stream: Stream) -> bytes:
        event = self._pop(stream)
        return frames.event_frame(event, stream.uid, one=stream.one, cursor=stream.cursor)

    def _merged(self, stream: Stream) -> bytes:
        """What is left of the first event, or as much as a frame holds, and what reads the same and fits behind it."""
        event, _ = stream.events[0]
        if len(stream.events) == 1 and not stream.sent_rows and self._fits(event):
            return self._single(stream)  # the same frame for all that get this event
        begun, end = stream.sent_rows, self._end(event, stream.sent_rows)
        rows, old = list(event.rows or ())[begun:end], list(event.old or ())[begun:end]
        stream.sent_rows = 0 if end == len(event.rows or ()) else end
        last = event
        if not stream.sent_rows:
            for last in self._taken_together(stream, len(rows), _size(event, begun, end)):
                rows += last.rows or ()
                old += last.old or ()
        told_old = None if last.old is None else tuple(old)
        whole = replace(last, rows=tuple(rows), old=told_old, frames={})
        return frames.event_frame(whole, stream.uid, one=False, cursor=stream.cursor)

    def _taken_together(self, stream: Stream, rows_count: int, size_bytes: int) -> Iterator[Event]:
        """Takes the first event, of which so much goes into a frame, and then those that read the same and fit behind
        it, each as it leaves.
        """
        before = stream.receipt
        first = self._pop(stream)
        while stream.events and _alike(first, following := stream.events[0][0]):
            rows_count += len(following.rows or ())
            size_bytes += _size(following)
            if rows_count > self._frame_rows_max or size_bytes > FRAME_BYTES_MAX:
                break
            if stream.receipt is not before and stream.events[0][1] is None:
                break  # the first part of a change, which this frame's cursor would not say
            yield self._pop(stream)

    def _fits(self, event: Event) -> bool:
        """Whether one frame holds all of it."""
        rows = event.rows or ()
        return len(rows) <= self._frame_rows_max and (len(rows) <= 1 or _size(event) <= FRAME_BYTES_MAX)

    def _pop(self, stream: Stream) -> Event:
        event, receipt = stream.events.popleft()
        self.size_bytes -= event.cost_bytes
        stream.receipt = receipt or stream.receipt
        return event

    def _end(self, event: Event, begun: int) -> int:
        """How far a frame gets that begins with this row: one row at least."""
        last = min(len(event.rows or ()), begun + self._frame_rows_max)
        if _size(event, begun, last) <= FRAME_BYTES_MAX:
            return last
        size = 0
        for end in range(begun, last):
            size += _size(event, end, end + 1)
            if size > FRAME_BYTES_MAX and end > begun:
                return end
        return last


def _size(event: Event, begun: int = 0, end: int | None = None) -> int:
    return sum(map(len, (event.rows or ())[begun:end])) + sum(map(len, (event.old or ())[begun:end]))


def _alike(first: Event, second: Event) -> bool:
    if first.kind is not second.kind or first.reason != second.reason or (first.old is None) != (second.old is None):
        return False
    return first.transaction is second.transaction or _xid(first) == _xid(second)


def _xid(event: Event) -> int | None:
    return event.transaction.xid if event.transaction else None
