"""The queue of a topic: entries that are not known yet, and what has come after them.

Rule: a `Pending` takes the place of a change's events while the database is asked about them, or of rows that are being
read again. What comes later queues behind it, and leaves in the order in which it came. Rows that were read again are
put where their snapshot is: behind what it saw, before the rest.

Bound: `size_bytes`, which the topic compares with its own bound. Policy: see `topic.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.subscription import Event

ENTRY_BYTES = 100
"""The cost of an entry without events."""

Events: TypeAlias = tuple[Event, ...]


class Pending:
    """The place in a queue of events that are not known yet, or of rows that are being read again (without `xid`)."""

    __slots__ = ("events", "is_settled", "size_bytes", "xid")

    def __init__(self, xid: int | None, size_bytes: int) -> None:
        self.xid = xid
        self.size_bytes = size_bytes
        self.is_settled = False
        self.events: Events | None = None


Arrival: TypeAlias = tuple[int, Events | None, Snapshot | None]
"""The xid, the events (None if they are unknown), and the snapshot in which they were read, if any."""

Queued: TypeAlias = Pending | Snapshot | Arrival
"""An entry of the queue. A snapshot stands for a heartbeat."""


class PendingQueue(deque[Queued]):
    """See the module's docstring. It is a deque, since every change asks whether it is empty."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = 0

    def clear(self) -> None:
        super().clear()
        self.size_bytes = 0

    def wait(self, xid: int | None, size_bytes: int) -> Pending:
        """Append an entry that is not known yet."""
        pending = Pending(xid, size_bytes)
        self.append(pending)
        self.size_bytes += size_bytes
        return pending

    def put(self, arrival: Arrival) -> None:
        """Append events."""
        self.append(arrival)
        self.size_bytes += _cost(arrival[1])

    def take_known(self) -> Iterator[Arrival | Snapshot]:
        """Take everything up to the first pending entry that is not settled."""
        while self:
            first = self[0]
            if isinstance(first, Pending):
                if not first.is_settled:
                    break
                assert first.xid is not None
                yield first.xid, first.events, None
                self.size_bytes -= first.size_bytes
            elif isinstance(first, Snapshot):
                yield first
            else:
                yield first
                self.size_bytes -= _cost(first[1])
            self.popleft()

    def replace(self, pending: Pending, event: Event | None, read_in: Snapshot) -> None:
        """Put rows that were read again where their snapshot is; without an event there is nothing to show."""
        others = [each for each in self if each is not pending]
        before = [each for each in others if _is_seen(each, read_in)]
        after = [each for each in others if not _is_seen(each, read_in)]
        shown: list[Queued] = [] if event is None else [(0, (event,), read_in)]
        super().clear()
        self.extend([*before, *shown, *after])
        self.size_bytes += 0 if event is None else event.cost_bytes
        self.size_bytes -= pending.size_bytes


def _cost(events: Events | None) -> int:
    return ENTRY_BYTES if events is None else sum([event.cost_bytes for event in events])


def _is_seen(queued: Queued, snapshot: Snapshot) -> bool:
    if isinstance(queued, Pending):
        return queued.xid is not None and snapshot.sees(queued.xid)
    if isinstance(queued, Snapshot):
        return False
    xid, _, read_in = queued
    return snapshot.sees(xid) if read_in is None else snapshot.covers(read_in)
