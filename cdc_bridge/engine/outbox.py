"""The outbox of one connection: what waits to be sent, and how it becomes frames.

Rule: answers go first; subscribers with something to send take turns, a frame each. A frame is made at the last moment:
while the client is busy with one, events of the same kind gather behind it and leave together, so that a slow reader
gets fewer and larger frames instead of a longer queue. Events of two transactions are not mixed when the client
asked for transactions.

A frame's cursor covers the changes that have been sent in full with it. So an event joins others in a frame only if all
of it fits, and a change with several events does not join a frame whose cursor covers another change.

Bound: `bytes_max` of waiting data. Policy: past it, subscriptions give way as their `overflow` says, first the one for
which most waits. If that makes too little room, the connection is closed as too slow, and nothing more is sent on it. A
single larger message is still sent if nothing else waits. A frame has at most `FRAME_ROWS_MAX` rows and
`FRAME_BYTES_MAX` bytes, except for a single larger row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cdc_bridge.model import frames
from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.cursor import ClientPosition, EventPosition
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.subscription import Event, EventKind, Overflow

if TYPE_CHECKING:
    from cdc_bridge.engine.subscriber import Outlet, Subscriber

REPLY_COST_BYTES = 48
"""The memory that an answer takes besides its bytes. A client can cause a million very short answers."""


class Outbox:
    """See the module's docstring. `replies` are answers. `turns` contains each subscriber with waiting data once.

    `behind` are the subscribers that have given way. They need fresh data as soon as the client reads again.
    """

    __slots__ = ("behind", "bytes_max", "is_closed", "replies", "size_bytes", "turns")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.replies: deque[bytes] = deque()
        self.turns: deque[Subscriber] = deque()
        self.behind: dict[Subscriber, None] = {}
        self.size_bytes = 0
        self.is_closed = False

    def __bool__(self) -> bool:
        return bool(self.replies or self.turns)

    def reply(self, frame: bytes) -> bool:
        """Put an answer in front of the events. Return False when there is no room."""
        cost_bytes = len(frame) + REPLY_COST_BYTES
        if self and self.size_bytes + cost_bytes > self.bytes_max:
            self._make_room(cost_bytes)
        if self.is_closed or (self and self.size_bytes + cost_bytes > self.bytes_max):
            return False
        self.size_bytes += cost_bytes
        self.replies.append(frame)
        return True

    def next_frame(self) -> bytes:
        """Return the next frame to send. Raises `IndexError` when nothing waits."""
        if self.replies:
            frame = self.replies.popleft()
            self.size_bytes -= len(frame) + REPLY_COST_BYTES
            return frame
        subscriber = self.turns.popleft()
        frame = subscriber.next_frame()
        if subscriber.waiting_bytes:
            self.turns.append(subscriber)
        return frame

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether so much more can wait and leave half of the bound free."""
        return not self.is_closed and self.size_bytes + size_bytes <= self.bytes_max // 2

    def forget(self, subscriber: Subscriber) -> None:
        """Drop what waits for a subscriber."""
        self.behind.pop(subscriber, None)
        if subscriber.waiting_bytes:
            self.turns.remove(subscriber)
            self.size_bytes -= subscriber.waiting_bytes
            subscriber.waiting_bytes = 0

    def check(self, outlet: Outlet) -> None:
        """If more than `bytes_max` waits, let subscriptions give way, or close the connection."""
        if self.size_bytes > self.bytes_max and not self.is_closed and not self._is_single():
            self._make_room(0)
            if self.size_bytes > self.bytes_max and not self._is_single():
                self.is_closed = True
                outlet.close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _make_room(self, size_bytes: int) -> None:
        """Let subscriptions give way until there is room for so much."""
        yielding = [each for each in self.turns if each.subscription.overflow is not Overflow.CLOSE]
        yielding.sort(key=lambda each: each.waiting_bytes)
        while yielding and self.size_bytes + size_bytes > self.bytes_max:
            yielding.pop().give_way()

    def _is_single(self) -> bool:
        """Whether a single message waits."""
        return not self.replies and len(self.turns) == 1 and self.turns[0].has_one_entry


# --- from entries to frames ---

FRAME_ROWS_MAX = 1000
FRAME_BYTES_MAX = 1024 * 1024

_MERGED = frozenset({EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE})


class Entry(NamedTuple):
    """An event of a transaction in a log. `end_bytes` is the cost of the log up to its end.

    Without an event it is a change that calls for fresh data. `read_in` is the snapshot of rows that were read again.
    `claim` is the position that the client has reached when the entry has been sent; None if it is the one before.
    """

    xid: int
    event: Event | None
    cost_bytes: int
    end_bytes: int
    read_in: Snapshot | None = None
    claim: EventPosition | ClientPosition | None = None


