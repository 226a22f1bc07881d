"""How far the log has been told.

Rule: `seen` is a snapshot of which everything has been told, and `beyond` are the changes told since, inline, none of
which it sees. Reading the log, or a heartbeat that proves that all it sees was told inline, moves `seen`; `beyond`
then shrinks to what the new snapshot does not see. A change is told once.

No I/O and no clock: values in, values out.

Bound: `beyond_max` changes; past it the caller has to read the log, which moves `seen`. So cursors stay short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cdc_bridge.model.change import Change, Era, Position, Snapshot


@dataclass(slots=True)
class Progress:
    """See the module's docstring."""

    era: Era
    seen: Snapshot
    beyond_max: int = 50
    _beyond: set[tuple[int, int]] = field(default_factory=set)

    @property
    def position(self) -> Position:
        return Position(self.era, self.seen, frozenset(self._beyond))

    @property
    def is_long(self) -> bool:
        """Whether the log should be read now."""
        return len(self._beyond) >= self.beyond_max

    def hear(self, change: Change) -> Change | None:
        """A change that came inline, with its position; None when it has been told."""
        if self.seen.sees(change.xid) or (change.xid, change.seq) in self._beyond:
            return None
        self._beyond.add((change.xid, change.seq))
        return change.at_position(self.position)

    def read(self, changes: Iterable[Change], snapshot: Snapshot) -> Iterator[Change]:
        """What the log holds that `snapshot` sees and `seen` does not, in the order of `seq`: those not told yet.

        They must all be taken: `seen` is `snapshot` from the first one on.
        """
        before = self.position
        fresh = [change for change in changes if (change.xid, change.seq) not in before.beyond]
        self.prove(snapshot)
        last = len(fresh) - 1
        for number, change in enumerate(fresh):
            is_last = number == last
            yield change.at_position(
                self.position if is_last else Position(before.era, before.seen, before.beyond, snapshot, change.seq)
            )

    def prove(self, snapshot: Snapshot) -> None:
        """All that `snapshot` sees has been told, or is about to be."""
        if not snapshot.covers(self.seen):
            return  # an older one
        self.seen = snapshot
        self._beyond = {(xid, seq) for xid, seq in self._beyond if not snapshot.sees(xid)}
