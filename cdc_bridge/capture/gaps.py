"""How a gap that a trigger has marked becomes one that a snapshot can mend, and how often gaps are told.

No I/O and no clock: values in, values out. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc_bridge.model.change import Gap, Snapshot

LOOKS_BETWEEN_GAPS = 2
"""Gaps are told at every second look at the most, so that an overload is not answered with a flood of readings."""


@dataclass(slots=True)
class GapWatch:
    """Follows the sequence that a trigger steps when it could not tell what changed.

    A step is told at once, which mends what has committed by then, and once more later: whoever stepped has a
    transaction id, which is older than one that is assigned after the step was seen. When all older ones have ended,
    fresh data holds everything. Steps that are seen while one waits for this wait together for the next time, so
    that steps without end cannot put it off for ever.

    The first look sees a step that is older than itself and may not have committed yet: it waits, and is told then.
    """

    mended: int = 0
    """The value of the sequence of which it is known already that everybody who stepped it has ended."""
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
        """The value of the sequence when nothing is waited for, else -1."""
        is_waiting = self._owed or self._waiting is not None or self._next is not None
        return -1 if is_waiting or self._counter is None else self._counter

    def step(self, counter: int, younger: int) -> None:
        """The sequence has moved; `younger` is a transaction id that was assigned after that was seen."""
        self._owed = self._owed or self._counter is not None
        self._counter = counter
        self._next = younger
        self._is_fresh = True

    def look(self, snapshot: Snapshot) -> Gap | None:
        """After a step, or instead of one: a snapshot of now."""
        self._counter = self.mended if self._counter is None else self._counter
        if self._waiting is None:
            self._waiting, self._next = self._next, None
        if self._waiting is not None and snapshot.none_older_in_progress(self._waiting):
            self._owed = self._owed or not self._is_fresh  # else it is told now, or `Listening` has mended it
            self._waiting = None
        self._is_fresh = False
        return self._tell()

    def _tell(self) -> Gap | None:
        self._looks_since += 1
        if not self._owed or self._looks_since < LOOKS_BETWEEN_GAPS:
            return None
        self._owed = False
        self._looks_since = 0
        return Gap("a trigger could not tell what changed")


@dataclass(slots=True)
class GapLimit:
    """Gaps of one kind are told `apart_s` from each other at the least, and after the last one there is one for sure.

    Each is answered with a reading by everybody, so what is broken again and again may not ask for them without end.
    """

    apart_s: float
    _owed: Gap | None = None
    _next_s: float = float("-inf")

    @property
    def due_s(self) -> float:
        """When `take` has one; never, when none is owed."""
        return float("inf") if self._owed is None else self._next_s

    def owe(self, gap: Gap) -> None:
        self._owed = gap

    def take(self, now_s: float) -> Gap | None:
        """The gap that is to be told now."""
        if now_s < self.due_s:
            return None
        gap, self._owed = self._owed, None
        self._next_s = now_s + self.apart_s
        return gap
