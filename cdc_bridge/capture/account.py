"""What has been told of the log, and what is owed: kept while connections come and go.

Rule: what counts as told in `told` or in a lane is either said or in `unsaid`, and `unsaid` is said before anything
else. So connections that break between the two lose nothing.

An account is of one life of the database; another life, or a log that does not reach back so far, opens another one.
It never reads the clock or the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cdc_bridge.capture.lane import Lane
from cdc_bridge.capture.liveness import GapWatch
from cdc_bridge.capture.progress import Progress
from cdc_bridge.model.change import Era, Snapshot, StreamItem


@dataclass(slots=True)
class Account:
    """See the module's docstring. `lanes` are by the tables of their collections."""

    told: Progress
    unchecked: Snapshot
    """Whether anything was forgotten that this did not see is to be looked at next."""
    gaps: GapWatch = field(default_factory=GapWatch)
    lanes: dict[frozenset[int], Lane] = field(default_factory=dict)
    unsaid: list[StreamItem] = field(default_factory=list)

    @classmethod
    def opened(cls, era: Era, seen: Snapshot) -> Account:
        """One that begins with what a snapshot sees."""
        return cls(Progress(era, seen), seen)

    @property
    def lagging(self) -> frozenset[int]:
        """Tables of which lanes tell, and nobody else."""
        return frozenset(relation_id for relations in self.lanes for relation_id in relations)

    def say(self, *heard: StreamItem) -> None:
        self.unsaid += heard

    def take(self) -> list[StreamItem]:
        """What is to be said now; it leaves `unsaid` with that."""
        unsaid, self.unsaid = self.unsaid, []
        return unsaid
