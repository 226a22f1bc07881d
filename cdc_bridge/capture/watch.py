"""Heartbeats, and what is looked at with each of them: the gate, gaps, what was forgotten, and who we are talking to.

Rule: nothing is proved until a heartbeat of ours has come back. When one stays out for `heartbeat_timeout_s`, the
connections are given up. Time in which nobody took what we tell, and we heard nothing, does not count.

Theory: a heartbeat carries a snapshot, and the gate is looked at after it. If that has its value still, everything that
the snapshot sees was notified before the heartbeat; `proves` says of which heartbeats that is so.
"""

from __future__ import annotations

import logging
import secrets
import time

from cdc_bridge.capture.account import Account
from cdc_bridge.capture.gate import Gate, GateState
from cdc_bridge.capture.life import Life
from cdc_bridge.capture.liveness import Proof
from cdc_bridge.capture.pages import current_snapshot, is_forgotten
from cdc_bridge.capture.payload import heartbeat
from cdc_bridge.logs import facts
from cdc_bridge.model.change import Era, Gap, Heartbeat, Snapshot, Turn
from cdc_bridge.model.errors import CannotListen, CaptureLost

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""What has been told inline is confirmed this often, so that cursors stay short and the lease fresh."""


class Watch:
    """See the module's docstring. `due_s` is the time of the next heartbeat, by the monotonic clock."""

    def __init__(self, life: Life, account: Account, gate: Gate) -> None:
        self.due_s = 0.0
        self.proof = Proof(secrets.token_hex(4), proven=life.listener is None)
        self._life = life
        self._account = account
        self._gate = gate
        account.unchecked = account.told.seen
        self._beats = 0
        self._beat_with_gate = -1
        self._heard_s = time.monotonic()
        self._silent_from_s = self._heard_s

    # --- heartbeats ---

    async def beat(self) -> None:
        """Send a heartbeat, if it is time for it, and then look."""
        now = time.monotonic()
        if now < self.due_s:
            return
        if self.due_s:
            self._silent_from_s += now - self.due_s
        self.due_s = now + min(BEAT_S, self._life.options.heartbeat_interval_s)
        if self._life.listener is not None:
            await self._send()
        async with self._life.in_time():
            await self.look()

    def is_ours(self, beat: Heartbeat) -> bool:
        """A heartbeat has come back. Whether it is one of ours, and so proves something."""
        if beat.sender != self.proof.sender:
            return False
        self._heard_s = self._silent_from_s = time.monotonic()
        return True

    def proves(self, beat: Heartbeat) -> bool:
        """Whether all that its snapshot sees has been notified before it, and told."""
        is_open = self._gate.is_trusted(self._heard_s) and beat.beat == self._beat_with_gate
        return is_open and not self._account.lanes

    async def _send(self) -> None:
        if time.monotonic() - self._silent_from_s > self._life.options.heartbeat_timeout_s:
            raise self._silence()
        async with self._life.in_time():
            await self._life.run("beat", {"head": heartbeat(self.proof.sender, self._beats)})
        self._beats += 1

    def _silence(self) -> CaptureLost | CannotListen:
        if self.proof.proven or not self._beats:
            return CaptureLost(f"no heartbeat came back for {self._life.options.heartbeat_timeout_s:g} s")
        return CannotListen(
            "LISTEN is accepted but notifications do not arrive. Is there a pooler in transaction mode (PgBouncer) "
            "in between? Connect to PostgreSQL directly, or to a session pool, or decide for --notify off."
        )

    # --- what is looked at ---

    async def look(self) -> None:
        """At the gate, at gaps, and at what was forgotten."""
        await (self._look_at_standby() if self._life.is_standby else self._look_at_primary())
        await self._look_for_forgotten()

    async def _look_at_standby(self) -> None:
        """Nothing can be written there: no gate, and who empties the log by hand is not noted."""
        is_standby, counter, mended = await self._life.row("standby_watch", prepare=True)
        if not is_standby:
            raise CaptureLost("the standby has been promoted")
        generation, _ = await self._life.generation()
        if generation != self._account.told.era.generation:
            raise CaptureLost("the standby follows another primary")
        self._account.gaps.mended = max(self._account.gaps.mended, mended)
        now = await current_snapshot(self._life.reader)
        if self._account.gaps.is_step(counter):
            self._account.gaps.step(counter, now.xmax)
        # Nobody has the id at the snapshot's end yet, which so stands for the one that we cannot take.
        self._tell_gaps(Snapshot(now.xmin, now.xmax + 1, now.in_progress))

    async def _look_at_primary(self) -> None:
        asked_s = time.monotonic()
        wants_open = self._gate.state is not GateState.SHUT
        parameters = {"lease_s": self._gate.lease_s if wants_open else 0}
        gate, counter, mended, notify, now, is_changed = await self._life.row("watch", parameters, prepare=True)
        if (notify == "off") != (self._life.listener is None):
            raise CaptureLost(f"the operator has decided anew whether writers notify: {notify}")
        if wants_open:
            self._look_at_gate(gate, asked_s)
        await self._look_for_gaps(counter, mended, Snapshot.parse(now))
        if is_changed:
            await self._note_segments()

    def _look_at_gate(self, value: int | None, asked_s: float) -> None:
        if self._gate.renew(value, asked_s):
            self._beat_with_gate = self._beats - 1
        else:
            self._life.poll_due_s = 0

    async def _note_segments(self) -> None:
        """Somebody has laid hands on the log: let all who read it know that something may be missing."""
        if numbers := [number for (number,) in await self._life.rows("note_segments")]:
            log.error("segments of the change log were emptied or replaced by hand", extra=facts(segments=numbers))

    async def _look_for_forgotten(self) -> None:
        """What a reading did not find is said by then; this is for what somebody took out by hand."""
        account = self._account
        if await is_forgotten(self._life.reader, self._life.options.schema, account.unchecked):
            account.say(Gap("a part of the change log is gone that may not have been read"))
        account.unchecked = account.told.seen

    async def _look_for_gaps(self, counter: int, mended: int, now: Snapshot) -> None:
        gaps = self._account.gaps
        gaps.mended = max(gaps.mended, mended)
        if gaps.is_step(counter):
            [younger] = await self._life.row("new_xid")
            gaps.step(counter, younger)
            now = await current_snapshot(self._life.reader)
        self._tell_gaps(now)
        if gaps.settled > mended:
            await self._life.run("mended", {"counter": gaps.settled})

    def _tell_gaps(self, now: Snapshot) -> None:
        """Say what a snapshot of now tells of gaps."""
        account = self._account
        if gap := account.gaps.look(now):
            account.say(gap)
        if account.gaps.settled != account.told.era.gaps:
            account.told.turn(Era(account.told.era.generation, account.gaps.settled))
            account.say(Turn(account.told.era))
