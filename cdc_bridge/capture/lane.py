"""A lane: a collection of which there is so much to tell that the others must not wait for it.

Many collections that have little each, but are too much at once, are told in one lane as if they were one.

Rule: a lane tells what one snapshot sees and its position has not, page by page, and its position goes along. While
there is a lane for a collection, nothing of that is told elsewhere. When it is done, the stream takes the collection
up again from the lane's position.

Bound: one page waits to be told; whoever reads ahead waits for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from cdc_bridge.model.change import Change, Position, Snapshot


@dataclass(slots=True, eq=False)
class Lane:
    """See the module's docstring. `relations` are all tables of the collection, or of those that share the lane."""

    relations: frozenset[int]
    told: Position
    upto: Snapshot
    is_done: bool = False
    waits_since_s: float | None = None
    """Since when a page waits for those who are to be told it."""
    _pages: asyncio.Queue[tuple[Change, ...] | None] = field(default_factory=lambda: asyncio.Queue(1))

    @property
    def has_page(self) -> bool:
        return not self._pages.empty()

    async def put(self, page: tuple[Change, ...] | None) -> None:
        """The next page; None after the last one."""
        await self._pages.put(page)

    def take(self) -> Iterator[Change]:
        """The changes of the page that waits, each with its position."""
        page = self._pages.get_nowait()
        if page is None:
            self.told = Position.of(self.told.era, self.upto)
            self.is_done = True
            return
        for change in page:
            self.told = Position(self.told.journal, self.told.length, self.upto, change.seq)
            yield change.at_position(self.told)
