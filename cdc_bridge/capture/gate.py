"""The gate: it says when writers notify, and when their notifications are complete.

The gate is a sequence in the database: odd, and writers notify; even, and they do not. A bridge that wants
notifications opens it and renews its lease before it runs out. A bridge that gets too many notifies the other bridges,
then shuts it. For this bridge it is in one of three states:

- SHUT: the log is read at intervals.
- OPENING: the gate was opened. Transactions that are older than an id assigned afterwards may have found it shut,
  so the log is read until all of them have ended.
- OPEN: every commit notifies, and what comes inline is taken as it comes.

Theory: a transaction has its id before it reads the gate. A transaction younger than the id mentioned got
its own after the gate was opened, so it finds it open unless it has been shut since. Shutting gives the sequence a new
value. So if a heartbeat finds the known value *after* its snapshot was taken, everything that the snapshot sees was
notified or read. Another value, or a lease that may have run out, means SHUT. An inline change names the value that its
writer found. A later value means that the gate was shut and opened again: there may be changes that its transaction
could see and that were not notified.

`Gate` never reads the clock or the network; its times are seconds of one monotonic clock. `GateController` opens the
gate when it is quiet and shuts it when it is busy. Rule: shut it after notifying, open it before notifying. Without a
listener it is not touched. During a bulk read it is not opened.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field

from cdc_bridge.capture.capture_session import CaptureSession, StreamCounts
from cdc_bridge.capture.stream_position import StreamPosition
from cdc_bridge.model.change import Snapshot

SHUT_AGAIN_S = 1.0

POLL_BUSY_S = 0.01
POLL_BULK_S = 0.004
"""The pause while a bulk read shuts the gate for others, too. It is about as long as one of its pages takes."""

POLL_VERY_BUSY_S = 0.025
VERY_BUSY = 15
"""Changes found by one reading. A reading costs as much as a hundred changes, so the next one may then find more."""

POLL_OPENING_S = 0.02
POLL_OPENING_LATER_S = 0.25
POLL_OPEN_S = 5.0
"""A precaution on which nothing depends."""


class GateState(enum.Enum):
    SHUT = "shut"
    OPENING = "opening"
    OPEN = "open"


@dataclass(slots=True)
class Gate:
    """See the module's docstring.

    The gate is to be shut past `busy_per_s` changes a second, and opened below `quiet_per_s` for `quiet_s`.
    """

    counts: StreamCounts = field(default_factory=StreamCounts)
    lease_s: float = 10
    busy_per_s: float = 150
    quiet_per_s: float = 50
    quiet_s: float = 1
    window_s: float = 0.2
    state: GateState = GateState.SHUT
    is_busy: bool = False
    _value: int | None = None
    _younger: int = 0
    _trusted_until_s: float = 0
    _window_start_s: float = float("-inf")
    _window_count: int = 0
    _per_s: float = 0
    _busy_at_s: float = float("-inf")

    # --- how busy it is ---

    def count(self, changes: int, now_s: float) -> None:
        """Note that so many changes have come, be it none."""
        if now_s - self._window_start_s > self.window_s:
            self._per_s = self._window_count / max(self.window_s, now_s - self._window_start_s)
            self._window_start_s, self._window_count = now_s, 0
        self._window_count += changes
        per_s = max(self._per_s, self._window_count / self.window_s)
        self.is_busy = per_s > self.busy_per_s
        if per_s > self.quiet_per_s:
            self._busy_at_s = now_s

    def is_quiet(self, now_s: float) -> bool:
        return now_s - self._busy_at_s > self.quiet_s

    # --- what happens to it ---

    def open(self, value: int, younger: int, asked_s: float) -> None:
        """Note that it was opened at `asked_s` or later with this value; `younger` is an id assigned since then."""
        self._become(GateState.OPENING)
        self._value = value
        self._younger = younger
        self._trusted_until_s = asked_s + self.lease_s

    def shut(self) -> None:
        """Note that it is shut, or may be: the log has to be read."""
        self._become(GateState.SHUT)
        self._value = None

    def renew(self, value: int | None, asked_s: float) -> bool:
        """Note that this value was found and the lease extended. Return whether it has been open all the time."""
        if self.state is GateState.SHUT or value != self._value:
            self.shut()
            return False
        self._trusted_until_s = asked_s + self.lease_s
        return True

    def read(self, snapshot: Snapshot) -> None:
        """Note that the log was read up to this snapshot."""
        if self.state is GateState.OPENING and snapshot.none_older_in_progress(self._younger):
            self._become(GateState.OPEN)

    def takes(self, value: int, now_s: float) -> bool:
        """Count an inline change whose writer found this value. Return whether it can be delivered before the log is
        read.
        """
        self.count(1, now_s)
        if self._value is not None and value > self._value:
            self.shut()
        return self.state is GateState.OPEN and self.is_trusted(now_s)

    def is_trusted(self, now_s: float) -> bool:
        """Return whether what comes inline is all there is. Past the lease it no longer is."""
        if self.state is GateState.OPEN and now_s > self._trusted_until_s:
            self.shut()
        return self.state is GateState.OPEN

    def _become(self, state: GateState) -> None:
        if state is not self.state:
            self.state = state
            self.counts.gate = state.value
            self.counts.gate_changes[state.value] += 1


class GateController:
    """See the module's docstring."""

    def __init__(self, session: CaptureSession, position: StreamPosition, gate: Gate) -> None:
        self._session = session
        self._position = position
        self._gate = gate
        self._opening_since_s = 0.0
        self._shut_s = float("-inf")

    def pause_s(self, found: int) -> float:
        """Return how long the log may wait for the next reading after one that has found so many changes."""
        match self._gate.state:
            case GateState.OPEN:
                return POLL_OPEN_S
            case GateState.OPENING:
                is_new = time.monotonic() - self._opening_since_s < 1
                return POLL_OPENING_S if is_new else POLL_OPENING_LATER_S
            case GateState.SHUT:
                if self._session.listener is None:
                    return self._session.options.poll_interval_s
                if found >= VERY_BUSY:
                    return POLL_VERY_BUSY_S
                return POLL_BULK_S if self._position.bulk_reads else POLL_BUSY_S

    def wants_change(self, now_s: float) -> bool:
        """Return whether it is to be opened or shut. It is shut again at times, since others may have opened it."""
        if self._session.listener is None:
            return False
        is_shut = self._gate.state is GateState.SHUT
        if self._gate.is_busy:
            return not is_shut or now_s - self._shut_s > SHUT_AGAIN_S
        return is_shut and not self._position.bulk_reads and self._gate.is_quiet(now_s)

    async def steer(self) -> bool:
        """Shut the gate where it is busy, else open it. Return whether the log has to be read now."""
        return await (self._shut() if self._gate.is_busy else self._open())

    async def _shut(self) -> bool:
        """Say it first, then do it: a writer that finds the gate shut commits after all bridges could know."""
        self._shut_s = time.monotonic()
        self._gate.shut()
        await self._session.reader.rows("announce_shut")
        await self._session.reader.rows("shut_gate")
        return True

    async def _open(self) -> bool:
        """Open it first, then take an id: a transaction that has a younger one has found it open."""
        asked_s = self._opening_since_s = time.monotonic()
        [opened] = await self._session.reader.row("open_gate", {"lease_s": self._gate.lease_s})
        if opened is None:
            return False
        [younger] = await self._session.reader.row("new_xid")
        self._gate.open(opened, younger, asked_s)
        return True
