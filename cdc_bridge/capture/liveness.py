"""What heartbeats prove, and how a gap that a trigger has marked becomes one that a snapshot can mend.

No I/O and no clock: values in, values out.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc_bridge.change import Gap, Heard, Heartbeat, Listening, Snapshot


@dataclass(slots=True)
class Proof:
    """Whether notifications arrive. Unproven until the first heartbeat of our own has come back; then for good.

    What comes before the proof is dropped, be it whole or broken: it is part of the gap that `Listening` ends.
    """

    sender: str
    proven: bool = False

    def hear(self, heard: Heard | None) -> tuple[Heard, ...]:
        """What may be passed on of something that has arrived. None: a part of a payload."""
        if self.proven:
            return () if heard is None else (heard,)
        self.proven = isinstance(heard, Heartbeat) and heard.sender == self.sender
        return (Listening(),) if self.proven else ()


LOOKS_BETWEEN_GAPS = 2
"""Gaps are told at every second look at the most, so that an overload is not answered with a flood of readings."""


@dataclass(slots=True)
class GapWatch:
    """Follows the sequence that a trigger steps when it could not tell what changed.

    A step is told at once, which mends what has committed by then, and once more later: whoever stepped had a
    transaction id, and had not committed. So a snapshot that is taken after the step was seen lists that
    transaction as in progress, or it has ended; when all that were in progress have ended, fresh data holds
    everything. Steps that are seen while one waits for this wait together for the next time, so that steps
    without end cannot put it off for ever.

    The first look sees a step that is older than itself and may not have committed yet: it waits, and is told then.
    """

    _counter: int | None = None
    _owed: bool = False
    _looks_since: int = LOOKS_BETWEEN_GAPS
    _waiting: Snapshot | None = None
    _next: Snapshot | None = None

    def look(self, counter: int, snapshot: Snapshot) -> Gap | None:
        """The counter as it was read, and a snapshot that was taken after it."""
        is_first, self._counter, before = self._counter is None, counter, self._counter
        if counter != (before or 0):
            self._owed = self._owed or not is_first
            self._next = snapshot
        if self._waiting is None:
            self._waiting, self._next = self._next, None
        if self._waiting is not None and all(snapshot.sees(xid) for xid in self._waiting.in_progress):
            self._owed = self._owed or bool(self._waiting.in_progress)
            self._waiting = None
        return self._tell()

    def _tell(self) -> Gap | None:
        self._looks_since += 1
        if not self._owed or self._looks_since < LOOKS_BETWEEN_GAPS:
            return None
        self._owed = False
        self._looks_since = 0
        return Gap("a trigger could not tell what changed")
