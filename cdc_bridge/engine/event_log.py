"""The log of one topic: what its subscribers are sent, with the sizes in bytes.

Rule: positions count entries from the beginning of the topic. `begin` is the position of the first entry that is kept,
`end` that of the next one to come. A position stays valid until `forget_before` passes it or `compact` moves it.

Bound: none of its own. The topic decides what to forget, and when to make the log shorter (`topic.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from cdc_bridge.engine.compaction import RowKey, keep_newest, renumbered
from cdc_bridge.engine.outbox import Cut, Entry
from cdc_bridge.engine.pending import ENTRY_BYTES, Events
from cdc_bridge.model.change import Snapshot, made
from cdc_bridge.model.cursor import EventPosition

LOOKED_AT_MAX = 10
"""Entries among which a time of writing is looked for. Only the last event of a change has one."""


class EventLog:
    """See the module's docstring. `begin_bytes` and `end_bytes` are to bytes what `begin` and `end` are to entries.

    `entries` are those that are kept. `cuts` are frames that were made of them, kept for subscribers at the same
    position (`Topic.cut`); they are dropped whenever entries are.
    """

    __slots__ = ("begin", "begin_bytes", "cuts", "end", "end_bytes", "entries")

    def __init__(self) -> None:
        self.begin = self.end = 0
        self.begin_bytes = self.end_bytes = 0
        self.entries: list[Entry] = []
        self.cuts: dict[tuple[int, int, int, bool, int], tuple[Cut, Snapshot | None]] = {}

    @property
    def size_bytes(self) -> int:
        """Return the size of what is kept."""
        return self.end_bytes - self.begin_bytes

    @property
    def row_count(self) -> int:
        """Return the number of rows in all entries that are kept."""
        return sum(len(entry.event.rows or ()) for entry in self.entries if entry.event is not None)

    def append(self, xid: int, events: Events | None, read_in: Snapshot | None) -> None:
        """Append the events of a change. None: they are unknown, and one entry without an event stands for them."""
        end_bytes = self.end_bytes
        for event in (None,) if events is None else events:
            cost_bytes = ENTRY_BYTES if event is None else event.cost_bytes
            end_bytes += cost_bytes
            claim = None if event is None else event.event_position
            self.entries.append(made(Entry, (xid, event, cost_bytes, end_bytes, read_in, claim)))
            self.end += 1
        self.end_bytes = end_bytes

    def since(self, position: int) -> Sequence[Entry]:
        """Return the entries from a position on, as far as they are kept."""
        return self.entries[max(position - self.begin, 0) :]

    def bytes_since(self, position: int) -> int:
        """Return the size of the entries from a position on, which must be kept."""
        return self.end_bytes - self._bytes_before(position)

    def written_us(self, position: int) -> int:
        """Return when the entry at a position, or one soon after it, was written; 0 if that is not known."""
        first = position - self.begin
        claims = [entry.claim for entry in self.entries[first : first + LOOKED_AT_MAX]]
        return next((claim.at for claim in claims if isinstance(claim, EventPosition) and claim.at), 0)

    def forget_before(self, position: int) -> None:
        """Drop the entries before a position."""
        if position == self.end:
            self.begin_bytes = self.end_bytes
            self.entries.clear()
        else:
            self.begin_bytes = self._bytes_before(position)
            del self.entries[: position - self.begin]
        self.begin = position
        self.cuts.clear()

    def compact(self, key_of: RowKey, begun: Set[int]) -> Callable[[int], int]:
        """Keep only the newest state of each row. Leave the entries at the positions `begun` as they are.

        Return a function that says where a position of before is now.
        """
        begin = self.begin
        kept = keep_newest(self.entries, key_of, {position - begin for position in begun})
        self.entries, places = renumbered(kept, self.begin_bytes)
        self.end = begin + len(self.entries)
        self.end_bytes = self._bytes_before(self.end)
        self.cuts.clear()
        return lambda position: position if position < begin else begin + places[position - begin]

    def _bytes_before(self, position: int) -> int:
        return self.entries[position - self.begin - 1].end_bytes if position > self.begin else self.begin_bytes
