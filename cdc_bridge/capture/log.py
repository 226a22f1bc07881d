"""Capture by the change log, and by what is notified while the gate is open.

One connection listens, another one reads the log and sends heartbeats. What has been told is kept over the loss of
both, so that after a reconnect the log is read on from there, and tables in the mode `durable` miss nothing. Those in
live mode are heard on the same connection and start anew.

On a hot standby there is one connection: nothing notifies there and nothing can be written, so the log is read at
intervals, whatever was decided for the primary.

Theory: `progress.py` says what has been told, `gate.py` when what comes inline is all there is, `lane.py` how a large
transaction is told beside the others. Here are only the connections and the clock.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import psycopg

from cdc_bridge.capture.connection import Connection, connect, require_ours, value
from cdc_bridge.capture.gate import Gate, GateState
from cdc_bridge.capture.lane import Lane
from cdc_bridge.capture.liveness import GapWatch, Proof
from cdc_bridge.capture.pages import changes_of, current_snapshot, is_forgotten, pages, text, unseen
from cdc_bridge.capture.payload import Decoder, Inline, Wake, heartbeat
from cdc_bridge.capture.progress import Progress
from cdc_bridge.change import Change, Era, Gap, Heard, Heartbeat, Listening, Lost, Position, Snapshot, Turn
from cdc_bridge.conninfo import HEARTBEAT, LISTEN
from cdc_bridge.errors import CannotListen, CaptureLost, DatabaseError, PayloadError
from cdc_bridge.logs import facts
from cdc_bridge.statements import statement

log = logging.getLogger(__name__)

Siblings: TypeAlias = Callable[[int], frozenset[int]]
"""From a table to all that report under the same collection."""

IsCongested: TypeAlias = Callable[[frozenset[int]], bool]
"""Whether nobody who follows these tables can take more just now."""

INBOX_MAX = 10_000
READ_ROWS_MAX = 2_000
READ_BYTES_MAX = 4 * 1024 * 1024
TEXT_BYTES_MAX = 64 * 1024
BEAT_S = 1.0
"""What has been told inline is confirmed this often, so that cursors stay short and the lease fresh."""

POLL_BUSY_S = 0.01
POLL_VERY_BUSY_S = 0.025
VERY_BUSY = 100
"""Changes found by one reading; then the next one may find more, for the price of one."""

POLL_OPENING_S = 0.02
POLL_OPENING_LATER_S = 0.25
POLL_OPEN_S = 5.0
"""The belt: nothing depends on it."""

CONGESTED_S = 0.02
CONGESTED_MAX_S = 30.0
"""So long a large transaction waits for clients that take nothing. Then they are told all the same, and closed."""

AT_ONCE_MAX = 100
"""Changes told without giving others a turn on the event loop."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """`heartbeat_timeout_s` bounds how long a dead connection goes unnoticed; `poll_interval_s` is how often the log is
    read where nothing notifies.
    """

    conninfo: str
    schema: str = "cdc"
    heartbeat_interval_s: float = 2
    heartbeat_timeout_s: float = 6
    connect_timeout_s: float = 5
    reconnect_delay_min_s: float = 0.1
    reconnect_delay_max_s: float = 10
    poll_interval_s: float = 0.05


@dataclass(slots=True)
class _Life:
    """What one pair of connections knows. Without a listener nothing is notified, and the log is all there is."""

    reader: Connection
    listener: Connection | None
    is_standby: bool = False
    inbox: asyncio.Queue[Any] = field(default_factory=lambda: asyncio.Queue(INBOX_MAX))
    decoder: Decoder = field(default_factory=Decoder)
    proof: Proof = field(default_factory=lambda: Proof(secrets.token_hex(4)))
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    resumed: bool = False
    beats: int = 0
    proved_beat: int = -1
    heard_s: float = field(default_factory=time.monotonic)
    beat_due_s: float = 0
    poll_due_s: float = 0
    opening_since_s: float = 0
    shut_s: float = float("-inf")


class _Broken(NamedTuple):
    """A lane that cannot be read to its end."""

    lane: Lane
    reason: str


class _Unreadable(Exception):
    """Something in the log cannot be read that `snapshot` sees."""

    def __init__(self, reason: str, snapshot: Snapshot) -> None:
        super().__init__(reason)
        self.snapshot = snapshot


class LogCapture:
    """See the module's docstring; the guarantee is the port's, in `cdc_bridge.capture`."""

    def __init__(
        self,
        options: LogOptions,
        siblings: Siblings = lambda relation_id: frozenset({relation_id}),
        is_congested: IsCongested = lambda relation_ids: False,
    ) -> None:
        self._options = options
        self._siblings = siblings
        self._is_congested = is_congested
        self._progress: Progress | None = None
        self._gaps = GapWatch()
        self._gate = Gate()
        self._lanes: dict[frozenset[int], Lane] = {}
        self._unchecked: Snapshot | None = None
        self._unsaid: deque[Heard] = deque()
        """What counts as told, and has to be: said even when the connections break before its turn has come."""
        self.last_heard_s = float("-inf")
        """When the database last proved that it is heard, by the monotonic clock."""

    async def heard(self) -> AsyncGenerator[Heard, None]:
        """Raises `CannotListen` when notifications do not arrive although LISTEN was accepted."""
        delay_s = self._options.reconnect_delay_min_s
        proven = False
        while True:
            reason = "unknown"
            try:
                async with aclosing(self._live()) as life:
                    async for heard in life:
                        if isinstance(heard, Listening):
                            proven = True
                            delay_s = self._options.reconnect_delay_min_s
                        yield heard
            except CannotListen as error:
                if not proven:
                    raise
                reason = str(error)
            except (CaptureLost, DatabaseError, psycopg.Error, OSError, UnicodeDecodeError) as error:
                reason = _reason(error)
            while self._unsaid:
                yield self._unsaid.popleft()
            yield Lost(reason)
            pause_s = delay_s * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
            log.warning("not listening, trying again", extra=facts(reason=reason, in_s=round(pause_s, 1)))
            await asyncio.sleep(pause_s)
            delay_s = min(delay_s * 2, self._options.reconnect_delay_max_s)

    # --- one life of the connections ---

    async def _live(self) -> AsyncGenerator[Heard, None]:
        async with self._connected() as life:
            secret = await self._begin_era(life)
            if life.listener is None:
                life.proof.proven = True
                yield self._listening(life, secret)
            else:
                await life.listener.execute(statement("queries/listen", self._options.schema))
                life.tasks.append(asyncio.create_task(_pump(life.listener, life.inbox)))
            for lane in list(self._lanes.values()):
                self._begin(life, Lane(lane.relations, lane.told, lane.upto))
            told = 0
            async with aclosing(self._turns(life, secret)) as turns:
                async for heard in turns:
                    yield heard
                    told += 1
                    if told % AT_ONCE_MAX == 0:
                        await asyncio.sleep(0)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Life]:
        options = self._options
        async with await connect(options.conninfo, HEARTBEAT, options.connect_timeout_s) as reader:
            async with asyncio.timeout(options.connect_timeout_s):
                await reader.execute(statement("queries/listener_session"))
                await require_ours(reader, options.schema)
                await reader.execute(statement("queries/log_session"))
                is_standby = await value(reader, statement("queries/standby")) == "yes"
                notifies = await value(reader, statement("queries/notify", options.schema)) != "off"
            life = _Life(reader, None, is_standby)
            try:
                if notifies and not is_standby:
                    life.listener = await connect(options.conninfo, LISTEN, options.connect_timeout_s)
                    async with asyncio.timeout(options.connect_timeout_s):
                        await life.listener.execute(statement("queries/listener_session"))
                yield life
            finally:
                self._gate.shut()
                for task in life.tasks:
                    task.cancel()
                for task in life.tasks:
                    with suppress(asyncio.CancelledError, psycopg.Error, OSError, PayloadError):
                        await task
                if life.listener is not None:
                    await life.listener.close()

    async def _begin_era(self, life: _Life) -> bytes:
        """Go on where listening ended, or, in another life of the database, begin with now. The key of cursors."""
        schema = self._options.schema
        async with asyncio.timeout(self._options.heartbeat_timeout_s):
            generation, key = await self._generation(life)
            before = self._progress
            if before is not None and before.era.generation == generation:
                life.resumed = not await is_forgotten(life.reader, schema, before.seen)
            if not life.resumed or before is None:
                self._gaps = GapWatch()
                self._lanes = {}
                before = Progress(Era(generation), await current_snapshot(life.reader))
            self._progress, self._unchecked = before, before.seen
            if not life.resumed:
                await (self._watch_standby(life) if life.is_standby else self._watch(life))
                self._unsaid.clear()  # all begin with fresh data anyway
        return key

    async def _generation(self, life: _Life) -> tuple[bytes, bytes]:
        """The life of the database, and the key of cursors."""
        query = "queries/standby_era" if life.is_standby else "queries/begin_era"
        cursor = await life.reader.execute(statement(query, self._options.schema))
        token, key = (await cursor.fetchone()) or ("", "")
        return uuid.UUID(token).bytes[:8], bytes(str(key), "ascii")

    def _listening(self, life: _Life, secret: bytes) -> Listening:
        return Listening(self._told.era, secret, life.resumed)

    @property
    def _told(self) -> Progress:
        assert self._progress is not None
        return self._progress

    async def _turns(self, life: _Life, secret: bytes) -> AsyncGenerator[Heard, None]:
        """Whatever is due next, for ever."""
        while True:
            for item in await self._arrived(life):
                await self._take(life, item, secret)
                while self._unsaid:
                    yield self._unsaid.popleft()
            await self._do_what_is_due(life)
            while self._unsaid:
                yield self._unsaid.popleft()
            if life.proof.proven:
                await self._steer(life)

    async def _do_what_is_due(self, life: _Life) -> None:
        """Pages of lanes, the heartbeat, the log: each in its turn, if it is time for it."""
        for lane in list(self._lanes.values()):
            self._take_lane(life, lane)
        now = time.monotonic()
        if now >= life.beat_due_s:
            life.beat_due_s = now + min(BEAT_S, self._options.heartbeat_interval_s)
            await self._beat(life)
        if life.proof.proven and now >= life.poll_due_s:
            await self._poll(life)

    async def _arrived(self, life: _Life) -> list[Any]:
        """What has come in, waiting for it until something else is due."""
        due_s = min(life.beat_due_s, life.poll_due_s if life.proof.proven else float("inf"))
        if any(lane.has_page for lane in self._lanes.values()):
            due_s = min(due_s, time.monotonic() + CONGESTED_S)
        items = []
        if life.inbox.empty():
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, due_s - time.monotonic())):
                    items.append(await life.inbox.get())
        while len(items) < AT_ONCE_MAX and not life.inbox.empty():
            items.append(life.inbox.get_nowait())
        return items

    async def _take(self, life: _Life, item: Any, secret: bytes) -> None:
        match item:
            case str():
                await self._take_note(life, item, secret)
            case _Broken():
                self._give_up(item)
            case Lane():
                pass  # it has a page, which is taken in its turn
            case BaseException():
                raise item
            case _:
                raise AssertionError(item)

    async def _take_note(self, life: _Life, payload: str, secret: bytes) -> None:
        try:
            told = life.decoder.receive(payload)
        except PayloadError as error:
            if life.proof.proven:
                self._unsaid.append(Gap(str(error)))
            return
        if isinstance(told, Heartbeat):
            if told.sender == life.proof.sender:
                await self._take_heartbeat(life, told, secret)
        elif told is not None and life.proof.proven:
            await self._take_told(life, told)

    async def _take_heartbeat(self, life: _Life, beat: Heartbeat, secret: bytes) -> None:
        """A heartbeat of ours has come back: all that its snapshot sees was notified before, or is in the log."""
        life.heard_s = self.last_heard_s = time.monotonic()
        if not life.proof.proven:
            life.proof.proven = True
            self._unsaid.append(self._listening(life, secret))
            return
        if self._gate.is_trusted(life.heard_s) and beat.beat == life.proved_beat and not self._lanes:
            self._told.prove(beat.snapshot)
        else:
            await self._poll(life)
        self._unsaid.append(Heartbeat(beat.sender, beat.beat, beat.snapshot, self._lagging()))

    async def _take_told(self, life: _Life, told: Change | Inline | Wake) -> None:
        match told:
            case Change():  # of a table in live mode
                self._unsaid.append(told)
            case Inline(change, gate):
                now = time.monotonic()
                self._gate.count(1, now)
                if not self._gate.takes(gate, now) or self._lanes:
                    life.poll_due_s = 0
                elif fresh := self._told.hear(change):
                    self._unsaid.append(fresh)
                    if self._told.is_long:
                        life.poll_due_s = 0
            case Wake(is_shut):
                if is_shut:
                    self._gate.shut()
                await self._poll(life)  # before anything that came after it

    # --- the log ---

    async def _poll(self, life: _Life) -> None:
        """Read what the log has beyond what was told."""
        told = self._told
        try:
            changes, snapshot = await (self._read_settled(life) if life.is_standby else self._read_new(life))
        except _Unreadable as error:
            told.prove(error.snapshot)
            self._unsaid.append(Gap(str(error)))
            return
        fresh = list(told.read(changes, snapshot))
        self._unsaid += fresh
        now = time.monotonic()
        self._gate.count(len(fresh), now)
        self._gate.read(snapshot)
        life.poll_due_s = now + self._pause_s(life, now, len(fresh))
        for lane in [lane for lane in self._lanes.values() if lane.is_done]:
            await self._rejoin(life, lane, snapshot)
        if life.listener is None:
            self.last_heard_s = now
            self._unsaid.append(Heartbeat(life.proof.sender, 0, snapshot, self._lagging()))

    async def _read_settled(self, life: _Life) -> tuple[list[Change], Snapshot]:
        """On a standby: a snapshot that claims no more than can be read, then what it sees. Raises `_Unreadable`."""
        async with asyncio.timeout(self._options.heartbeat_timeout_s):
            snapshot = await current_snapshot(life.reader)
        if not snapshot.covers(self._told.seen):
            return [], self._told.seen
        try:
            return await self._read_much(life, snapshot), snapshot
        except PayloadError as error:
            raise _Unreadable(str(error), snapshot) from error

    async def _read_new(self, life: _Life) -> tuple[list[Change], Snapshot]:
        """What the log has by now, in one query if it is not much. Raises `_Unreadable`."""
        asked = {
            **unseen(self._told.seen),
            "apart": sorted(self._lagging()),
            "rows_max": READ_ROWS_MAX,
            "text_bytes_max": TEXT_BYTES_MAX,
        }
        async with asyncio.timeout(self._options.heartbeat_timeout_s):
            try:
                query = statement("queries/log_new", self._options.schema)
                cursor = await life.reader.execute(query, asked, prepare=True)
            except (
                psycopg.DataError
            ) as error:  # characters that UTF-8 does not have; the next reading would fail as well
                raise _Unreadable(str(error), await current_snapshot(life.reader)) from error
            rows = await cursor.fetchall()
        snapshot = Snapshot.parse(rows[0][0])
        found = [row[1:7] + row[8:] for row in rows if row[1] is not None]
        sizes = [row[7] for row in rows if row[1] is not None]
        try:
            if len(found) == READ_ROWS_MAX or max(sizes, default=0) > TEXT_BYTES_MAX or sum(sizes) > READ_BYTES_MAX:
                return await self._read_much(life, snapshot), snapshot
            return list(changes_of(found)), snapshot
        except (PayloadError, psycopg.DataError) as error:
            raise _Unreadable(str(error), snapshot) from error

    def _pause_s(self, life: _Life, now: float, found: int) -> float:
        match self._gate.state:
            case GateState.OPEN:
                return POLL_OPEN_S
            case GateState.OPENING:
                return POLL_OPENING_S if now - life.opening_since_s < 1 else POLL_OPENING_LATER_S
            case GateState.SHUT:
                if life.listener is None:
                    return self._options.poll_interval_s
                return POLL_BUSY_S if found < VERY_BUSY else POLL_VERY_BUSY_S

    async def _read_much(self, life: _Life, upto: Snapshot) -> list[Change]:
        """More than is to be read at once: collections with very much get a lane each, the others are read whole."""
        position = self._told.position
        sizes = await self._sizes(life, position, upto, self._lagging())
        light: list[int] = []
        for group in {self._siblings(relation_id) for relation_id in sizes}:
            rows, size_bytes = (sum(sizes[each][i] for each in group if each in sizes) for i in (0, 1))
            if rows > READ_ROWS_MAX or size_bytes > READ_BYTES_MAX:
                self._begin(life, Lane(group, position, upto))
            else:
                light += group
        return await self._read_all(life, light, position, upto)

    async def _sizes(
        self, life: _Life, position: Position, upto: Snapshot, apart: Iterable[int]
    ) -> dict[int, tuple[int, int]]:
        """Rows and bytes of each table between what was told and a snapshot."""
        parameters = {**unseen(position.seen), "upto": text(upto), "apart": sorted(apart)}
        cursor = await life.reader.execute(statement("queries/log_sizes", self._options.schema), parameters)
        return {relation_id: (rows, size_bytes) for relation_id, rows, size_bytes in await cursor.fetchall()}

    async def _read_all(self, life: _Life, relations: list[int], position: Position, upto: Snapshot) -> list[Change]:
        if not relations:
            return []
        async with aclosing(pages(life.reader, self._options.schema, relations, (position,), upto)) as read:
            return [change async for page in read for change in page.changes]

    # --- lanes ---

    def _lagging(self) -> frozenset[int]:
        return frozenset(relation_id for relations in self._lanes for relation_id in relations)

    def _begin(self, life: _Life, lane: Lane) -> None:
        self._lanes[lane.relations] = lane
        life.tasks.append(asyncio.create_task(self._run(life, lane)))

    async def _run(self, life: _Life, lane: Lane) -> None:
        """Read a lane to its end on a connection of its own, one page ahead of what has been told."""
        options = self._options
        try:
            async with await connect(options.conninfo, HEARTBEAT, options.connect_timeout_s) as connection:
                await connection.execute(statement("queries/listener_session"))
                await connection.execute(statement("queries/log_session"))
                async with aclosing(pages(connection, options.schema, lane.relations, (lane.told,), lane.upto)) as read:
                    async for page in read:
                        await self._require_whole(connection, lane)
                        await lane.put(page.changes)
                        await life.inbox.put(lane)
                await self._require_whole(connection, lane)
                await lane.put(None)
                await life.inbox.put(lane)
        except (PayloadError, psycopg.DataError) as error:  # the same again, however often it is read
            await life.inbox.put(_Broken(lane, str(error)))
        except (psycopg.Error, OSError) as error:
            await life.inbox.put(error)

    async def _require_whole(self, connection: Connection, lane: Lane) -> None:
        """Raises `PayloadError` when some of what a lane was to read has been forgotten meanwhile."""
        if await is_forgotten(connection, self._options.schema, lane.told.seen):
            raise PayloadError("the log was emptied before it was read")

    def _give_up(self, broken: _Broken) -> None:
        """The collection goes on in the stream, and everybody starts anew."""
        if self._lanes.get(broken.lane.relations) is broken.lane:
            del self._lanes[broken.lane.relations]
        self._unsaid.append(Gap(broken.reason))

    def _take_lane(self, life: _Life, lane: Lane) -> None:
        """A page, unless all who are to be told it have their hands full; then it waits for the quickest of them."""
        if not lane.has_page:
            return
        now = time.monotonic()
        if self._is_congested(lane.relations):
            lane.waits_since_s = lane.waits_since_s or now
            if now - lane.waits_since_s < CONGESTED_MAX_S:
                return
        lane.waits_since_s = None
        self._unsaid += lane.take()
        if lane.is_done:
            life.poll_due_s = 0

    async def _rejoin(self, life: _Life, lane: Lane, snapshot: Snapshot) -> None:
        """A lane has come to its end, and the stream to this snapshot: read what lies between, or send it off again."""
        sizes = await self._sizes(life, lane.told, snapshot, ())
        rows, size_bytes = (sum(sizes[each][i] for each in lane.relations if each in sizes) for i in (0, 1))
        if rows > READ_ROWS_MAX or size_bytes > READ_BYTES_MAX:
            self._begin(life, Lane(lane.relations, lane.told, snapshot))
            return
        try:
            changes = await self._read_all(life, sorted(lane.relations), lane.told, snapshot)
            await self._require_whole(life.reader, lane)
        except (PayloadError, psycopg.DataError) as error:
            self._give_up(_Broken(lane, str(error)))
            return
        del self._lanes[lane.relations]
        self._unsaid += Progress(lane.told.era, lane.told.seen).read(changes, snapshot)

    # --- heartbeats, the gate, gaps ---

    async def _beat(self, life: _Life) -> None:
        """Send a heartbeat; then look at the gate, at gaps, and at what was forgotten."""
        options = self._options
        if life.listener is not None:
            if time.monotonic() - life.heard_s > options.heartbeat_timeout_s:
                raise self._silence(life)
            async with asyncio.timeout(options.heartbeat_timeout_s):
                head = heartbeat(life.proof.sender, life.beats)
                await life.reader.execute(statement("queries/beat", options.schema), {"head": head})
            life.beats += 1
        async with asyncio.timeout(options.heartbeat_timeout_s):
            await (self._watch_standby(life) if life.is_standby else self._watch(life))

    async def _watch_standby(self, life: _Life) -> None:
        """As `_watch`, where nothing can be written: no gate, and who empties the log by hand is not noted."""
        cursor = await life.reader.execute(statement("queries/standby_watch", self._options.schema), prepare=True)
        is_standby, counter, mended = (await cursor.fetchone()) or (False, 0, 0)
        if not is_standby:
            raise CaptureLost("the standby has been promoted")
        if (await self._generation(life))[0] != self._told.era.generation:
            raise CaptureLost("the standby follows another primary")
        self._gaps.mended = max(self._gaps.mended, mended)
        now = await current_snapshot(life.reader)
        if self._gaps.is_step(counter):
            self._gaps.step(counter, now.xmax)
        # Nobody has the id at the snapshot's end yet, which so stands for the one that we cannot take.
        self._look(Snapshot(now.xmin, now.xmax + 1, now.in_progress))
        await self._look_for_forgotten(life)

    async def _watch(self, life: _Life) -> None:
        schema, asked_s = self._options.schema, time.monotonic()
        wants_open = self._gate.state is not GateState.SHUT
        parameters = {"lease_s": self._gate.lease_s if wants_open else 0}
        cursor = await life.reader.execute(statement("queries/watch", schema), parameters, prepare=True)
        gate, counter, mended, notify, now, is_changed = (await cursor.fetchone()) or (None, 0, 0, "", "", False)
        if (notify == "off") != (life.listener is None):
            raise CaptureLost(f"the operator has decided anew whether writers notify: {notify}")
        if wants_open and self._gate.renew(gate, asked_s):
            life.proved_beat = life.beats - 1
        elif wants_open:
            life.poll_due_s = 0
        await self._look_for_gaps(life, counter, mended, Snapshot.parse(now))
        if is_changed:
            await self._note_segments(life)
        await self._look_for_forgotten(life)

    async def _look_for_forgotten(self, life: _Life) -> None:
        if self._unchecked is not None and await is_forgotten(life.reader, self._options.schema, self._unchecked):
            self._unsaid.append(Gap("a part of the change log is gone that may not have been read"))
        self._unchecked = self._told.seen

    async def _note_segments(self, life: _Life) -> None:
        """Somebody has laid hands on the log: let all who read it know that something may be missing."""
        cursor = await life.reader.execute(statement("queries/note_segments", self._options.schema))
        if numbers := [number for (number,) in await cursor.fetchall()]:
            log.error("segments of the change log were emptied or replaced by hand", extra=facts(segments=numbers))

    async def _look_for_gaps(self, life: _Life, counter: int, mended: int, now: Snapshot) -> None:
        schema = self._options.schema
        self._gaps.mended = max(self._gaps.mended, mended)
        if self._gaps.is_step(counter):
            self._gaps.step(counter, await value(life.reader, statement("queries/new_xid")))
            now = await current_snapshot(life.reader)
        self._look(now)
        if self._gaps.settled > mended:
            await life.reader.execute(statement("queries/mended", schema), {"counter": self._gaps.settled})

    def _look(self, now: Snapshot) -> None:
        """Say what a snapshot of now tells of gaps."""
        if gap := self._gaps.look(now):
            self._unsaid.append(gap)
        settled = self._gaps.settled
        if settled != self._told.era.gaps:
            self._told.era = Era(self._told.era.generation, settled)
            self._unsaid.append(Turn(self._told.era))

    async def _steer(self, life: _Life) -> None:
        """Open the gate when it is quiet, shut it when it is busy."""
        now = time.monotonic()
        if life.listener is None:
            return
        if self._gate.is_busy():
            if self._gate.state is not GateState.SHUT or now - life.shut_s > 1:
                life.shut_s = now
                await self._shut(life)
        elif self._gate.state is GateState.SHUT and self._gate.is_quiet(now) and not self._lanes:
            await self._open(life)

    async def _shut(self, life: _Life) -> None:
        """First say it, then do it: who finds the gate shut commits after all bridges could know."""
        schema = self._options.schema
        self._gate.shut()
        life.poll_due_s = 0
        async with asyncio.timeout(self._options.heartbeat_timeout_s):
            await life.reader.execute(statement("queries/announce_shut", schema))
            await life.reader.execute(statement("queries/shut_gate", schema))

    async def _open(self, life: _Life) -> None:
        """First open it, then take an id: who has a younger one has found it open."""
        schema = self._options.schema
        asked_s = life.opening_since_s = time.monotonic()
        async with asyncio.timeout(self._options.heartbeat_timeout_s):
            opened = await value(life.reader, statement("queries/open_gate", schema), {"lease_s": self._gate.lease_s})
            if opened is None:
                return
            younger = await value(life.reader, statement("queries/new_xid"))
        self._gate.open(opened, younger, asked_s)
        life.poll_due_s = 0

    def _silence(self, life: _Life) -> CaptureLost | CannotListen:
        if life.proof.proven or not life.beats:
            return CaptureLost(f"no heartbeat came back for {self._options.heartbeat_timeout_s:g} s")
        return CannotListen(
            "LISTEN is accepted but notifications do not arrive. Is there a pooler in transaction mode (PgBouncer) "
            "in between? Connect to PostgreSQL directly, or to a session pool, or decide for --notify off."
        )


async def _pump(listener: Connection, inbox: asyncio.Queue[Any]) -> None:
    """Put every notification into the inbox, and at last what ended it."""
    try:
        async for note in listener.notifies():
            await inbox.put(note.payload)
        await inbox.put(CaptureLost("the connection that listens has ended"))
    except (psycopg.Error, OSError, UnicodeDecodeError) as error:
        await inbox.put(error)


def _reason(error: BaseException | None) -> str:
    if isinstance(error, TimeoutError):
        return "the database does not answer in time"
    return str(error).strip() or type(error).__name__