class Cut:
    """A frame of the entries from some position on, without the client's `uid` and cursor.

    When it has been sent, `count` entries are done, and `sent_rows` rows of the next one; `cost_bytes` no longer wait.
    """

    __slots__ = ("_body", "_frame", "_key", "claim", "cost_bytes", "count", "sent_rows")

    def __init__(
        self,
        body: bytes,
        count: int,
        cost_bytes: int,
        sent_rows: int = 0,
        claim: EventPosition | ClientPosition | None = None,
    ) -> None:
        self._body = body
        self.count = count
        self.cost_bytes = cost_bytes
        self.sent_rows = sent_rows
        self.claim = claim
        self._key: tuple[str | None, str | None] | None = None
        self._frame = b""

    def frame(self, uid: str | None, cursor: str | None) -> bytes:
        """Return an encoded frame. The last one is kept, since the next client usually gets the same."""
        key = (uid, cursor)
        if self._key != key:
            self._key, self._frame = key, self._body + frames.event_tail(uid, cursor)
        return self._frame


def cut_frame(
    entries: Sequence[Entry],
    begin: int,
    sent_rows: int,
    *,
    one: bool,
    with_cursor: bool,
    seen_end: int = 0,
    skips: Callable[[Entry], bool] | None = None,
) -> Cut:
    """Return the next frame of these entries, one of which must be sent. Entries before `seen_end` may be skipped."""
    at = begin
    while (event := entries[at].event) is None or (at < seen_end and skips is not None and skips(entries[at])):
        at += 1
    _, _, cost_bytes, _, _, claim = entries[at]
    is_all = at + 1 == len(entries) and not sent_rows and cost_bytes <= FRAME_BYTES_MAX
    if one or (is_all and len(event.rows or ()) <= FRAME_ROWS_MAX) or event.kind not in _MERGED:
        return Cut(frames.event_body(event, one=one), at + 1 - begin, cost_bytes, claim=claim)
    end = _end(event, sent_rows)
    rows, old = event.rows or (), event.old
    if end < len(rows):
        part = _merged(event, rows[sent_rows:end], old and old[sent_rows:end])
        return Cut(frames.event_body(part, one=False), at - begin, 0, end)
    if sent_rows:
        event = _merged(event, rows[sent_rows:], old and old[sent_rows:])
    event, count, cost_bytes, claim = _gather(
        entries, at, event, with_cursor=with_cursor, seen_end=seen_end, skips=skips
    )
    return Cut(frames.event_body(event, one=False), at + count - begin, cost_bytes, claim=claim)


def in_frames(entries: Sequence[Entry], *, with_cursor: bool) -> list[Entry]:
    """Gather entries as `cut_frame` does, once for all clients that are sent them. Each must have an event."""
    gathered: list[Entry] = []
    at = 0
    while at < len(entries):
        event = entries[at].event
        assert event is not None
        if event.kind in _MERGED:
            event, count, cost_bytes, claim = _gather(entries, at, event, with_cursor=with_cursor)
            gathered.append(Entry(0, event, cost_bytes, 0, None, claim))
            at += count
        else:
            gathered.append(entries[at])
            at += 1
    return gathered


def _gather(
    entries: Sequence[Entry],
    begin: int,
    event: Event,
    *,
    with_cursor: bool,
    seen_end: int = 0,
    skips: Callable[[Entry], bool] | None = None,
) -> tuple[Event, int, int, EventPosition | ClientPosition | None]:
    """Join the event at this place, or its rest, with following events of the same kind that fit into the frame.

    Return it, the number of entries up to its end, their cost, and the position reached then.
    """
    events, cost_bytes, claim = [event], entries[begin].cost_bytes, entries[begin].claim
    count, size, at = len(event.rows or ()), _size(event), begin + 1
    while at < len(entries):
        entry = entries[at]
        following = entry.event
        if following is not None and not (at < seen_end and skips is not None and skips(entry)):
            if not _alike(event, following):
                break
            count += len(following.rows or ())
            size += entry.cost_bytes  # a little more than its rows
            if count > FRAME_ROWS_MAX or size > FRAME_BYTES_MAX:
                break
            if with_cursor and claim is not None and entry.claim is None:
                break  # the first part of a change, which this frame's cursor would not cover
            events.append(following)
            cost_bytes += entry.cost_bytes
            claim = entry.claim or claim
        at += 1
    if len(events) > 1:
        rows = tuple([row for each in events for row in each.rows or ()])
        old = tuple([row for each in events for row in each.old or ()])
        event = _merged(events[-1], rows, None if event.old is None else old)
    return event, at - begin, cost_bytes, claim


def _merged(event: Event, rows: tuple[bytes, ...], old: tuple[bytes, ...] | None) -> Event:
    return Event(event.kind, rows, event.reason, old=old, transaction=event.transaction)


def _end(event: Event, begin: int) -> int:
    """Return the end of the rows that fit into a frame that begins with this row: one row at least."""
    rows, old = event.rows or (), event.old or ()
    last = min(len(rows), begin + FRAME_ROWS_MAX)
    if _size(event) <= FRAME_BYTES_MAX:
        return last
    size = 0
    for end in range(begin, last):
        size += len(rows[end]) + (len(old[end]) if old else 0)
        if size > FRAME_BYTES_MAX and end > begin:
            return end
    return last


def _size(event: Event) -> int:
    return sum(map(len, event.rows or ())) + sum(map(len, event.old or ()))


def _alike(first: Event, second: Event) -> bool:
    if first.kind is not second.kind or first.reason != second.reason or (first.old is None) != (second.old is None):
        return False
    if first.transaction is second.transaction:
        return True
    return (first.transaction and first.transaction.xid) == (second.transaction and second.transaction.xid)
