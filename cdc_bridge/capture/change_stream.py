"""The stream of changes: what is notified while the gate is open, and what only the log has, in one order.

One connection listens, another one reads the log and sends heartbeats (`capture_session.py`). What has been delivered
is kept over the loss of both (`stream_position.py`). So after a reconnect the log is read on from there, and tables in
the mode `durable` miss nothing. Subscribers of tables in the mode `live` get fresh data.

Rule: one session at a time. It begins with `Listening`, once that is proved, `resumed` if nothing of the log is missing
in between. Then what arrives is delivered in its order, and the log is read before anything that may depend on what
only the log has. A session ends with `Lost`, after all that was pending.

Theory: `gate.py` says when what comes inline is all there is, `bulk_read.py` how a large transaction is delivered
beside the others, `heartbeat.py` what heartbeats prove. Here they take turns, one turn of the event loop each: all that
is at hand is taken in plain calls, and handed out as one batch.

Policy: what cannot be read is a gap, and gaps are emitted `GAPS_APART_S` from each other. An unreadable notification
may have been of a table in live mode, which a later gap mends as well. If it was of the log, that is read at once. An
unreadable part of the log holds up everything after it until the gap is emitted, since no position may pass it before.

A table whose mode is changed has a gap of its own, wherever a change in the new mode is met: notifications and the log
are not in step, so an older change may be met after a newer one. Notifications from before the gap are
dropped.

Bound: a batch is what one turn brings: `NOTIFICATIONS_MAX` notifications, a look at the log and a page of each bulk
read. While the consumer does not take it, nothing is read from the database.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

import psycopg

from cdc_bridge.capture.bulk_read import CONGESTED_S, BulkReader, IsCongested
from cdc_bridge.capture.capture_session import CaptureSession, StreamCounts, StreamOptions, open_session
from cdc_bridge.capture.connection import Connector
from cdc_bridge.capture.gaps import GapLimit
from cdc_bridge.capture.gate import GateController, GateState
from cdc_bridge.capture.heartbeat import HeartbeatMonitor
from cdc_bridge.capture.log_pages import Siblings, Unreadable, current_snapshot, is_forgotten, read_new
from cdc_bridge.capture.payload import Decoder, Inline, Wake
from cdc_bridge.capture.stream_position import StreamPosition
from cdc_bridge.logs import facts
from cdc_bridge.model.change import Change, Era, Gap, GapCause, Heartbeat, Listening, Lost, Snapshot, StreamItem
from cdc_bridge.model.errors import CannotListen, CaptureLost, DatabaseError, DatabaseSilent, PayloadError
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

NEVER = float("-inf")
GAPS_APART_S = 2.0
MODE_CHANGED = "the mode of the table was changed"


class ChangeStream:
    """See the module's docstring; the guarantee is the port's, in `cdc_bridge.capture`."""

    def __init__(
        self,
        options: StreamOptions,
        siblings: Siblings = lambda relation_id: frozenset({relation_id}),
        is_congested: IsCongested = lambda relation_ids: False,
        *,
        connector: Connector | None = None,
        on_silence: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_silence` is called when connections are given up because the database is silent: others are dead too."""
        self._options = options
        self._connector = connector or Connector(options.conninfo, options.connect_timeout_s)
        self._on_silence = on_silence
        self._siblings = siblings
        self._is_congested = is_congested
        self._position: StreamPosition | None = None
        self._delay_s = options.reconnect_delay_min_s
        self.last_proven_s = NEVER
        """When a heartbeat last came back, by the monotonic clock."""
        self.obstacle = ""
        """The reason why the last session ended, if the database lacked or refused something."""
        self.counts = StreamCounts()

    async def batches(self) -> AsyncGenerator[list[StreamItem], None]:
        """Raises `SharedSession`, and `CannotListen` when no notification arrives although LISTEN was accepted."""
        while True:
            check_still_wanted()
            try:
                async with open_session(self._options, self._connector, self.counts) as session:
                    turns = await self._begin(session)
                    while True:
                        batch = await turns.next_batch()
                        if turns.has_proof:
                            turns.has_proof = False
                            self.last_proven_s = time.monotonic()
                            self._delay_s = self._options.reconnect_delay_min_s
                        if batch:
                            yield batch
            except CannotListen as error:
                if self.last_proven_s == NEVER:
                    raise
                self.obstacle = reason = str(error)
            except DatabaseSilent as error:
                self.obstacle = ""
                self._on_silence()
                reason = str(error)
            except (CaptureLost, DatabaseError, psycopg.Error, OSError, UnicodeDecodeError) as error:
                reason = _reason(error)
                self.obstacle = reason if isinstance(error, DatabaseError) else ""
            self.counts.lost += 1
            self.counts.gate = GateState.SHUT.value
            pending = self._position.take() if self._position is not None else []
            yield [*pending, Lost(reason)]
            await self._pause(reason)

    async def _pause(self, reason: str) -> None:
        pause_s = self._delay_s * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
        log.warning("not listening, trying again", extra=facts(reason=reason, in_s=round(pause_s, 1)))
        await asyncio.sleep(pause_s)
        self._delay_s = min(self._delay_s * 2, self._options.reconnect_delay_max_s)

    async def _begin(self, session: CaptureSession) -> _Turns:
        """Begin to listen; go on where the last session ended, if the log of this generation reaches back so far."""
        generation, secret = await session.generation()
        ask, before = session.reader.rows, self._position
        is_same_life = before is not None and before.era.generation == generation
        if before is not None and is_same_life and not await is_forgotten(ask, before.seen):
            position = before
        else:
            position = StreamPosition(Era(generation), await current_snapshot(ask))
        resumed = position is before
        monitor = HeartbeatMonitor(session, position)
        if not resumed:
            await monitor.look()
            position.take()  # all subscribers get fresh data anyway
        self._position = position
        bulk = BulkReader(session, position, self._siblings, self._is_congested)
        turns = _Turns(session, position, monitor, bulk, Listening(position.era, secret, resumed))
        if session.listener is None:
            turns.prove()
        else:
            await session.listener.rows("listen")
        bulk.resume()
        return turns


