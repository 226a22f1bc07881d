"""What is to be read, and for whom. The hub's readings are ordered here, and workers take them.

Rule: initial data wait in one line, what clients have missed in another, so that nobody waits for the data of others
because a client is told at its own pace. Nothing is handed out while we are not `listening`: what is read then cannot
meet the stream.

Bound: a subscriber waits once at most, for the newest reading, so there are never more than subscribers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cdc_bridge.engine.hub import Hub, Refresh
from cdc_bridge.engine.readings import Readings
from cdc_bridge.engine.subscriber import Reading, Subscriber


class Agenda:
    """See the module's docstring. `can_resume`: somebody takes what was missed; if not, all get initial data."""

    def __init__(self, hub: Hub, *, can_resume: bool) -> None:
        self.listening = asyncio.Event()
        self._hub = hub
        self._can_resume = can_resume
        self._data = Readings()
        self._data_ordered = asyncio.Event()
        self._missed: dict[Subscriber, Reading] = {}
        self._missed_ordered = asyncio.Event()
        self._stale_ordered = asyncio.Event()

    def order(self, readings: Iterable[Reading]) -> None:
        """To be called after whatever the hub was told, since it may also have found something stale."""
        for reading in readings:
            if reading.after is None:
                self._order_data(reading)
            elif self._can_resume:
                self._missed[reading.subscriber] = reading
                self._missed_ordered.set()
            else:
                self._order_data(self._hub.start_anew(reading.subscriber))

        if self._hub.has_stale:
            self._stale_ordered.set()

    def leave(self, subscriber: Subscriber) -> None:
        """End a subscription, and read nothing for it any more."""
        self._data.discard(subscriber)
        self._missed.pop(subscriber, None)
        self._hub.leave(subscriber)

    def suspend(self, subscriber: Subscriber) -> None:
        """Tell it nothing, and read nothing for it, until it goes on."""
        self._data.discard(subscriber)
        self._missed.pop(subscriber, None)
        self._hub.suspend(subscriber)

    async def next_data(self, most: int = 1) -> list[list[Reading]]:
        """Wait for readings, those of the same data together: what has waited longest, and up to so many more."""
        await self._until(self._data_ordered, lambda: bool(self._data))
        taken: list[list[Reading]] = []
        while self._data and len(taken) < most:
            taken.append(self._data.take())
        return taken

    async def next_missed(self) -> Reading:
        """Wait for somebody who comes back with a cursor."""
        await self._until(self._missed_ordered, lambda: bool(self._missed))
        return self._missed.pop(next(iter(self._missed)))

    async def next_stale(self) -> list[Refresh]:
        """Wait for what subscribers have to be shown again."""
        await self._until(self._stale_ordered, lambda: self._hub.has_stale)
        return self._hub.take_stale()

    def _order_data(self, reading: Reading) -> None:
        self._missed.pop(reading.subscriber, None)
        self._data.add(reading)
        self._data_ordered.set()

    async def _until(self, ordered: asyncio.Event, is_there: Callable[[], bool]) -> None:
        while True:
            await ordered.wait()
            await self.listening.wait()
            if is_there():
                return
            ordered.clear()
