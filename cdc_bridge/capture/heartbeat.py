"""Heartbeats, and what is checked with each: the gate, gaps, what was forgotten, and which database it is.

Rule: nothing is proved until a heartbeat of ours has come back. When one does not come back for
`heartbeat_timeout_s`, the connections are given up. Time in which the consumer took nothing, so that nothing could be
received, does not count.

Theory: a heartbeat carries the snapshot of the statement that sends it, and that statement reads the gate as well.
If the gate still has its value, everything that the snapshot sees was notified before the heartbeat (`proves`).
"""

from __future__ import annotations

import logging
import secrets
import time

from cdc_bridge import __version__
from cdc_bridge.capture.capture_session import CaptureSession
from cdc_bridge.capture.gate import Gate, GateState
from cdc_bridge.capture.log_pages import current_snapshot, is_forgotten
from cdc_bridge.capture.payload import heartbeat
from cdc_bridge.capture.stream_position import StreamPosition
from cdc_bridge.conninfo import heartbeat_name
from cdc_bridge.logs import facts
from cdc_bridge.model.change import Era, Gap, GapCause, Heartbeat, Snapshot, Turn
from cdc_bridge.model.errors import CannotListen, CaptureLost, DatabaseSilent

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""Seconds between heartbeats. They confirm inline deliveries, so that cursors stay short and the lease fresh."""


class HeartbeatMonitor:
    """See the module's docstring. `due_s` is the time of the next heartbeat, by the monotonic clock."""

    def __init__(self, session: CaptureSession, position: StreamPosition) -> None:
        self.due_s = 0.0
        self.sender = secrets.token_hex(4)
        self.is_proven = session.listener is None
        """Whether notifications arrive. What comes before is dropped: it is part of the gap that `Listening` ends."""
        self.gate = Gate(session.counts)
        self._session = session
        self._position = position
        position.unchecked = position.seen
        self._beats = 0
        self._beat_with_gate = -1
        self._proven_s = time.monotonic()
        self._silent_from_s = self._current_s = self._proven_s
        self._name = ""

    # --- heartbeats ---

    async def beat(self, now_s: float) -> bool:
        """Send a heartbeat, which is due by now, and look. Return whether the log has to be read now."""
        if self.due_s:
            self._silent_from_s += now_s - self.due_s
        options = self._session.options
        self.due_s = now_s + min(BEAT_S, options.heartbeat_interval_s)
        head = None
        if self._session.listener is not None:
            if now_s - self._silent_from_s > options.heartbeat_timeout_s:
                raise self._silence()
            head = heartbeat(self.sender, self._beats)
            self._beats += 1
        await self._tell_name(now_s)
        return await self.look(head)

    async def _tell_name(self, now_s: float) -> None:
        """Let operators see our version, and for how long we have not had all changes. A heartbeat may take a second.

        It is told when it changes by a second, so while all is well it costs nothing.
        """
        is_late = self._session.listener is not None and now_s - self._proven_s > 2 * BEAT_S
        if not (is_late or self._position.bulk_reads):
            self._current_s = now_s
        name = heartbeat_name(__version__, now_s - self._current_s)
        if name != self._name:
            await self._session.reader.rows("name_session", {"name": name})
            self._name = name

    def is_ours(self, beat: Heartbeat) -> bool:
        """Note that a heartbeat has come back. Return whether it is one of ours, and so proves something."""
        if beat.sender != self.sender:
            return False
        self._proven_s = self._silent_from_s = time.monotonic()
        return True

    def proves(self, beat: Heartbeat) -> bool:
        """Whether everything that its snapshot sees was notified before it, and delivered."""
        is_open = self.gate.is_trusted(self._proven_s) and beat.beat == self._beat_with_gate
        return is_open and not self._position.bulk_reads

    def _silence(self) -> CaptureLost | CannotListen:
        if self.is_proven or not self._beats:
            return DatabaseSilent(f"no heartbeat came back for {self._session.options.heartbeat_timeout_s:g} s")
        return CannotListen(
            "LISTEN is accepted but notifications do not arrive. Is there a pooler in between (PgBouncer)? Connect to "
            "PostgreSQL directly, or through a pool in session mode"
        )

    # --- what is looked at ---

    async def look(self, head: str | None = None) -> bool:
        """Look at the gate, at gaps, and at what was forgotten; with `head`, send that heartbeat too.

        Return whether the log has to be read now.
        """
        if self._session.is_standby:
            await self._look_at_standby()
            return False
        return await self._look_at_primary(head)

    async def _look_at_standby(self) -> None:
        """Look at gaps and at what was forgotten. Nothing can be written: there is no gate, and no note is made."""
        ask = self._session.reader.rows
        is_standby, counter, mended = await self._session.reader.row("standby_watch")
        if not is_standby:
            raise CaptureLost("the standby has been promoted")
        generation, _ = await self._session.generation()
        if generation != self._position.era.generation:
            raise CaptureLost("the standby follows another primary")
        gaps = self._position.gaps
        gaps.mended = max(gaps.mended, mended)
        now = await current_snapshot(ask)
        if gaps.is_step(counter):
            gaps.step(counter, now.xmax)
        # No transaction has the id at the snapshot's end yet, so it serves as the one that we cannot assign.
        self._emit_gaps(Snapshot(now.xmin, now.xmax + 1, now.in_progress))
        await self._look_for_forgotten()

    async def _look_at_primary(self, head: str | None) -> bool:
        asked_s = time.monotonic()
        wants_open = self.gate.state is not GateState.SHUT
        parameters = {
            "head": head,
            "lease_s": self.gate.lease_s if wants_open else 0,
            "unchecked": str(self._position.unchecked.xmin),
        }
        _, gate, counter, mended, notify, now, is_changed, is_suspect = await self._session.reader.row(
            "watch", parameters
        )
        if (notify == "off") != (self._session.listener is None):
            raise CaptureLost(f"the operator has decided anew whether writers notify: {notify}")
        is_open = wants_open and self.gate.renew(gate, asked_s)
        if is_open:
            self._beat_with_gate = self._beats - 1
        await self._look_for_gaps(counter, mended, Snapshot.parse(now))
        if is_changed:
            await self._note_segments()
        if is_changed or is_suspect:
            await self._look_for_forgotten()
        self._position.unchecked = self._position.seen
        return wants_open and not is_open

    async def _note_segments(self) -> None:
        """Tell all bridges that the log was changed by hand, so that something may be missing."""
        if numbers := [number for (number,) in await self._session.reader.rows("note_segments")]:
            log.error("segments of the change log were emptied or replaced by hand", extra=facts(segments=numbers))

    async def _look_for_forgotten(self) -> None:
        """Look for rows that were deleted by hand. Every read finds out by itself whether others are gone."""
        if await is_forgotten(self._session.reader.rows, self._position.unchecked):
            reason = "a part of the change log is gone that may not have been read"
            self._position.emit(Gap(reason, cause=GapCause.FORGOTTEN))
        self._position.unchecked = self._position.seen

    async def _look_for_gaps(self, counter: int, mended: int, now: Snapshot) -> None:
        gaps, reader = self._position.gaps, self._session.reader
        gaps.mended = max(gaps.mended, mended)
        if gaps.is_step(counter):
            [younger] = await reader.row("new_xid")
            gaps.step(counter, younger)
            now = await current_snapshot(reader.rows)
        self._emit_gaps(now)
        if gaps.settled > mended:
            await reader.rows("mended", {"counter": gaps.settled})

    def _emit_gaps(self, now: Snapshot) -> None:
        """Emit the gap and the era that a snapshot of now calls for."""
        position = self._position
        if gap := position.gaps.look(now):
            position.emit(gap)
        if position.gaps.settled != position.era.gaps:
            position.begin_era(Era(position.era.generation, position.gaps.settled))
            position.emit(Turn(position.era))
