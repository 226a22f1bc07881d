"""How the initial data of a subscription and the changes after it meet without a gap or an overlap.

A feed is HOLDING, MEETING or LIVE.

- HOLDING: its initial data is still being read. Changes are kept.
- MEETING: the data was read in a snapshot. Changes that the snapshot saw are in the data and are dropped; the
  others pass. Notifications of changes that the snapshot saw can still be on their way here.
- LIVE: a heartbeat has proved that they are not. Everything passes.

Rows that are read in between, since what they show has changed elsewhere, go into the stream where their snapshot is:
the feed waits for them (`wait`), keeps what comes, and gives it out on either side of them (`part`).

A change that cannot be told (`lack`) calls for fresh data. What is being read already may have it, so it is not thrown
away for that: however often it happens, data arrive.

It goes from HOLDING to MEETING when `begin` brings the snapshot, from there to LIVE by `heard`, and back to
HOLDING by `hold`, when the stream had a gap. It never reads the clock or the network.

Bound: `held_bytes_max` of kept changes. Policy: past it the kept changes are forgotten, and `begin` and `part` say
that the data is too old to be met; the caller reads it anew.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from cdc_bridge.model.change import NOTHING_SEEN, Snapshot
from cdc_bridge.model.subscription import Event

Held: TypeAlias = tuple[int, tuple[Event, ...]]

LACKING_BYTES = 100
"""What it costs to know of one transaction."""


class Phase(enum.Enum):
    HOLDING = "holding"
    MEETING = "meeting"
    LIVE = "live"


@dataclass(slots=True)
class Feed:
    """See the module's docstring. `epoch` counts the holds, so that data read for an earlier one is known."""

    held_bytes_max: int
    phase: Phase = Phase.HOLDING
    epoch: int = 0
    overflowed: bool = False
    is_waiting: bool = False
    _held: list[Held] = field(default_factory=list)
    _held_bytes: int = 0
    _lacking: set[int] = field(default_factory=set)
    _snapshot: Snapshot = NOTHING_SEEN

    def hold(self) -> None:
        """The stream has a gap: whatever was kept is worthless, fresh data has to be read."""
        self.phase = Phase.HOLDING
        self.epoch += 1
        self._snapshot = NOTHING_SEEN
        self._forget_held()
        self.overflowed = False
        self.is_waiting = False

    def keep_nothing(self) -> None:
        """Until it is to `hold` anew: what comes by then is of no use."""
        self.overflowed = True

    def offer(self, xid: int, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """What of a transaction's events goes out now."""
        match self.phase:
            case Phase.MEETING if self._snapshot.sees(xid):
                return ()
            case Phase.MEETING | Phase.LIVE if not self.is_waiting:
                return events
            case Phase.MEETING | Phase.LIVE | Phase.HOLDING:
                self._keep(xid, events)
                return ()
        assert_never(self.phase)

    def lack(self, xid: int) -> bool:
        """A change of this transaction cannot be told. Whether fresh data are needed: not if they are on their way."""
        match self.phase:
            case Phase.MEETING if self._snapshot.sees(xid):
                return False
            case Phase.MEETING | Phase.LIVE:
                return True
            case Phase.HOLDING:
                if xid not in self._lacking:
                    self._lacking.add(xid)
                    self._take_room(LACKING_BYTES)
                return False
        assert_never(self.phase)

    def lacks(self, snapshot: Snapshot) -> bool:
        """Whether something cannot be told that `snapshot` does not see."""
        return not all(map(snapshot.sees, self._lacking))

    def wait(self) -> None:
        """Rows are about to be read, which go into the stream. Who gets fresh data anyway need not wait."""
        self.is_waiting = self.phase is not Phase.HOLDING

    def part(self, snapshot: Snapshot) -> tuple[list[tuple[Event, ...]], list[tuple[Event, ...]]] | None:
        """The rows are read: what goes before them, and what after. None: too much has come meanwhile."""
        if self.overflowed:
            return None
        before = [events for xid, events in self._held if snapshot.sees(xid)]
        after = [events for xid, events in self._held if not snapshot.sees(xid)]
        self._forget_held()
        self.is_waiting = False
        return before, after

    def begin(self, snapshot: Snapshot) -> list[tuple[Event, ...]] | None:
        """The initial data is sent; release what its snapshot did not see. None: it is too old, read again."""
        if self.overflowed:
            self.hold()
            return None
        self._snapshot = snapshot
        self.phase = Phase.MEETING
        released = [events for xid, events in self._held if not snapshot.sees(xid)]
        self._forget_held()
        return released

    def heard(self, snapshot: Snapshot) -> None:
        """Everything that `snapshot` sees has passed by."""
        if self.phase is Phase.MEETING and snapshot.sees_all_of(self._snapshot):
            self._snapshot = NOTHING_SEEN
            self.phase = Phase.LIVE

    def _keep(self, xid: int, events: tuple[Event, ...]) -> None:
        if self.overflowed:
            return
        self._held.append((xid, events))
        self._take_room(sum(event.cost_bytes for event in events))

    def _take_room(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        if self._held_bytes > self.held_bytes_max:
            self.overflowed = True
            self._forget_held()

    def _forget_held(self) -> None:
        self._held = []
        self._held_bytes = 0
        self._lacking = set()
