"""Capture by the change log, and by what is notified while the gate is open.

One connection listens, another one reads the log and sends heartbeats (`life.py`). What has been told is kept over the
loss of both (`account.py`), so that after a reconnect the log is read on from there, and tables in the mode `durable`
miss nothing. Those in live mode are heard on the same connection and start anew.

Rule: one life of the connections at a time. It ends with `Lost`, after all that was owed has been said, and the next
one begins with `Listening`, `resumed` if nothing of the log is missing in between.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import psycopg

from cdc_bridge.capture.account import Account
from cdc_bridge.capture.gate import Gate
from cdc_bridge.capture.lanes import IsCongested, Lanes
from cdc_bridge.capture.life import AT_ONCE_MAX, Life, LogOptions, connected
from cdc_bridge.capture.pages import current_snapshot, is_forgotten
from cdc_bridge.capture.reading import Siblings
from cdc_bridge.capture.telling import Telling
from cdc_bridge.capture.watch import Watch
from cdc_bridge.logs import facts
from cdc_bridge.model.change import Era, Heartbeat, Listening, Lost, StreamItem
from cdc_bridge.model.errors import CannotListen, CaptureLost, DatabaseError
from cdc_bridge.wanted import check_still_wanted

__all__ = ["LogCapture", "LogOptions"]

log = logging.getLogger(__name__)


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
        self._account: Account | None = None
        self._gate = Gate()
        self._proven = False
        self._delay_s = options.reconnect_delay_min_s
        self.last_heard_s = float("-inf")
        """When the database last proved that it is heard, by the monotonic clock."""

    async def batches(self) -> AsyncGenerator[list[StreamItem], None]:
        """Raises `CannotListen` when notifications do not arrive although LISTEN was accepted."""
        while True:
            check_still_wanted()
            reason = "unknown"
            try:
                async with aclosing(self._live()) as life:
                    async for batch in life:
                        self._note(batch)
                        yield batch
            except CannotListen as error:
                if not self._proven:
                    raise
                reason = str(error)
            except (CaptureLost, DatabaseError, psycopg.Error, OSError, UnicodeDecodeError) as error:
                reason = _reason(error)
            owed = self._account.take() if self._account is not None else []
            yield [*owed, Lost(reason)]
            await self._pause(reason)

    def _note(self, batch: list[StreamItem]) -> None:
        """What is said proves that the database is there, or does not."""
        for item in batch:
            if isinstance(item, Listening):
                self._proven = True
                self._delay_s = self._options.reconnect_delay_min_s
            if isinstance(item, Listening | Heartbeat):
                self.last_heard_s = time.monotonic()

    async def _pause(self, reason: str) -> None:
        pause_s = self._delay_s * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
        log.warning("not listening, trying again", extra=facts(reason=reason, in_s=round(pause_s, 1)))
        await asyncio.sleep(pause_s)
        self._delay_s = min(self._delay_s * 2, self._options.reconnect_delay_max_s)

    async def _live(self) -> AsyncGenerator[list[StreamItem], None]:
        """What one life of the connections tells."""
        async with connected(self._options) as life:
            try:
                async with aclosing(self._told(life)) as told:
                    async for batch in told:
                        yield batch
                        if len(batch) >= AT_ONCE_MAX:
                            await asyncio.sleep(0)
            finally:
                self._gate.shut()

    async def _told(self, life: Life) -> AsyncGenerator[list[StreamItem], None]:
        async with life.in_time():
            generation, secret = await life.generation()
            resumed = await self._resumes(life, generation)
            account = self._account if resumed else await _opened(life, generation)
            assert account is not None
            watch = Watch(life, account, self._gate)
            if not resumed:
                await watch.look()
                account.unsaid.clear()  # all begin with fresh data anyway
            self._account = account
        lanes = Lanes(life, account, self._is_congested)
        listening = Listening(account.told.era, secret, resumed)
        telling = Telling(life, account, watch, self._gate, lanes, siblings=self._siblings, listening=listening)
        async with aclosing(telling.batches()) as turns:
            async for batch in turns:
                yield batch

    async def _resumes(self, life: Life, generation: bytes) -> bool:
        """Whether it goes on where listening ended: the same life of the database, and the log reaches back so far."""
        before = self._account
        if before is None or before.told.era.generation != generation:
            return False
        return not await is_forgotten(life.reader, life.options.schema, before.told.seen)


async def _opened(life: Life, generation: bytes) -> Account:
    """An account that begins with now."""
    return Account.opened(Era(generation), await current_snapshot(life.reader))


def _reason(error: BaseException | None) -> str:
    if isinstance(error, TimeoutError):
        return "the database does not answer in time"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return f"{str(error).strip()}: connect as the owner or the runtime role, see cdc-bridge sql --roles"
    return str(error).strip() or type(error).__name__
