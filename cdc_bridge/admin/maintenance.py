"""Maintain the change log while a bridge runs: prune it, and record what the operator has decided about notifying.

Policy: every few seconds one cheap statement says whether pruning cannot wait. Otherwise the log is pruned once a
minute, or more often where `retention_age_s` is short. Pruning has a connection of its own and looks at every segment,
which costs the database more than everything else that an idle bridge does.
"""

import asyncio
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.admin.mode import STANDBY, Notify, record_notify
from cdc_bridge.admin.problems import closed_log
from cdc_bridge.admin.retention import NOT_CLOSED, PARTS, Log, Pruned, prune
from cdc_bridge.admin.tables import catalog_settings
from cdc_bridge.conninfo import PRUNE
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import BridgeError, NotInstalled, SourceUnavailable
from cdc_bridge.statements import statement
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

ANSWER_LIMIT_S = 10
"""A server that does not answer for so long counts as gone."""

PRUNE_INTERVAL_MAX_S = 60.0


@dataclass(eq=False)
class LogMaintenance:
    """Watches and prunes the log of one database.

    Args:
        pool: connections for the look, prepared by `session`.
        conninfo: for the connection that prunes.
        notify: the setting to record in the database once, or nothing.
    """

    pool: Pool
    conninfo: str
    schema: str
    retention_age_s: float
    retention_bytes: int
    notify: str = ""
    problems: tuple[str, ...] = ()
    """Why changes are gaps, if they are."""
    log: Log | None = None
    """The log when this bridge last pruned it, for metrics."""
    _pruned_at_s: float = -math.inf
    _is_forbidden: bool = False
    _reported_locked: set[int] = field(default_factory=set)

    async def run(self, interval_s: float) -> None:
        """Look after the log until cancelled. Wait for a database that does not answer."""
        while True:
            check_still_wanted()
            try:
                if await self._is_due():
                    await self.prune()
                    self._pruned_at_s = time.monotonic()
            except (psycopg.Error, PoolTimeout, TimeoutError, BridgeError) as error:
                log.debug("the change log cannot be looked after", extra=facts(reason=str(error)))
            await asyncio.sleep(interval_s)

    async def _is_due(self) -> bool:
        async with asyncio.timeout(ANSWER_LIMIT_S), self.pool.connection() as connection:
            is_due = True
            # Pruning skips what is locked, and says what is missing.
            with suppress(errors.LockNotAvailable, errors.ProgrammingError):
                row = await (await connection.execute(statement("queries/log_due", self.schema))).fetchone()
                is_due, closed = row or (True, NOT_CLOSED)
                self.problems = tuple(map(str, closed_log(closed)))
            if self._is_forbidden or "yes" in await STANDBY.all_async(connection):
                return False
            interval_s = min(PRUNE_INTERVAL_MAX_S, self.retention_age_s / PARTS / 2)
            return is_due or time.monotonic() - self._pruned_at_s >= interval_s

    async def prune(self) -> Pruned:
        """Prune the log now. A database without a log has nothing to prune. Raises `SourceUnavailable`.

        A role that has no right to prune leaves it to others from then on.
        """
        if self._is_forbidden:
            return Pruned()
        try:
            done = await asyncio.to_thread(self._prune)
        except NotInstalled:
            return Pruned()
        except psycopg.errors.InsufficientPrivilege as error:
            self._is_forbidden = True
            log.warning(
                "this role cannot prune the change log: prune as its owner, or see cdc-bridge sql --roles",
                extra=facts(reason=str(error)),
            )
            return Pruned()
        except (psycopg.Error, BridgeError) as error:
            raise SourceUnavailable(str(error).strip() or type(error).__name__) from error
        self.log = done.log or self.log
        self._report(done)
        return done

    def _prune(self) -> Pruned:
        """Prune, and record `notify` once before; on a hot standby neither: bridges of the primary do."""
        with psycopg.connect(
            self.conninfo, autocommit=True, application_name=PRUNE, connect_timeout=ANSWER_LIMIT_S
        ) as connection:
            if "yes" in STANDBY.all(connection):
                return Pruned()
            if self.notify:
                with catalog_settings(connection):
                    record_notify(connection, self.schema, Notify(self.notify))
                self.notify = ""
            return prune(connection, self.schema, self.retention_age_s, self.retention_bytes)

    def _report(self, done: Pruned) -> None:
        """Log what an operator should know: segments changed by hand, forgotten too early, or locked."""
        if done.changed:
            log.error("segments of the change log were emptied or replaced by hand", extra=facts(segments=done.changed))
        early = [each for each in done.forgotten if (each.newest_age_s or 0) < self.retention_age_s]
        if early:
            log.warning(
                "the change log was full: younger changes than retention_age_s says are forgotten",
                extra=facts(
                    size_bytes=sum(each.size_bytes for each in early),
                    newest_age_s=round(min(each.newest_age_s or 0 for each in early)),
                ),
            )
        if late := set(done.locked) - self._reported_locked:
            log.warning("a part of the change log is locked and cannot be pruned", extra=facts(segments=sorted(late)))
        self._reported_locked = set(done.locked)
