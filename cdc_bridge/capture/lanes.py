"""How lanes run: each on a connection of its own, page by page, at the pace of those who are told.

Rule: a collection has one lane or none; many that have little each share one. A lane ends in one of three ways: the
stream takes its collection up again (`rejoin`), another lane goes on where it has ended, or it is given up and
everybody starts anew: when some of it cannot be read, and when its collection gets another partition, which it does not
know of and the stream would tell beside it.

Theory: a lane is told up to its own snapshot, the stream up to a later one. What lies between is read at once, if that
is not much, and then both are at the same snapshot.

Bound: a page that nobody can take just now waits for `CONGESTED_MAX_S`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import NamedTuple, TypeAlias

import psycopg

from cdc_bridge.capture.account import Account
from cdc_bridge.capture.connection import Connection, connect
from cdc_bridge.capture.lane import Lane
from cdc_bridge.capture.life import Life
from cdc_bridge.capture.pages import is_forgotten, pages
from cdc_bridge.capture.progress import Progress
from cdc_bridge.capture.reading import Siblings, read_between
from cdc_bridge.conninfo import HEARTBEAT
from cdc_bridge.model.change import Gap, Position, Snapshot
from cdc_bridge.model.errors import PayloadError
from cdc_bridge.statements import statement

IsCongested: TypeAlias = Callable[[frozenset[int]], bool]
"""Whether nobody who follows these tables can take more just now."""

CONGESTED_S = 0.02
CONGESTED_MAX_S = 30.0
"""So long a large transaction waits for clients that take nothing. Then they are told all the same, and closed."""


class Broken(NamedTuple):
    """A lane that cannot be read to its end."""

    lane: Lane
    reason: str


class Lanes:
    """See the module's docstring. Which lanes there are is in the account, and outlives the connections."""

    def __init__(self, life: Life, account: Account, is_congested: IsCongested) -> None:
        self._life = life
        self._account = account
        self._is_congested = is_congested
        self._readers: dict[Lane, asyncio.Task[None]] = {}

    @property
    def have_pages(self) -> bool:
        return any(lane.has_page for lane in self._account.lanes.values())

    def begin(self, groups: Iterable[frozenset[int]], told: Position, upto: Snapshot) -> None:
        """A lane for each of these collections, or sets of them, from what was told to a snapshot."""
        for relations in groups:
            self._begin(Lane(relations, told, upto))

    def resume(self) -> None:
        """Go on with all of them where connections have broken."""
        for lane in list(self._account.lanes.values()):
            self._begin(Lane(lane.relations, lane.told, lane.upto))

    def take(self) -> None:
        """A page of each lane, unless all who are to be told it have their hands full."""
        for lane in self._account.lanes.values():
            if lane.has_page and not self._waits(lane):
                self._account.say(*lane.take())
                if lane.is_done:
                    self._life.poll_due_s = 0

    async def rejoin(self, snapshot: Snapshot) -> None:
        """The stream has come to this snapshot: bring there what has come to its end."""
        for lane in [lane for lane in self._account.lanes.values() if lane.is_done]:
            try:
                await self._rejoin(lane, snapshot)
            except (PayloadError, psycopg.DataError) as error:
                self.give_up(Broken(lane, str(error)))

    def give_up(self, broken: Broken) -> None:
        """The collection goes on in the stream, and everybody starts anew."""
        if self._account.lanes.get(broken.lane.relations) is broken.lane:
            self._end(broken.lane)
        self._account.say(Gap(broken.reason))

    def give_up_grown(self, siblings: Siblings) -> None:
        """Those of which the collection has got another table since they began."""
        for lane in list(self._account.lanes.values()):
            if _has_grown(lane.relations, siblings):
                self.give_up(Broken(lane, "a table got another partition while much of it was told"))

    def _begin(self, lane: Lane) -> None:
        self._account.lanes[lane.relations] = lane
        self._readers[lane] = self._life.start(self._run(lane))

    def _end(self, lane: Lane) -> None:
        del self._account.lanes[lane.relations]
        self._readers.pop(lane).cancel()

    def _waits(self, lane: Lane) -> bool:
        """Whether its page waits for the quickest of those who are to have it."""
        now = time.monotonic()
        if self._is_congested(lane.relations):
            lane.waits_since_s = lane.waits_since_s or now
            if now - lane.waits_since_s < CONGESTED_MAX_S:
                return True
        lane.waits_since_s = None
        return False

    async def _run(self, lane: Lane) -> None:
        inbox = self._life.inbox
        try:
            await self._read(lane)
        except (PayloadError, psycopg.DataError) as error:  # the same again, however often it is read
            await inbox.put(Broken(lane, str(error)))
        except (psycopg.Error, OSError) as error:
            await inbox.put(error)

    async def _read(self, lane: Lane) -> None:
        """Read a lane to its end, one page ahead of what has been told."""
        options, inbox = self._life.options, self._life.inbox
        async with await connect(options.conninfo, HEARTBEAT, options.connect_timeout_s) as connection:
            await connection.execute(statement("queries/listener_session"))
            await connection.execute(statement("queries/log_session"))
            async with aclosing(pages(connection, options.schema, lane.relations, (lane.told,), lane.upto)) as read:
                async for page in read:
                    await self._require_whole(connection, lane)
                    await lane.put(page.changes)
                    await inbox.put(lane)
            await self._require_whole(connection, lane)
            await lane.put(None)
            await inbox.put(lane)

    async def _require_whole(self, connection: Connection, lane: Lane) -> None:
        """Raises `PayloadError` when some of what a lane was to read has been forgotten meanwhile."""
        if await is_forgotten(connection, self._life.options.schema, lane.told.seen):
            raise PayloadError("the log was emptied before it was read")

    async def _rejoin(self, lane: Lane, snapshot: Snapshot) -> None:
        changes = await read_between(self._life, lane.relations, lane.told, snapshot)
        if changes is None:
            self._end(lane)
            self._begin(Lane(lane.relations, lane.told, snapshot))
            return
        await self._require_whole(self._life.reader, lane)
        self._end(lane)
        self._account.say(*Progress(lane.told.era, lane.told.seen).read(changes, snapshot))


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
