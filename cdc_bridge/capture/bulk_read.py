"""Bulk reads: deliver a collection that has so much that the others must not wait for it.

Many small collections that are too much at once are delivered by one bulk read, as if they were one.

Rule: a bulk read delivers page by page what one snapshot sees and its position does not have. Its position advances
with each page. A collection has at most one bulk read, and while it has one, its changes are delivered nowhere else.
It ends in one of three ways. The stream takes over its collection again (`_rejoin`). Another bulk read goes on where it
has ended. Or it is given up, and subscribers get fresh data: when part of it cannot be read, and when its collection
gets a partition that it does not know, whose changes the stream would deliver beside it.

Theory: a bulk read is delivered up to its own snapshot, the stream up to a later one. What lies between is read at
once, if that is not much, and then both are at the same snapshot.

Bound: one page waits to be delivered, and reading goes on when it is taken. A page that no client can take just now
waits, for `CONGESTED_MAX_S` at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import psycopg

from cdc_bridge.capture.capture_session import CaptureSession
from cdc_bridge.capture.connection import LONG_ANSWER_S, WatchedConnection
from cdc_bridge.capture.log_pages import Ask, Siblings, is_forgotten, pages, read_between
from cdc_bridge.capture.stream_position import StreamPosition, placed
from cdc_bridge.model.change import Change, Gap, GapCause, Position, Snapshot
from cdc_bridge.model.errors import CaptureLost, PayloadError

IsCongested: TypeAlias = Callable[[frozenset[int]], bool]
"""Whether no subscriber of these tables can take more just now."""

CONGESTED_S = 0.02
CONGESTED_MAX_S = 30.0
"""How long a large transaction waits for clients that take nothing. Then it is delivered, and they are closed."""


@dataclass(slots=True, eq=False)
class BulkRead:
    """See the module's docstring. `relations` are all tables of its collections."""

    relations: frozenset[int]
    delivered: Position
    upto: Snapshot
    is_done: bool = False
    broken: str = ""
    """Why it cannot be read to its end."""
    congested_since_s: float | None = None
    pages: asyncio.Queue[tuple[Change, ...] | None] = field(default_factory=lambda: asyncio.Queue(1))
    """Return the page that waits, or None after the last one."""

    @property
    def has_page(self) -> bool:
        return not self.pages.empty()

    def take(self) -> list[Change]:
        """Return the changes of the page that waits, each with its position."""
        page = self.pages.get_nowait()
        if page is None:
            self.delivered = Position.of(self.delivered.era, self.upto)
            self.is_done = True
            return []
        journal, length, _, _ = self.delivered
        changes = [change.at_position(Position(journal, length, self.upto, change.seq)) for change in page]
        self.delivered = self.delivered._replace(upto=self.upto, seq=page[-1].seq)
        return changes


