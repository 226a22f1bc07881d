"""One subscription of one client: its place in the topic's log, and its state (`state.py`).

Law: each change is in the data or is sent after them, once. Where that is impossible, the subscriber gets fresh data.

Bound: what waits for a connection (`Outbox`), and `held_bytes_max` of the log behind a subscriber that is LOADING.
Policy: `overflow`; data that were read too late are read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cdc_bridge.engine.outbox import Entry, cut_frame
from cdc_bridge.engine.state import SENT, TRANSITIONS, State, Step
from cdc_bridge.model.change import Era, Position, Snapshot
from cdc_bridge.model.cursor import ClientPosition, CursorCipher, EventPosition
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.subscription import Event, Overflow, Subscription

if TYPE_CHECKING:
    from cdc_bridge.engine.outbox import Outbox
    from cdc_bridge.engine.topic import Topic


BROUGHT_BYTES_MAX = 64 * 1024
"""The most that a subscriber keeps of what waits when it leaves the log or needs fresh data. Each keeps a copy."""

CIPHERS_MAX = 10_000


class CursorCiphers:
    """The ciphers that seal cursors, derived from the secret and the rights under which a cursor is given.

    So clients cannot forge a cursor, and a cursor that was given under other rights cannot be opened. Until the secret
    is known, keys are random.

    Bound: `CIPHERS_MAX` ciphers are kept. Policy: past it all are dropped, and made again when they are needed.
    """

    def __init__(self) -> None:
        self._cipher = CursorCipher()
        self._under: dict[bytes, CursorCipher] = {}

    def take(self, secret: bytes) -> None:
        """Seal cursors with this secret from now on."""
        self._cipher = CursorCipher(secret)
        self._under.clear()

    def under(self, rights: bytes) -> CursorCipher:
        cipher = self._under.get(rights)
        if cipher is None:
            if len(self._under) >= CIPHERS_MAX:
                self._under.clear()
            cipher = self._under[rights] = self._cipher.given_under(rights)
        return cipher


class Outlet(Protocol):
    """One client's connection. Only `room` waits."""

    outbox: Outbox

    @property
    def count(self) -> int:
        """Return the number of its subscribers."""
        ...

    def wake(self) -> None:
        """Send what waits in `outbox`."""
        ...

    def close(self, code: CloseCode, reason: str) -> None: ...
    def open(self, subscriber: Subscriber) -> None: ...
    def subscribers(self) -> list[Subscriber]: ...
    def drop(self, subscriber: Subscriber) -> None: ...
    def refuse(self, subscriber: Subscriber, error: RequestError) -> None: ...

    @property
    def has_room(self) -> bool:
        """Whether no more waits than should when much is about to be sent."""
        ...

    async def room(self, size_bytes: int) -> bool:
        """Wait until there is room for so much. Return False if there will be none.

        If nothing else waits, there is room for any size.
        """
        ...


