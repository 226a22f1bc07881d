"""Equal subscriptions, and one log of what they are sent (`event_log.py`).

Rule: an event is in the log once, however many subscribers there are; each of them is a position in it. A frame of the
same entries is made once. What all have been sent is forgotten.

Where memory cannot decide what comes next, or while rows are read again, what comes later waits in a queue
(`pending.py`). Nobody but this topic waits.

Bound: `bytes_max` of the queue, and of the log behind a subscriber that is LOADING. Policy: past it the whole topic is
sent fresh data, or a subscriber's data are read again. Behind a subscriber that is LIVE the log is as long as its
outbox allows; past that, `overflow` decides. So the log is bounded by the larger of the two, and `TRIM_BYTES`, however
many subscribers are behind. The log of subscribers that want the latest state only is made shorter (`compact`). If it
has more than `COMPACTED_ROWS_MAX` rows, those that are far behind get fresh data instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cdc_bridge.engine.compaction import row_key
from cdc_bridge.engine.event_log import EventLog
from cdc_bridge.engine.outbox import Cut, Entry, cut_frame
from cdc_bridge.engine.pending import ENTRY_BYTES, Events, Pending, PendingQueue
from cdc_bridge.engine.state import SENT, State, Step
from cdc_bridge.engine.subscriber import Outlet, Reading, Subscriber
from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.filter import EVERYTHING, Filter, disjunction
from cdc_bridge.model.subscription import Event, EventKind, Overflow, Subscription

CUTS_MAX = 16
"""Frames that are kept for the next subscriber, each a MiB at most."""

TRIM_BYTES = 1024 * 1024
"""The log is trimmed whenever it has grown by so much, although some subscribers have not been sent all of it."""

COMPACTED_ROWS_MAX = 20_000
"""Rows of a log that is made shorter at once: that takes 20 ms, and nobody is served meanwhile."""

STALE_FILTERS_MAX = 50
"""Bound of the filter of stale rows. Past it all rows of the topic are stale."""


class Topic:
    """See the module's docstring. `subscription` stands for those of all subscribers.

    Connections that have something to send are put into `woken`. Methods that make readings necessary return them.
    """

    def __init__(self, subscription: Subscription, bytes_max: int, woken: dict[Outlet, None]) -> None:
        self.subscription = subscription
        self._woken = woken
        self.subscribers: dict[Subscriber, None] = {}
        self.catching_up: dict[Subscriber, None] = {}
        self.log = EventLog()
        self.refreshing: Pending | None = None
        self._stale: dict[Filter, int] = {}  # the highest xid that made it so
        self._bytes_max = bytes_max
        self._trim_at_bytes = self._compact_at_bytes = TRIM_BYTES
        self._announced = self._announced_bytes = 0
        self._behind = 0
        self._queue = PendingQueue()

    @property
    def is_pending(self) -> bool:
        """Whether it waits for an answer or for rows."""
        return bool(self._queue)

    @property
    def unsettled(self) -> list[Pending]:
        """Return the answers and rows that it waits for."""
        return [each for each in self._queue if isinstance(each, Pending) and not each.is_settled]

    # --- subscribers ---

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber, which is sent everything from here on."""
        if not self.subscribers:
            self.log.forget_before(self.log.end)
        subscriber.topic = self
        subscriber.offset = self.log.end
        self.subscribers[subscriber] = None
        if subscriber.state is State.CATCHING_UP:
            self.catching_up[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, which keeps what waits for it."""
        self._bring_along(subscriber)
        subscriber.topic = None
        del self.subscribers[subscriber]
        self.catching_up.pop(subscriber, None)

    def reload(self, subscriber: Subscriber) -> Reading:
        """Order fresh data for a subscriber. After them it is sent what comes from here on and is not in them."""
        self._bring_along(subscriber)
        self.catching_up.pop(subscriber, None)
        subscriber.snapshot = None
        subscriber.take(Step.RELOADED)
        return subscriber.reading()

    def reload_all(self) -> list[Reading]:
        """Order fresh data for all but those that are BEHIND, which get them later. Drop what is pending or stale."""
        self._queue.clear()
        self.refreshing = None
        self._stale.clear()
        return [self.reload(subscriber) for subscriber in self.subscribers if subscriber.state is not State.BEHIND]

    def start(self, subscriber: Subscriber, snapshot: Snapshot) -> bool:
        """Send a subscriber that has all that the snapshot sees what came after it.

        Return False if that cannot be done, because too much has come since its data were ordered, or because the
        events of a change are unknown.
        """
        if self.is_late(subscriber):
            return False
        subscriber.snapshot = snapshot
        entries = self.log.since(subscriber.offset)
        if any(entry.event is None and not subscriber.skips(entry) for entry in entries):
            return False
        subscriber.take(Step.DATA_SENT)
        self.catching_up[subscriber] = None
        self._expect_unseen(subscriber, entries)
        if self._stale and all(each.state in SENT for each in self.subscribers):
            self._stale = {filter_: xid for filter_, xid in self._stale.items() if not self._all_have(xid)}
        return True

    def is_late(self, subscriber: Subscriber) -> bool:
        """Whether more of the log than may be kept for it has come since its data were ordered."""
        return subscriber.offset < self.log.begin or self.log.bytes_since(subscriber.offset) > self._bytes_max

    # --- events ---

    def publish(self, xid: int, events: Events | None, read_in: Snapshot | None = None) -> list[Reading]:
        """Send the events of a change. None: they are unknown, and call for fresh data."""
        if self._queue:
            self._queue.put((xid, events, read_in))
            return self.reload_all() if self._queue.size_bytes > self._bytes_max else []
        log = self.log
        log.append(xid, events, read_in)
        self._behind = len(self.subscribers)
        if events is not None and log.end_bytes - log.begin_bytes <= self._trim_at_bytes:
            return []
        return self._settle_log(is_known=events is not None)

    def wait(self, xid: int | None, size_bytes: int = ENTRY_BYTES) -> Pending:
        """Append an entry that is not known yet."""
        return self._queue.wait(xid, size_bytes)

    def settle(self, pending: Pending, events: Events | None) -> list[Reading]:
        """Put events in the place of a pending entry. None: they are unknown, and call for fresh data."""
        pending.is_settled, pending.events = True, events
        return self._go_on()

    def take_heartbeat(self, snapshot: Snapshot) -> None:
        """Note a heartbeat: all that the snapshot sees has come."""
        if self._queue:
            self._queue.append(snapshot)
            return
        self._prove(snapshot)

    def announce(self) -> None:
        """Let subscribers send what has come since the last call."""
        log = self.log
        if self._announced == log.end:
            return
        added_bytes = log.end_bytes - self._announced_bytes
        new = log.since(self._announced) if self.catching_up else ()
        self._announced, self._announced_bytes = log.end, log.end_bytes
        for subscriber in tuple(self.subscribers):
            if subscriber.state is State.LIVE:
                if subscriber.outbox.is_closed:
                    self.let_go(subscriber)
                    continue
                if not subscriber.waiting_bytes:
                    subscriber.outbox.turns.append(subscriber)
                subscriber.waiting_bytes += added_bytes
                subscriber.outbox.size_bytes += added_bytes
                self._woken[subscriber.outlet] = None
            elif subscriber.state is State.CATCHING_UP:
                if subscriber.outbox.is_closed:
                    self.let_go(subscriber)
                    continue
                self._expect_unseen(subscriber, new)
                self._woken[subscriber.outlet] = None

    # --- slow subscribers ---

    def let_go(self, subscriber: Subscriber) -> None:
        """Send a subscriber nothing, not even what waits, until it is reloaded or leaves."""
        subscriber.forget()
        subscriber.snapshot = None
        self.catching_up.pop(subscriber, None)
        self._seek(subscriber, self.log.end)

    def compact(self) -> None:
        """Keep only the newest state of each row in the log, if rows have a key that can be found in them.

        Nobody misses anything by it: a subscriber that is sent one state of a row is sent all later ones as well, and
        data that have a later state have the earlier ones.
        """
        key_of = row_key(self.subscription)
        if key_of is None:
            return
        if self.log.row_count > COMPACTED_ROWS_MAX:
            self._drop_slow()
            return
        self.announce()
        moved = self.log.compact(key_of, {each.offset for each in self.subscribers if each.sent_rows})
        self._announced, self._announced_bytes = self.log.end, self.log.end_bytes
        self._compact_at_bytes = max(TRIM_BYTES, 2 * self.log.size_bytes)
        for each in self.subscribers:
            each.offset, each.proved_at = moved(each.offset), moved(each.proved_at)
            if each.state in SENT:
                self._recount(each)

    def _drop_slow(self) -> None:
        """Keep nothing for subscribers for which more than half of the log waits."""
        for subscriber in tuple(self.subscribers):
            if subscriber.state in SENT and subscriber.waiting_bytes > self.log.size_bytes // 2:
                subscriber.fall_behind()

    def lag(self, subscriber: Subscriber) -> tuple[int, int]:
        """Return how many entries wait for a subscriber, and when the oldest was written; 0 if that is not known."""
        return self.log.end - subscriber.offset, self.log.written_us(subscriber.offset)

    @property
    def late(self) -> list[Subscriber]:
        """Return the subscribers for which something waits."""
        return [each for each in self.subscribers if each.waiting_bytes and each.state in SENT] if self._behind else []

    @property
    def oldest(self) -> tuple[int, int] | None:
        """Return the position of the oldest entry that waits for a subscriber, and when it was written; 0 if that is
        not known. None if none waits.
        """
        position = min((each.offset for each in self.late), default=None)
        return None if position is None else (position, self.log.written_us(position))

    # --- stale rows ---

    def make_stale(self, filter_: Filter, xid: int) -> None:
        """Note that a transaction made rows stale: those that the filter lets through, or all figures."""
        filter_ = EVERYTHING if EVERYTHING in self._stale else filter_
        self._stale[filter_] = max(xid, self._stale.get(filter_, 0))
        if len(self._stale) > STALE_FILTERS_MAX:
            self._stale = {EVERYTHING: max(self._stale.values())}

    @property
    def stale(self) -> Filter:
        """Return the filter of the rows to read again."""
        return disjunction(*self._stale)

    @property
    def needs_refresh(self) -> bool:
        """Whether stale rows should be read now. Data that are being read may have them already."""
        return bool(self._stale) and self.refreshing is None and any(s.state in SENT for s in self.subscribers)

    def refresh(self) -> Pending:
        """Note that stale rows are about to be read. Until they have been, nothing else is sent."""
        self._stale.clear()
        self.refreshing = self.wait(None)
        return self.refreshing

    def show(self, pending: Pending, rows: tuple[bytes, ...], read_in: Snapshot) -> list[Reading]:
        """Send the rows that were read. Does nothing if all subscribers get fresh data by now."""
        if self.refreshing is not pending:
            return []
        self.refreshing = None
        is_shown = rows or self.subscription.query.aggregate is not None
        self._queue.replace(pending, Event(EventKind.UPDATE, rows) if is_shown else None, read_in)
        return self._go_on()

    # --- frames ---

    def cut(self, subscriber: Subscriber, *, one: bool) -> Cut:
        """Return a subscriber's next frame, and move the subscriber behind it. At least one entry must wait."""
        log, snapshot = self.log, subscriber.snapshot
        with_cursor = subscriber.subscription.cursor
        key = subscriber.offset, subscriber.sent_rows, log.end, with_cursor, id(snapshot)
        found = log.cuts.get(key)
        if found is None:
            seen_end = 0 if snapshot is None else len(log.entries)
            if subscriber.state is State.LIVE:
                seen_end = subscriber.proved_at - log.begin
            cut = cut_frame(
                log.entries,
                subscriber.offset - log.begin,
                subscriber.sent_rows,
                one=one,
                with_cursor=with_cursor,
                seen_end=seen_end,
                skips=subscriber.skips,
            )
            if len(log.cuts) >= CUTS_MAX:
                log.cuts.clear()
            log.cuts[key] = found = cut, snapshot
        cut = found[0]
        subscriber.sent_rows = cut.sent_rows
        self._seek(subscriber, subscriber.offset + cut.count)
        return cut

    def next_cost_bytes(self, subscriber: Subscriber) -> int:
        """Return the cost of the next entry for a subscriber; 0 if there is none."""
        return next((entry.cost_bytes for _, entry in self._unsent(subscriber)), 0)

    def skip_rest(self, subscriber: Subscriber) -> None:
        """Move a subscriber to the end: its data have all that is left."""
        self._seek(subscriber, self.log.end)

    # --- inside ---

    def _settle_log(self, *, is_known: bool) -> list[Reading]:
        """Reload subscribers that lack the last entry if it is not known, and trim a log that has grown."""
        readings = [] if is_known else self._reload_lacking()
        if self.log.size_bytes > self._trim_at_bytes:
            self._trim()
        return readings

    def _reload_lacking(self) -> list[Reading]:
        """Order fresh data for the subscribers that do not have the last entry, which cannot be sent."""
        position, entry = self.log.end - 1, self.log.entries[-1]
        lacking = [each for each in self.subscribers if each.state in SENT and not self._skips(each, position, entry)]
        return [self.reload(subscriber) for subscriber in lacking]

    def _go_on(self) -> list[Reading]:
        """Move to the log what is known by now, in the order in which it came."""
        readings: list[Reading] = []
        for known in self._queue.take_known():
            if isinstance(known, Snapshot):
                self._prove(known)
            else:
                self.log.append(*known)
                self._behind = len(self.subscribers)
                readings += self._settle_log(is_known=known[1] is not None)
        return readings

    def _prove(self, snapshot: Snapshot) -> None:
        self.announce()
        for subscriber in tuple(self.catching_up):
            if subscriber.snapshot is None or snapshot.sees_all_of(subscriber.snapshot):
                subscriber.take(Step.PROVED)
                subscriber.proved_at = self.log.end
                del self.catching_up[subscriber]
                self._seek(subscriber, subscriber.offset)

    def _expect_unseen(self, subscriber: Subscriber, entries: Iterable[Entry]) -> None:
        size_bytes = sum(each.cost_bytes for each in entries if each.event is not None and not subscriber.skips(each))
        if size_bytes:
            subscriber.expect(size_bytes)
        elif not subscriber.waiting_bytes:
            self._seek(subscriber, self.log.end)

    def _skips(self, subscriber: Subscriber, position: int, entry: Entry) -> bool:
        if subscriber.state is State.LIVE and position >= subscriber.proved_at:
            return False
        return subscriber.skips(entry)

    def _unsent(self, subscriber: Subscriber) -> Iterator[tuple[int, Entry]]:
        """Yield what waits in the log for a subscriber, with its position."""
        for position in range(subscriber.offset, self.log.end):
            entry = self.log.entries[position - self.log.begin]
            if entry.event is not None and not self._skips(subscriber, position, entry):
                yield position, entry

    def _bring_along(self, subscriber: Subscriber) -> None:
        """Let a subscriber keep what waits for it in the log. If that is much, drop it: fresh data follow."""
        if subscriber.is_far_behind:
            subscriber.forget()
        elif subscriber.state in SENT:
            for position, entry in list(self._unsent(subscriber)):  # a client that reads at once shortens the log
                subscriber.keep(entry, is_expected=position < self._announced)
        self._seek(subscriber, self.log.end)

    def _recount(self, subscriber: Subscriber) -> None:
        """Count anew what waits for a subscriber: most have no snapshot, and skip nothing."""
        size_bytes = sum(entry.cost_bytes for entry in subscriber.own or ())
        if subscriber.snapshot is None:
            size_bytes += self.log.bytes_since(subscriber.offset)
        else:
            size_bytes += sum(entry.cost_bytes for _, entry in self._unsent(subscriber))
        subscriber.outbox.size_bytes += size_bytes - subscriber.waiting_bytes
        subscriber.waiting_bytes = size_bytes

    def _seek(self, subscriber: Subscriber, position: int) -> None:
        end = self.log.end
        was_behind = subscriber.offset < end
        subscriber.offset = position
        if subscriber.state is State.LIVE and position >= subscriber.proved_at:
            subscriber.snapshot = None
        if was_behind and position == end:
            self._behind -= 1
            if not self._behind:
                self.log.forget_before(end)

    def _all_have(self, xid: int) -> bool:
        """Whether the data of all have what transactions up to this one did, which come in any order."""
        return all(each.snapshot is not None and each.snapshot.xmin > xid for each in self.subscribers)

    def _trim(self) -> None:
        """Forget what no subscriber needs. One whose data come too late needs nothing: they are read again."""
        loading = [each.offset for each in self.subscribers if each.state is State.LOADING and not self.is_late(each)]
        needed = [each.offset for each in self.subscribers if each.state in SENT]
        self.log.forget_before(min([*loading, *needed], default=self.log.end))
        if self.subscription.overflow is Overflow.LATEST and self.log.size_bytes > self._compact_at_bytes:
            self.compact()  # early and often, since all wait for it
        self._trim_at_bytes = self.log.size_bytes + TRIM_BYTES
