"""Gaps: emit those that triggers have marked when a snapshot can mend them, and limit how often gaps are emitted.

No I/O and no clock: values in, values out. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc_bridge.model.change import Gap, GapCause, Snapshot

LOOKS_BETWEEN_GAPS = 2
"""A gap is emitted at every second look at most, so that an overload does not cause a flood of reads."""


@dataclass(slots=True)
class GapWatch:
    """Watches the sequence that a trigger steps when it could not record what changed.

    Rule: a step causes two gaps, one at once and one later. The first mends what has committed by then. The second is
    emitted when every transaction has ended that may have stepped: its id is older than one assigned after the step was
    seen. Steps seen in the meantime wait together for the next round, so that steps without end cannot postpone a gap
    for ever.

    The first look may see a step of a transaction that is still open. It causes the second gap only.
    """

    mended: int = 0
    """The value of the sequence up to which all transactions that stepped it are known to have ended."""
    _counter: int | None = None
    _owed: bool = False
    _looks_since: int = LOOKS_BETWEEN_GAPS
    _waiting: int | None = None
    _next: int | None = None
    _is_fresh: bool = False

    def is_step(self, counter: int) -> bool:
        """Whether `step` is to be called for this value of the sequence."""
        return counter != (self.mended if self._counter is None else self._counter)

    @property
    def settled(self) -> int:
        """Return the value of the sequence, or -1 while a gap is waited for."""
        is_waiting = self._owed or self._waiting is not None or self._next is not None
        return -1 if is_waiting or self._counter is None else self._counter

    def step(self, counter: int, younger: int) -> None:
        """Note that the sequence has moved. `younger` is a transaction id that was assigned after that was seen."""
        self._owed = self._owed or self._counter is not None
        self._counter = counter
        self._next = younger
        self._is_fresh = True

    def look(self, snapshot: Snapshot) -> Gap | None:
        """Look at a current snapshot, after `step` or instead of it. Return the gap to emit now, if any."""
        self._counter = self.mended if self._counter is None else self._counter
        if self._waiting is None:
            self._waiting, self._next = self._next, None
        if self._waiting is not None and snapshot.none_older_in_progress(self._waiting):
            self._owed = self._owed or not self._is_fresh  # else it is emitted now, or `Listening` has mended it
            self._waiting = None
        self._is_fresh = False
        return self._emit()

    def _emit(self) -> Gap | None:
        self._looks_since += 1
        if not self._owed or self._looks_since < LOOKS_BETWEEN_GAPS:
            return None
        self._owed = False
        self._looks_since = 0
        return Gap("a trigger could not record what changed", cause=GapCause.TRIGGER)


@dataclass(slots=True)
class GapLimit:
    """Emits gaps of one kind at least `apart_s` from each other, and always one after the last that is owed.

    Every subscriber reads fresh data after a gap, so a fault that repeats must not cause gaps without end.
    """

    apart_s: float
    _owed: Gap | None = None
    _next_s: float = float("-inf")

    @property
    def due_s(self) -> float:
        """Return the time from which `take` returns a gap; infinity when none is owed."""
        return float("inf") if self._owed is None else self._next_s

    def owe(self, gap: Gap) -> None:
        self._owed = gap

    def take(self, now_s: float) -> Gap | None:
        """Return the gap to emit now, if any."""
        if now_s < self.due_s:
            return None
        gap, self._owed = self._owed, None
        self._next_s = now_s + self.apart_s
        return gap
