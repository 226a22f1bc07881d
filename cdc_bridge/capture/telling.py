"""What one life of the connections tells: whatever arrives, and whatever is due, in turns.

Rule: `Listening` comes first, once it is proved; then what arrives is told in its order, and the log is read before
anything that may depend on what only the log has.

Theory: `progress.py` says what has been told, `gate.py` when what comes inline is all there is, `lanes.py` how a large
transaction is told beside the others, `watch.py` what heartbeats prove. Here they take turns.

What cannot be read is a gap, and gaps are told `GAPS_APART_S` from each other. A notification that cannot be read may
have been of a table in live mode, which a gap mends later as well as now; where it was of the log, that is read at
once. What cannot be read in the log holds up everything after it until the gap is told, since no position may go past
it before.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from cdc_bridge.capture.account import Account
from cdc_bridge.capture.gate import Gate
from cdc_bridge.capture.gatekeeper import Gatekeeper
from cdc_bridge.capture.lane import Lane
from cdc_bridge.capture.lanes import CONGESTED_S, Broken, Lanes
from cdc_bridge.capture.life import Life
from cdc_bridge.capture.liveness import GapLimit
from cdc_bridge.capture.payload import Decoder, Inline, Told, Wake
from cdc_bridge.capture.reading import Siblings, Unreadable, read_new
from cdc_bridge.capture.watch import Watch
from cdc_bridge.model.change import Change, Gap, Heartbeat, Listening, StreamItem
from cdc_bridge.model.errors import PayloadError
from cdc_bridge.wanted import check_still_wanted

GAPS_APART_S = 2.0


class Telling:
    """See the module's docstring. `listening` is what is said, with the era of then, once it is proved that we are."""

    def __init__(
        self,
        life: Life,
        account: Account,
        watch: Watch,
        gate: Gate,
        lanes: Lanes,
        *,
        siblings: Siblings,
        listening: Listening,
    ) -> None:
        self._life = life
        self._account = account
        self._gate = gate
        self._watch = watch
        self._siblings = siblings
        self._lanes = lanes
        self._listening = listening
        self._keeper = Gatekeeper(life, account, gate)
        self._decoder = Decoder()
        self._notified_gaps = GapLimit(GAPS_APART_S)
        self._logged_gaps = GapLimit(GAPS_APART_S)

    @property
    def _is_proven(self) -> bool:
        return self._watch.proof.proven

    async def batches(self) -> AsyncGenerator[list[StreamItem], None]:
        """Whatever is next, for ever: all that is at hand in one turn, at most `AT_ONCE_MAX` notifications."""
        if self._is_proven:
            yield [self._listening]
        await self._life.listen()
        self._lanes.resume()
        while True:
            check_still_wanted()
            for item in await self._life.arrived(self._due_s()):
                await self._take(item)
            await self._do_what_is_due()
            if batch := self._account.take():
                yield batch
            if self._is_proven:
                await self._keeper.steer()

    def _due_s(self) -> float:
        """When something is due, whatever arrives until then."""
        due_s = min(
            self._watch.due_s, self._notified_gaps.due_s, self._life.poll_due_s if self._is_proven else float("inf")
        )
        return min(due_s, time.monotonic() + CONGESTED_S) if self._lanes.have_pages else due_s

    async def _do_what_is_due(self) -> None:
        """Pages of lanes, the heartbeat, the log: each in its turn, if it is time for it."""
        self._lanes.take()
        now = time.monotonic()
        if gap := self._notified_gaps.take(now):
            self._account.say(gap)
        await self._watch.beat()
        if self._is_proven and now >= self._life.poll_due_s:
            await self._poll()

    # --- what arrives ---

    async def _take(self, item: Any) -> None:
        match item:
            case str():
                await self._take_payload(item)
            case Broken():
                self._lanes.give_up(item)
            case Lane():
                pass  # it has a page, which is taken in its turn
            case BaseException():
                raise item
            case _:
                raise AssertionError(item)

    async def _take_payload(self, payload: str) -> None:
        try:
            told = self._decoder.receive(payload)
        except PayloadError as error:
            if self._is_proven:
                self._notified_gaps.owe(Gap(str(error)))
                await self._poll()
            return
        if isinstance(told, Heartbeat):
            if self._watch.is_ours(told):
                await self._take_heartbeat(told)
        elif told is not None and self._is_proven:
            await self._take_told(told)

    async def _take_heartbeat(self, beat: Heartbeat) -> None:
        """All that its snapshot sees was notified before, or is in the log."""
        if not self._is_proven:
            self._watch.proof.proven = True
            self._account.say(replace(self._listening, era=self._account.told.era))
            return
        if self._watch.proves(beat):
            self._account.told.prove(beat.snapshot)
        else:
            await self._poll()
        seen = self._account.told.seen
        if seen.covers(beat.snapshot):  # unless something holds it up
            seen = beat.snapshot
        self._account.say(Heartbeat(beat.sender, beat.beat, seen, self._account.lagging))

    async def _take_told(self, told: Told) -> None:
        match told:
            case Change():  # of a table in live mode
                self._account.say(told)
            case Inline(change, gate):
                self._take_inline(change, gate)
            case Wake(is_shut):
                if is_shut:
                    self._gate.shut()
                await self._poll()  # before anything that came after it

    def _take_inline(self, change: Change, gate: int) -> None:
        now = time.monotonic()
        self._gate.count(1, now)
        if not self._gate.takes(gate, now) or self._account.lanes:
            self._life.poll_due_s = 0
        elif fresh := self._account.told.hear(change):
            self._account.say(fresh)
            if self._account.told.is_long:
                self._life.poll_due_s = 0

    # --- the log ---

    async def _poll(self) -> None:
        """Read what the log has beyond what was told."""
        told = self._account.told
        position = told.position
        try:
            found = await read_new(self._life, position, self._account.lagging, self._siblings)
        except Unreadable as error:
            self._pass_by(error)
            return
        if not found.is_whole:  # said first: no position may claim what was not read
            self._account.say(Gap("a part of the change log was forgotten before it was read"))
            self._account.unchecked = found.snapshot
        self._lanes.give_up_grown(self._siblings)
        self._lanes.begin(found.heavy, position, found.snapshot)
        fresh = told.read(found.changes, found.snapshot)
        self._account.say(*fresh)
        now = time.monotonic()
        self._gate.count(len(fresh), now)
        self._gate.read(found.snapshot)
        self._life.poll_due_s = now + self._keeper.pause_s(len(fresh))
        await self._lanes.rejoin(found.snapshot)
        if self._life.listener is None:
            sender = self._watch.proof.sender
            self._account.say(Heartbeat(sender, 0, found.snapshot, self._account.lagging))

    def _pass_by(self, unreadable: Unreadable) -> None:
        """Go past what cannot be read, if it is time for another gap. Else wait, and take nothing inline meanwhile."""
        now = time.monotonic()
        self._logged_gaps.owe(Gap(str(unreadable)))
        if gap := self._logged_gaps.take(now):
            self._account.told.prove(unreadable.snapshot)
            self._account.say(gap)
            return
        self._life.poll_due_s = self._logged_gaps.due_s
        if self._gate.is_trusted(now):
            self._gate.shut()
