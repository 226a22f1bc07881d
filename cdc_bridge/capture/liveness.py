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


@dataclass(slots=True)
class GapWatch:
    """Follows the sequence that a trigger steps when it could not tell what changed.

    Whoever steps it has a transaction id by then, and has not committed. So a snapshot that is taken after the step
    was seen lists that transaction as in progress, or it has ended; once all that were in progress have ended, fresh
    data holds what was not told. Steps that are seen while one waits for this wait together for the next time, so
    that steps without end cannot put it off for ever.
    """

    counter: int | None = None
    _waiting: Snapshot | None = None
    _next: Snapshot | None = None

    def look(self, counter: int, snapshot: Snapshot) -> Gap | None:
        """The counter as it was read, and a snapshot that was taken after it."""
        if self.counter not in (None, counter):
            self._next = snapshot
        self.counter = counter
        if self._waiting is None:
            self._waiting, self._next = self._next, None
        if self._waiting is None or not all(snapshot.sees(xid) for xid in self._waiting.in_progress):
            return None
        self._waiting = None
        return Gap("a trigger could not tell what changed")
