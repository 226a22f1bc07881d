"""How far the log has been delivered.

Rule: the journal's `seen` is a snapshot of which everything has been delivered, and its changes are those delivered
since, inline, none of which it sees. Reading the log, or a heartbeat that proves that all it sees was delivered inline,
brings a newer snapshot and so another journal, which begins with the changes that the new snapshot does not see.
A change is delivered once.

No I/O and no clock: values in, values out.

Bound: `beyond_max` changes; past it the caller has to read the log, which moves `seen`. So cursors stay short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cdc_bridge.model.change import Change, Era, Journal, Position, Snapshot


@dataclass(slots=True)
class Progress:
    """See the module's docstring."""

    era: Era
    seen: Snapshot
    beyond_max: int = 50
    _journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self._journal = Journal(self.era, self.seen)

    @property
    def position(self) -> Position:
        return Position(self._journal, len(self._journal.delivered))

    @property
    def is_long(self) -> bool:
        """Whether the log should be read now."""
        return len(self._journal.delivered) >= self.beyond_max

    def turn(self, era: Era) -> None:
        """Positions belong to this era from here on."""
        self.era = era
        self._journal = Journal(era, self.seen, self._journal.delivered)

    def hear(self, change: Change) -> Change | None:
        """A change that came inline, with its position; None when it has been delivered."""
        delivered = self._journal.delivered
        if self.seen.sees(change.xid) or (change.xid, change.seq) in delivered:
            return None
        self._journal.deliver(change.xid, change.seq)
        return change.at_position(Position(self._journal, len(delivered)))

    def read(self, changes: Iterable[Change], snapshot: Snapshot) -> list[Change]:
        """What the log holds that `snapshot` sees and `seen` does not, in the order of `seq`: those not delivered yet.

        The position of the last one is that of `snapshot`.
        """
        before = self._journal
        count = len(before.delivered)
        fresh = [
            change.at_position(Position(before, count, snapshot, change.seq))
            for change in changes
            if (change.xid, change.seq) not in before.delivered
        ]
        self.prove(snapshot)
        if fresh:
            fresh[-1] = fresh[-1].at_position(self.position)
        return fresh

    def prove(self, snapshot: Snapshot) -> None:
        """All that `snapshot` sees has been delivered, or is about to be."""
        if not snapshot.covers(self.seen):
            return  # an older one
        self.seen = snapshot
        beyond = [change for change in self._journal.delivered if not snapshot.sees(change[0])]
        self._journal = Journal(self.era, snapshot, beyond)
