"""What waits to be sent on one connection, and how it becomes frames.

Rule: a frame is made at the last moment. While the client is busy with one frame, events of the same kind
and subscription gather behind it and leave together, so that a slow reader gets fewer and larger frames
instead of a longer queue. Order is kept inside a subscription; subscriptions take turns.

Bound: `bytes_max` of waiting data. The policy is the caller's: `push` says no, and the connection is closed.
A single larger message still goes when nothing else waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from cdc_bridge import protocol
from cdc_bridge.subscription import Event, EventKind

FRAME_ROWS_MAX = 1000
FRAME_BYTES_MAX = 1024 * 1024

_MERGED = (EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE)


@dataclass(slots=True)
class Stream:
    """The waiting events of one subscription. `sent_rows` counts those of the first event that are gone."""

    uid: str | None
    one: bool
    events: deque[Event] = field(default_factory=deque)
    sent_rows: int = 0


class Backlog:
    """See the module's docstring."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._replies: deque[bytes] = deque()
        self._streams: dict[Hashable, Stream] = {}
        self._turns: deque[Hashable] = deque()
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._replies or self._turns)

    def reply(self, frame: bytes) -> bool:
        """Put an answer in front of the events. False when there is no room."""
        if not self._admit(len(frame)):
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
        self.size_bytes -= sum(event.cost_bytes for event in stream.events)

    def push(self, key: Hashable, event: Event) -> bool:
        """Queue an event. False when there is no room."""
        if not self._admit(event.cost_bytes):
            return False
        stream = self._streams[key]
        if not stream.events:
            self._turns.append(key)
        stream.events.append(event)
        return True

    def next_frame(self) -> bytes:
        """The next frame to send. Raises `IndexError` when nothing waits."""
        if self._replies:
            frame = self._replies.popleft()
            self.size_bytes -= len(frame)
            return frame
        key = self._turns.popleft()
        stream = self._streams[key]
        frame = self._merged(stream) if stream.events[0].kind in _MERGED and not stream.one else self._single(stream)
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
        return protocol.event_frame(event, stream.uid, one=stream.one)

    def _merged(self, stream: Stream) -> bytes:
        """Rows of the first event and of those behind it that read the same, up to the size of a frame."""
        first = stream.events[0]
        rows: list[bytes] = []
        size = 0
        while stream.events and _alike(first, stream.events[0]):
            waiting = stream.events[0].rows or ()
            taken = stream.sent_rows
            while taken < len(waiting) and len(rows) < FRAME_ROWS_MAX:
                size += len(waiting[taken])
                if rows and size > FRAME_BYTES_MAX:
                    break
                rows.append(waiting[taken])
                taken += 1
            if taken < len(waiting):
                stream.sent_rows = taken
                break
            stream.sent_rows = 0
            self._pop(stream)
        return protocol.event_frame(Event(first.kind, tuple(rows), first.reason), stream.uid, one=False)

    def _pop(self, stream: Stream) -> Event:
        event = stream.events.popleft()
        self.size_bytes -= event.cost_bytes
        return event


def _alike(first: Event, second: Event) -> bool:
    return first.kind is second.kind and first.reason == second.reason