class _Turns:
    """Delivers a session turn by turn. Emits `listening`, with the era of that time, once it is proved.

    Rule: a turn that brings only inline changes looks at nothing else. What is timed (the heartbeat, a look at the log,
    an owed gap) is looked at from `_due_s` on, the gate as soon as it is busy, bulk reads while there are any.
    """

    def __init__(
        self,
        session: CaptureSession,
        position: StreamPosition,
        monitor: HeartbeatMonitor,
        bulk: BulkReader,
        listening: Listening,
    ) -> None:
        self.has_proof = False
        """Whether a heartbeat has come back since the caller last set this to false."""
        self._session = session
        self._position = position
        self._gate = monitor.gate
        self._monitor = monitor
        self._bulk = bulk
        self._listening = listening
        self._controller = GateController(session, position, self._gate)
        self._decoder = Decoder()
        self._notified_gaps = GapLimit(GAPS_APART_S)
        self._logged_gaps = GapLimit(GAPS_APART_S)
        self._now_s = 0.0
        """When what this turn takes had come, by the monotonic clock. So much is known of the gate's lease then."""
        self._read_s = NEVER
        """When the last reading of the log began, by the monotonic clock."""
        self._read_due_s = 0.0
        """When the log is to be read next."""
        self._due_s = 0.0
        """When anything is due, whatever arrives until then. Too early does no harm."""
        self._pages_wait = False
        """Whether pages of bulk reads were at hand in the last turn and not taken."""
        self._live: set[int] = set()
        self._durable_since: dict[int, Snapshot | None] = {}

    async def next_batch(self) -> list[StreamItem]:
        """Wait until something arrives or is due, and return all that is at hand then: nothing, perhaps."""
        session, position = self._session, self._position
        await session.wakeup.wait(self._due_s)
        payloads = session.take()
        self._now_s = time.monotonic()
        for payload in payloads:
            try:
                item = self._decoder.receive(payload.decode())
            except PayloadError as error:
                await self._miss(error)
                continue
            if isinstance(item, Inline):
                self._take_inline(*item)
            elif item is not None:
                await self._take(item)
        if self._now_s >= self._due_s or self._gate.is_busy or position.bulk_reads:
            await self._do_what_is_due()
        return position.take()

    def prove(self) -> None:
        """Emit `Listening`: from here on every change is received."""
        self._monitor.is_proven = self.has_proof = True
        self._position.emit(replace(self._listening, era=self._position.era))

    async def _do_what_is_due(self) -> None:
        """Look at bulk reads, the heartbeat, the log and the gate, each if it is time for it."""
        check_still_wanted()
        now = time.monotonic()
        if gap := self._notified_gaps.take(now):
            self._position.emit(gap)
        if now >= self._monitor.due_s and await self._monitor.beat(now):
            self._read_due_s = 0
        due_s = min(self._monitor.due_s, self._notified_gaps.due_s)
        if self._monitor.is_proven:
            if now >= self._read_due_s:
                await self._read()
            if self._controller.wants_change(now) and await self._controller.steer():
                self._read_due_s = 0
        if self._position.bulk_reads:
            self._take_pages()
        if self._monitor.is_proven:
            due_s = min(due_s, self._read_due_s)
        if self._bulk.have_pages:
            due_s = min(due_s, 0 if self._pages_wait else now + CONGESTED_S)
        self._due_s = due_s

    def _take_pages(self) -> None:
        """Take pages of bulk reads. Changes of others go first, in a batch of their own, but not twice in a row."""
        self._pages_wait = bool(self._position.pending) and not self._pages_wait
        if not self._pages_wait and self._bulk.take():
            self._read_due_s = 0

    # --- what arrives ---

    async def _miss(self, error: PayloadError) -> None:
        """Owe a gap for a notification that cannot be read."""
        if self._monitor.is_proven:
            self._notified_gaps.owe(Gap(str(error)))
            await self._read_what_came()

    async def _take(self, item: Heartbeat | Wake | Change) -> None:
        if isinstance(item, Heartbeat):
            if self._monitor.is_ours(item):
                await self._take_heartbeat(item)
        elif not self._monitor.is_proven:
            pass
        elif isinstance(item, Wake):
            if item.is_shut:
                self._gate.shut()
            await self._read_what_came()  # before everything that came later
        else:
            await self._take_live(item)

    async def _take_heartbeat(self, beat: Heartbeat) -> None:
        """Deliver all that its snapshot sees: it was notified before, or is in the log."""
        position = self._position
        self._due_s = 0
        if not self._monitor.is_proven:
            self.prove()
            return
        if self._monitor.proves(beat):
            position.prove(beat.snapshot)
        else:
            await self._read()
        # Changes of live tables that only a later snapshot sees may still be on their way.
        seen = beat.snapshot if position.seen.covers(beat.snapshot) else position.seen
        self._emit_heartbeat(Heartbeat(beat.sender, beat.beat, seen, position.lagging))

    def _emit_heartbeat(self, beat: Heartbeat) -> None:
        self.has_proof = True
        self._position.emit(beat)

    def _take_inline(self, change: Change, gate: int) -> None:
        if not self._monitor.is_proven:
            return
        position = self._position
        if not self._gate.takes(gate, self._now_s) or position.bulk_reads:
            self._read_due_s = self._due_s = 0
        elif fresh := position.journal.deliver(change):
            if change.relation_id not in self._durable_since:
                self._note_durable({change.relation_id}, None)
            position.pending.append(fresh)
            if position.is_long:
                self._read_due_s = self._due_s = 0

    async def _take_live(self, change: Change) -> None:
        """Emit a change of a table in live mode."""
        relation_id = change.relation_id
        if relation_id in self._durable_since:
            since = self._durable_since[relation_id]
            if since is not None and since.sees(change.xid):
                return  # it is older than the gap emitted then
            await self._read()  # earlier changes of the log
            del self._durable_since[relation_id]
            self._position.emit(Gap(MODE_CHANGED, relation_id, GapCause.MODE))
        self._live.add(relation_id)
        self._position.emit(change)

    def _note_durable(self, relation_ids: set[int], snapshot: Snapshot | None) -> None:
        """Note that changes of these tables come from the log, which was read up to `snapshot`, or inline."""
        for relation_id in relation_ids & self._live:
            self._live.remove(relation_id)
            self._durable_since[relation_id] = snapshot
            self._position.emit(Gap(MODE_CHANGED, relation_id, GapCause.MODE))
        for relation_id in relation_ids - self._durable_since.keys():
            self._durable_since[relation_id] = None

    # --- the log ---

    async def _read_what_came(self) -> None:
        """Read the log, unless it was read in this turn: once for all notifications that call for it."""
        if self._read_s < self._now_s:
            await self._read()

    async def _read(self) -> None:
        """Read what the log has beyond what was delivered."""
        position, bulk = self._position, self._bulk
        self._due_s = 0
        self._read_s = time.monotonic()
        before = position.position
        ask, is_standby = self._session.reader.rows, self._session.is_standby
        try:
            found = await read_new(ask, before, position.lagging, bulk.siblings, is_standby=is_standby)
        except Unreadable as error:
            self._pass_by(error)
            return
        if not found.is_whole:  # first: no position may cover what was not read
            reason = "a part of the change log was forgotten before it was read"
            position.emit(Gap(reason, cause=GapCause.FORGOTTEN))
            position.unchecked = found.snapshot
        if position.bulk_reads:
            bulk.give_up_grown()
        bulk.begin(found.heavy, before, found.snapshot)
        fresh = position.deliver_read(found.changes, found.snapshot)
        if fresh or found.heavy:
            self._note_durable({change.relation_id for change in fresh}.union(*found.heavy), found.snapshot)
            self._session.counts.reading = self._read_s, len(position.pending)
            position.emit(*fresh)
        now = time.monotonic()
        if fresh:
            self._session.counts.read.observe(now - self._read_s)
        self._gate.count(len(fresh), now)
        self._gate.read(found.snapshot)
        self._read_due_s = now + self._controller.pause_s(len(fresh))
        if position.bulk_reads:
            await bulk.rejoin(found.snapshot)
        if self._session.listener is None:
            self._emit_heartbeat(Heartbeat(self._monitor.sender, 0, found.snapshot, position.lagging))

    def _pass_by(self, unreadable: Unreadable) -> None:
        """Go past what cannot be read, if it is time for another gap. Else wait, and take nothing inline meanwhile."""
        now = time.monotonic()
        self._logged_gaps.owe(Gap(str(unreadable)))
        if gap := self._logged_gaps.take(now):
            self._position.prove(unreadable.snapshot)
            self._position.emit(gap)
            return
        self._read_due_s = self._logged_gaps.due_s
        if self._gate.is_trusted(now):
            self._gate.shut()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the database does not answer in time"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{str(error).strip()}: connect as the owner or the runtime role, see cdc-bridge sql --roles"
    return str(error).strip() or type(error).__name__
