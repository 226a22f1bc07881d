"""What waits to be read: a line for each kind of read.

Theory: each kind has a line and workers of its own (`read_workers.py`), so no kind can starve another one: many clients
that come back do not hold up a new one, and figures that take long hold up neither rows nor other figures.

- ROWS: initial data. Equal readings are one read, and many reads are done in one transaction.
- ALONE: initial data that are read alone: figures, and what has kept others from being read.
- SLOW: reads that took longer than others may wait. For `SLOW_FOR_S` every read of the same cost waits here, too.
- REPLAY: changes that subscribers missed.
- REFRESH: stale rows and figures.

Rule: first come, first served; and nothing is handed out while we are not `listening`: what is read then cannot meet
the stream.

Bound: a subscriber waits for one read at most, the newest, and a topic for one refresh.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Hashable, Iterable

from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.reads import Read, RefreshRead, ReplayRead, SnapshotRead
from cdc_bridge.engine.subscriber import Reading, Subscriber

SLOW_FOR_S = 60.0
SLOW_MAX = 1000
"""Costs that have been slow, of which only hashes are kept; past it all are forgotten, and found out again."""


class Kind(enum.Enum):
    ROWS = "rows"
    ALONE = "alone"
    SLOW = "slow"
    REPLAY = "replay"
    REFRESH = "refresh"


class ReadScheduler:
    """See the module's docstring. Where nobody `can_replay`, all subscribers get initial data."""

    def __init__(self, hub: Hub, *, can_replay: bool) -> None:
        self.listening = asyncio.Event()
        self._hub = hub
        self._can_replay = can_replay
        self._lines: dict[Kind, dict[Hashable, Read]] = {kind: {} for kind in Kind}
        self._filled = {kind: asyncio.Event() for kind in Kind}
        self._waits_at: dict[Subscriber, tuple[Kind, Hashable]] = {}
        self._slow_until_s: dict[int, float] = {}

    def __len__(self) -> int:
        """How many subscribers wait for a read that no worker has taken."""
        return len(self._waits_at)

    # --- what is ordered ---

    def order(self, readings: Iterable[Reading]) -> None:
        """Let these wait. To be called after whatever the hub was told, since it may have found something stale too."""
        for ordered in readings:
            reading = ordered
            if reading.after is not None and not self._can_replay:
                reading = self._hub.start_anew(reading.subscriber)
            self._forget(reading.subscriber)
            self.wait(SnapshotRead(reading) if reading.after is None else ReplayRead(reading))
        if self._hub.has_stale:
            self._filled[Kind.REFRESH].set()

    def wait(self, read: Read, kind: Kind | None = None) -> None:
        """Let a read wait at the end of a line: its own, unless it is known to be slow."""
        kind = Kind.SLOW if self._is_slow(read) else kind or _kind(read)
        known = self._lines[kind].get(read.key)
        if isinstance(read, SnapshotRead):
            read.forget_outdated()
            for subscriber in read.readings:
                self._waits_at[subscriber] = kind, read.key
            if isinstance(known, SnapshotRead):
                known.readings.update(read.readings)
                return
        elif isinstance(read, ReplayRead):
            self._waits_at[read.subscriber] = kind, read.key
        self._lines[kind][read.key] = read
        self._filled[kind].set()

    def wait_with_slow(self, read: Read) -> None:
        """It took longer than others may wait."""
        if len(self._slow_until_s) >= SLOW_MAX:
            self._slow_until_s.clear()
        self._slow_until_s[hash(read.cost)] = asyncio.get_running_loop().time() + SLOW_FOR_S
        self.wait(read)

    def leave(self, subscriber: Subscriber) -> None:
        """End a subscription, and read nothing for it any more."""
        self._forget(subscriber)
        self._hub.leave(subscriber)

    def suspend(self, subscriber: Subscriber) -> None:
        """Send it nothing, and read nothing for it, until it goes on."""
        self._forget(subscriber)
        self._hub.suspend(subscriber)

    # --- what workers take ---

    async def take(self, kind: Kind, reads_max: int = 1) -> list[Read]:
        """Wait for reads of a kind that are still wanted. Return those that have waited longest."""
        line, filled = self._lines[kind], self._filled[kind]
        while True:
            await filled.wait()
            await self.listening.wait()
            if kind is Kind.REFRESH:
                for refresh in self._hub.take_stale():
                    self.wait(RefreshRead(refresh))
            wanted: list[Read] = []
            while line and len(wanted) < reads_max:
                read = self._pop(kind)
                if not read.is_wanted:
                    continue
                if kind is not Kind.SLOW and self._is_slow(read):
                    self.wait(read)
                else:
                    wanted.append(read)
            if not line:
                filled.clear()
            if wanted:
                return wanted

    # --- inside ---

    def _is_slow(self, read: Read) -> bool:
        until_s = self._slow_until_s.get(hash(read.cost), 0.0)
        return until_s > 0 and until_s > asyncio.get_running_loop().time()

    def _pop(self, kind: Kind) -> Read:
        line = self._lines[kind]
        read = line.pop(next(iter(line)))
        for subscriber in read.subscribers:
            self._waits_at.pop(subscriber, None)
        return read

    def _forget(self, subscriber: Subscriber) -> None:
        """It waits for nothing any more."""
        kind, key = self._waits_at.pop(subscriber, (None, None))
        if kind is None:
            return
        read = self._lines[kind][key]
        if isinstance(read, SnapshotRead):
            del read.readings[subscriber]
            if read.readings:
                return
        del self._lines[kind][key]


def _kind(read: Read) -> Kind:
    if isinstance(read, SnapshotRead):
        return Kind.ALONE if read.has_figures else Kind.ROWS
    return Kind.REPLAY if isinstance(read, ReplayRead) else Kind.REFRESH