class BulkReader:
    """Runs bulk reads, each on a connection of its own. Which there are is in the position, and outlives a session."""

    def __init__(
        self, session: CaptureSession, position: StreamPosition, siblings: Siblings, is_congested: IsCongested
    ) -> None:
        self.siblings = siblings
        self._session = session
        self._position = position
        self._is_congested = is_congested
        self._tasks: dict[BulkRead, asyncio.Task[None]] = {}

    @property
    def have_pages(self) -> bool:
        return any(read.has_page for read in self._position.bulk_reads.values())

    def begin(self, groups: Iterable[frozenset[int]], delivered: Position, upto: Snapshot) -> None:
        """Begin one for each of these collections, or sets of them, from what was delivered to a snapshot."""
        for relations in groups:
            self._begin(BulkRead(relations, delivered, upto))

    def resume(self) -> None:
        """Go on with all of them where connections have broken."""
        for read in list(self._position.bulk_reads.values()):
            self._begin(BulkRead(read.relations, read.delivered, read.upto))

    def take(self) -> bool:
        """Emit a page of each one, unless all clients concerned have their hands full. Return whether one is done."""
        is_done = False
        for read in list(self._position.bulk_reads.values()):
            if read.broken:
                self.give_up(read, read.broken)
            elif read.has_page and not self._waits(read):
                self._position.emit(*read.take())
                is_done |= read.is_done
        return is_done

    async def rejoin(self, snapshot: Snapshot) -> None:
        """Bring what has come to its end to this snapshot, where the stream is."""
        for read in [read for read in self._position.bulk_reads.values() if read.is_done]:
            try:
                await self._rejoin(read, snapshot)
            except (PayloadError, psycopg.DataError) as error:
                self.give_up(read, str(error))

    def give_up(self, read: BulkRead, reason: str) -> None:
        """End a bulk read: the collection goes on in the stream, and its subscribers get fresh data."""
        self._end(read)
        self._position.emit(Gap(reason, cause=GapCause.BULK_READ))

    def give_up_grown(self) -> None:
        """Give up bulk reads whose collection has gained a table since they began."""
        for read in list(self._position.bulk_reads.values()):
            if _has_grown(read.relations, self.siblings):
                self.give_up(read, "a table got another partition while much of it was read")

    def _begin(self, read: BulkRead) -> None:
        self._position.bulk_reads[read.relations] = read
        self._tasks[read] = self._session.start(self._run(read))

    def _end(self, read: BulkRead) -> None:
        del self._position.bulk_reads[read.relations]
        self._tasks.pop(read).cancel()

    def _waits(self, read: BulkRead) -> bool:
        """Return whether its page waits for the quickest of the clients that are to have it."""
        now = time.monotonic()
        if self._is_congested(read.relations):
            read.congested_since_s = read.congested_since_s or now
            if now - read.congested_since_s < CONGESTED_MAX_S:
                return True
        read.congested_since_s = None
        return False

    async def _run(self, read: BulkRead) -> None:
        """Read it to its end, one page ahead of what has been delivered."""
        session = self._session
        try:
            reader = await session.open_reader()
            try:
                await self._read(read, _long(reader))
            finally:
                await reader.close()
        except (PayloadError, psycopg.DataError) as error:  # reading again would not help
            read.broken = str(error)
            session.wakeup.set()
        except (CaptureLost, psycopg.Error, OSError) as error:
            session.fail(error)

    async def _read(self, read: BulkRead, ask: Ask) -> None:
        async with aclosing(pages(ask, read.relations, (read.delivered,), read.upto)) as found:
            async for page in found:
                await self._require_whole(ask, read)
                await self._put(read, page.changes)
        await self._require_whole(ask, read)
        await self._put(read, None)

    async def _put(self, read: BulkRead, page: tuple[Change, ...] | None) -> None:
        await read.pages.put(page)
        self._session.wakeup.set()

    async def _require_whole(self, ask: Ask, read: BulkRead) -> None:
        """Raises `PayloadError` when some of what it was to read has been forgotten meanwhile."""
        if await is_forgotten(ask, read.delivered.seen):
            raise PayloadError("the log was emptied before it was read")

    async def _rejoin(self, read: BulkRead, snapshot: Snapshot) -> None:
        ask = _long(self._session.reader)
        changes = await read_between(ask, read.relations, read.delivered, snapshot)
        if changes is None:
            self._end(read)
            self._begin(BulkRead(read.relations, read.delivered, snapshot))
            return
        await self._require_whole(ask, read)
        self._end(read)
        fresh = placed(changes, read.delivered, snapshot)
        if fresh:
            fresh[-1] = fresh[-1].at_position(Position.of(read.delivered.era, snapshot))
        self._position.emit(*fresh)


def _long(reader: WatchedConnection) -> Ask:
    return lambda name, parameters: reader.rows(name, parameters, limit_s=LONG_ANSWER_S)


def _has_grown(relations: frozenset[int], siblings: Siblings) -> bool:
    """Whether a collection of these tables has others as well."""
    rest = set(relations)
    while rest:
        relation_id = rest.pop()
        group = siblings(relation_id)
        if not group <= relations:
            return True
        rest -= group
    return False