class Subscriber:
    """See the module's docstring.

    `offset` is the position in its topic's log up to which it was sent everything, `sent_rows` how many rows of the
    next entry were sent. `own` are entries that wait for this subscriber alone, and go first. `waiting_bytes` counts
    what waits for it there and in the log. `awaited` is the reading that it waits for; any other one is out of date.

    `after` is the cursor that it wants to go on from, until that is decided. `has_data`: the client has data already,
    from an `init` or from before it came back, so the next `init` with data is a resync.

    Its cursors are the union of two positions: that of its data (`start`), and that of the stream at the last event
    that it was sent. The first is dropped as soon as the second contains it. `client_position` covers all that was
    sent.
    """

    __slots__ = (
        "__weakref__",
        "after",
        "awaited",
        "ciphers",
        "client_position",
        "has_data",
        "offset",
        "outbox",
        "outlet",
        "own",
        "proved_at",
        "sent_rows",
        "snapshot",
        "start",
        "state",
        "subscription",
        "topic",
        "waiting_bytes",
    )

    def __init__(
        self, outlet: Outlet, subscription: Subscription, ciphers: CursorCiphers, after: str | None = None
    ) -> None:
        self.outlet = outlet
        self.outbox = outlet.outbox
        self.subscription = subscription
        self.ciphers = ciphers
        self.state = State.LOADING
        self.topic: Topic | None = None
        self.offset = 0
        self.sent_rows = 0
        self.own: deque[Entry] | None = None
        self.waiting_bytes = 0
        self.snapshot: Snapshot | None = None
        self.proved_at = 0
        self.awaited: Reading | None = None
        self.after = after
        self.has_data = after is not None
        self.start: Position | None = None
        self.client_position: ClientPosition | None = None

    def take(self, step: Step) -> None:
        """Change the state. Raises `KeyError` for a step that must not happen in this state."""
        self.state = TRANSITIONS[self.state, step]
        if self.state is not State.LOADING:
            self.awaited = None

    def reading(self, positions: tuple[Position, ...] = (), *, is_alone: bool = False) -> Reading:
        """Return the reading that it needs now. Any earlier one becomes obsolete."""
        reading = Reading(self, self.subscription, self.after, positions, is_alone)
        if self.state is State.LOADING:
            self.awaited = reading
        return reading

    # --- what waits for it ---

    @property
    def is_far_behind(self) -> bool:
        """Whether so much waits that it is dropped instead of copied. Fresh data must follow then."""
        return self.waiting_bytes > BROUGHT_BYTES_MAX

    @property
    def has_one_entry(self) -> bool:
        """Whether exactly one entry waits."""
        if self.own:
            return self.waiting_bytes == self.own[0].cost_bytes
        return self.topic is not None and self.waiting_bytes == self.topic.next_cost_bytes(self)

    def push(self, event: Event, client_position: ClientPosition | None = None) -> None:
        """Send an event to it alone, before anything of its topic. If too much waits then, `overflow` decides."""
        if not self.outbox.is_closed:
            self.keep(Entry(0, event, event.cost_bytes, 0, None, client_position), is_expected=False)
            self.outbox.check(self.outlet)

    def push_all(self, entries: Sequence[Entry], cost_bytes: int) -> None:
        """Send entries to it alone, as they are. The caller has made sure that there is room."""
        if self.own is None:
            self.own = deque()
        self.own.extend(entries)
        self.expect(cost_bytes)
        self.outlet.wake()

    def keep(self, entry: Entry, *, is_expected: bool) -> None:
        """Queue an entry for this subscriber alone. `is_expected`: its size is counted already."""
        if self.own is None:
            self.own = deque()
        claim = None if entry.claim is None or not self.subscription.cursor else self._claim(entry.claim)
        self.own.append(entry._replace(claim=claim))
        if not is_expected:
            self.expect(entry.cost_bytes)
            self.outlet.wake()

    def expect(self, size_bytes: int) -> None:
        """Count bytes that wait for it."""
        if not self.waiting_bytes:
            self.outbox.turns.append(self)
        self.waiting_bytes += size_bytes
        self.outbox.size_bytes += size_bytes

    def forget(self) -> None:
        """Drop what waits for it."""
        self.own = None
        self.sent_rows = 0
        self.outbox.forget(self)

    def give_way(self) -> None:
        """Make room for others: keep only the newest state of each row, or nothing."""
        topic, outbox = self.topic, self.outbox
        if self.subscription.overflow is Overflow.LATEST and topic is not None and self.state in SENT:
            topic.compact()
            if outbox.size_bytes <= outbox.bytes_max // 2:  # else all of this would be done again and again
                return
        if self.state is not State.BEHIND:
            self.fall_behind()

    def fall_behind(self) -> None:
        """Send it nothing until the client reads again, and fresh data then."""
        self.take(Step.OVERFLOWED)
        if self.topic is not None:
            self.topic.let_go(self)
        self.outbox.behind[self] = None

    def lag(self, now_us: int) -> tuple[int, int, float | None]:
        """Return the bytes and events that wait, and for how many seconds the oldest one has; None if not known.

        Events that its data contain may be counted.
        """
        if not self.waiting_bytes:
            return 0, 0, 0.0
        own = self.own or ()
        count, at_us = self.topic.lag(self) if self.topic is not None and self.state in SENT else (0, 0)
        is_known = at_us and not own
        return self.waiting_bytes, len(own) + count, max(now_us - at_us, 0) / 1e6 if is_known else None

    def skips(self, entry: Entry) -> bool:
        """Whether its data contain what this entry of the log reports."""
        snapshot = self.snapshot
        if snapshot is None:
            return False
        return snapshot.sees(entry.xid) if entry.read_in is None else snapshot.covers(entry.read_in)

    def next_frame(self) -> bytes:
        """Return its next frame. Something must wait."""
        uid, one = self.subscription.stream_uid, self.subscription.item is not None
        if self.own:
            cut = cut_frame(self.own, 0, self.sent_rows, one=one, with_cursor=self.subscription.cursor)
            self.sent_rows = cut.sent_rows
            for _ in range(cut.count):
                self.own.popleft()
            if not self.own:
                self.own = None
        else:
            assert self.topic is not None
            cut = self.topic.cut(self, one=one)
        self.waiting_bytes -= cut.cost_bytes
        self.outbox.size_bytes -= cut.cost_bytes
        topic = self.topic
        if not self.waiting_bytes and topic is not None and self.offset < topic.log.end and self.state in SENT:
            topic.skip_rest(self)
        if cut.claim is not None and self.subscription.cursor:
            self.client_position = self._claim(cut.claim)
        cursor = self.client_position.text if self.client_position is not None else None
        return cut.frame(uid, cursor)

    def _claim(self, claim: EventPosition | ClientPosition) -> ClientPosition:
        if isinstance(claim, ClientPosition):
            return claim
        if self.start is not None and claim.position.seen.covers(self.start.seen):
            self.start = None
        return claim.client_position(self.ciphers.under(self.subscription.rights), self.start)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Initial data, or missed changes, to be read for a subscriber.

    `subscription` is what was asked for when the reading was ordered. With `after`, the changes since this cursor are
    read instead of the data; with `positions`, those since these positions. `is_alone`: it is not read together with
    others, since the client takes it slowly.
    """

    subscriber: Subscriber
    subscription: Subscription
    after: str | None = None
    positions: tuple[Position, ...] = ()
    is_alone: bool = False

    @property
    def is_of_log(self) -> bool:
        """Whether missed changes are read, not the data."""
        return self.after is not None or bool(self.positions)

    @property
    def is_current(self) -> bool:
        """Whether the subscriber still waits for it."""
        return self.subscriber.awaited is self


@dataclass(frozen=True, slots=True)
class Anchor:
    """The era and the shape of a collection before its data are read. The data's position belongs to them."""

    era: Era
    shape: bytes
