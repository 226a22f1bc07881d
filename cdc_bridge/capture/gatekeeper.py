"""Who opens the gate when it is quiet, and shuts it when it is busy.

Rule: it is shut by saying so first and opened by doing so first; `gate.py` says why. Without a listener it is nobody's,
and while there is a lane it is not opened.
"""

from __future__ import annotations

import time

from cdc_bridge.capture.account import Account
from cdc_bridge.capture.gate import Gate, GateState
from cdc_bridge.capture.life import Life

SHUT_AGAIN_S = 1.0
"""Others may have opened it meanwhile."""

POLL_BUSY_S = 0.01
POLL_VERY_BUSY_S = 0.025
VERY_BUSY = 100
"""Changes found by one reading; then the next one may find more, for the price of one."""

POLL_OPENING_S = 0.02
POLL_OPENING_LATER_S = 0.25
POLL_OPEN_S = 5.0
"""The belt: nothing depends on it."""


class Gatekeeper:
    """See the module's docstring."""

    def __init__(self, life: Life, account: Account, gate: Gate) -> None:
        self._life = life
        self._account = account
        self._gate = gate
        self._opening_since_s = 0.0
        self._shut_s = float("-inf")

    def pause_s(self, found: int) -> float:
        """How long the log may wait for the next reading after one that has found so many changes."""
        match self._gate.state:
            case GateState.OPEN:
                return POLL_OPEN_S
            case GateState.OPENING:
                is_new = time.monotonic() - self._opening_since_s < 1
                return POLL_OPENING_S if is_new else POLL_OPENING_LATER_S
            case GateState.SHUT:
                if self._life.listener is None:
                    return self._life.options.poll_interval_s
                return POLL_BUSY_S if found < VERY_BUSY else POLL_VERY_BUSY_S

    async def steer(self) -> None:
        if self._life.listener is None:
            return
        now = time.monotonic()
        is_shut = self._gate.state is GateState.SHUT
        if self._gate.is_busy():
            if not is_shut or now - self._shut_s > SHUT_AGAIN_S:
                self._shut_s = now
                await self._shut()
        elif is_shut and self._gate.is_quiet(now) and not self._account.lanes:
            await self._open()

    async def _shut(self) -> None:
        """First say it, then do it: who finds the gate shut commits after all bridges could know."""
        self._gate.shut()
        self._life.poll_due_s = 0
        async with self._life.in_time():
            await self._life.run("announce_shut")
            await self._life.run("shut_gate")

    async def _open(self) -> None:
        """First open it, then take an id: who has a younger one has found it open."""
        asked_s = self._opening_since_s = time.monotonic()
        async with self._life.in_time():
            [opened] = await self._life.row("open_gate", {"lease_s": self._gate.lease_s})
            if opened is None:
                return
            [younger] = await self._life.row("new_xid")
        self._gate.open(opened, younger, asked_s)
        self._life.poll_due_s = 0
