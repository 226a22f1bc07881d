"""The position of the stream: what it has delivered of the log, and what is pending.

Rule: the journal's `seen` is a snapshot of which everything has been delivered, and its changes are those delivered
since, inline, none of which it sees. Reading the log, or a heartbeat that proves that all it sees was delivered inline,
brings a newer snapshot and so another journal, which begins with the changes that the new snapshot does not see. A
change is delivered once. What counts as delivered, here or in a bulk read, was taken by the consumer or is in
`pending`, which is handed out before anything else. So nothing is lost when connections break between the two.

A stream position outlives connections. It belongs to one generation of the database. Another generation, or a log that
does not reach back so far, begins a new one. It never reads the clock or the network.

Bound: `inline_max` changes; past it the caller has to read the log, which moves `seen`. So cursors stay short. No more
come between two heartbeats while the gate is open, so this reading is rare.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdc_bridge.capture.gaps import GapWatch
from cdc_bridge.model.change import Change, Era, Journal, Position, Snapshot, StreamItem, made

if TYPE_CHECKING:
    from cdc_bridge.capture.bulk_read import BulkRead


@dataclass(slots=True)
class StreamPosition:
    """See the module's docstring. `bulk_reads` are by the tables of their collections."""

    era: Era
    seen: Snapshot
    inline_max: int = 200
    gaps: GapWatch = field(default_factory=GapWatch)
    bulk_reads: dict[frozenset[int], BulkRead] = field(default_factory=dict)
    pending: list[StreamItem] = field(default_factory=list)
    unchecked: Snapshot = field(init=False)
    """The snapshot since which it has not been checked whether anything was forgotten."""
    journal: Journal = field(init=False)
    """The changes that have been delivered; `Journal.deliver` adds an inline change."""

    def __post_init__(self) -> None:
        self.unchecked = self.seen
        self.journal = Journal(self.era, self.seen)

    @property
    def position(self) -> Position:
        return Position(self.journal, len(self.journal.delivered))

    @property
    def is_long(self) -> bool:
        """Whether the log should be read now."""
        return len(self.journal.delivered) >= self.inline_max

    @property
    def lagging(self) -> frozenset[int]:
        """Return the tables whose changes only bulk reads deliver."""
        return frozenset().union(*self.bulk_reads)

    def emit(self, *items: StreamItem) -> None:
        self.pending += items

    def take(self) -> list[StreamItem]:
        """Return what is pending and forget it."""
        pending, self.pending = self.pending, []
        return pending

    def begin_era(self, era: Era) -> None:
        """Positions belong to this era from here on."""
        self.era = era
        self.journal = Journal(era, self.seen, self.journal.delivered)

    def deliver_read(self, changes: Iterable[Change], snapshot: Snapshot) -> list[Change]:
        """Return the changes not delivered yet, among those of the log that `snapshot` sees and `seen` does not.

        `changes` are in the order of `seq`. The position of the last one is that of `snapshot`.
        """
        fresh = placed(changes, self.position, snapshot)
        self.prove(snapshot)
        if fresh:
            fresh[-1] = fresh[-1].at_position(self.position)
        return fresh

    def prove(self, snapshot: Snapshot) -> None:
        """Note that all that `snapshot` sees was delivered or is pending. An older snapshot changes nothing."""
        if snapshot != self.seen and snapshot.covers(self.seen):
            self.seen = snapshot
            later = [change for change in self.journal.delivered if not snapshot.sees(change[0])]
            self.journal = Journal(self.era, snapshot, later)


def placed(changes: Iterable[Change], before: Position, upto: Snapshot) -> list[Change]:
    """Return the changes that `before` does not have, each with its position on the way from there to `upto`."""
    journal, length, _, _ = before
    if delivered := journal.delivered:
        changes = [change for change in changes if (change.xid, change.seq) not in delivered]
    return [
        made(Change, (*change[:8], made(Position, (journal, length, upto, change.seq))))  # as `at_position`
        for change in changes
    ]
