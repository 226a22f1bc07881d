"""Looks after the change log while a bridge runs: prunes it, records what was decided, says what is wrong with it.

And with the triggers: where somebody has disabled or dropped some, changes are missed and nothing else tells of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from cdc_bridge.admin.capture_problems import dangers, missed, read_attached_async
from cdc_bridge.admin.log_problems import log_problems_async
from cdc_bridge.admin.mode import Notify
from cdc_bridge.admin.notification import record_notify_async
from cdc_bridge.admin.pruner import LogPruner
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import DatabaseError, SourceUnavailable
from cdc_bridge.statements import statement
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

ANSWER_LIMIT_S = 10.0


class LogCustodian:
    """`problems` are sentences about the log and the triggers as they were found last.

    `notify` is what is to be recorded, or nothing.
    """

    def __init__(self, pool: Pool, schema: str, pruner: LogPruner, *, notify: str = "") -> None:
        self._pool = pool
        self._schema = schema
        self._pruner = pruner
        self._notify = notify
        self.problems: tuple[str, ...] = ()

    async def watch(self, interval_s: float) -> None:
        """For ever. A database that is away is waited for."""
        while True:
            check_still_wanted()
            try:
                await self._look()
                await self._pruner.prune()
            except (psycopg.Error, PoolTimeout, TimeoutError, SourceUnavailable, DatabaseError) as error:
                log.debug("the change log cannot be looked after", extra=facts(reason=str(error)))
            await asyncio.sleep(interval_s)

    async def _look(self) -> None:
        async with asyncio.timeout(ANSWER_LIMIT_S), self._pool.connection() as connection:
            if self._notify and not await _is_standby(connection):
                await record_notify_async(connection, self._schema, Notify(self._notify))
                self._notify = ""
            of_log = await log_problems_async(connection, self._schema)
            attached = await read_attached_async(connection, self._schema)
        of_tables = [problem for tree in attached if (problem := missed(tree))]
        of_tables += [problem for tree in attached for problem in dangers(tree)]
        self._note("the change log is not as it should be", of_log)
        self._note("a table is not captured as it should be", of_tables)
        self.problems = (*of_log, *of_tables)

    def _note(self, message: str, problems: Iterable[str]) -> None:
        """Each is logged once for as long as it lasts."""
        for problem in problems:
            if problem not in self.problems:
                log.error(message, extra=facts(reason=problem))


async def _is_standby(connection: AsyncConnection[Any]) -> bool:
    """There nothing can be recorded; the primary's bridges, or `attach --notify`, do it."""
    row = await (await connection.execute(statement("queries/standby"))).fetchone()
    return row is not None and row[0] == "yes"
