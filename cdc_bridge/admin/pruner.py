"""Retention as the bridge wants it: on a connection of its own, with a word in its log about what is noteworthy."""

from __future__ import annotations

import asyncio
import logging

import psycopg

from cdc_bridge.admin.pruning import Pruned, is_standby, prune
from cdc_bridge.conninfo import PRUNE
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import BridgeError, NotInstalled, SourceUnavailable

log = logging.getLogger(__name__)

CONNECT_LIMIT_S = 10
"""After this a server that does not answer counts as gone."""


class LogPruner:
    """`prune()` is to be called now and then, once a minute or so. A database without a log has nothing to prune."""

    def __init__(self, conninfo: str, schema: str, *, retention_age_s: float, retention_bytes: int) -> None:
        self._conninfo = conninfo
        self._schema = schema
        self._retention_age_s = retention_age_s
        self._retention_bytes = retention_bytes
        self._is_forbidden = False
        self._told_locked: set[int] = set()

    async def prune(self) -> Pruned:
        """Raises `SourceUnavailable`. A role that has not the right to prune leaves it to others from then on."""
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
        self._note(done)
        return done

    def _prune(self) -> Pruned:
        with psycopg.connect(
            self._conninfo, autocommit=True, application_name=PRUNE, connect_timeout=CONNECT_LIMIT_S
        ) as connection:
            if is_standby(connection):
                return Pruned()
            return prune(connection, self._schema, self._retention_age_s, self._retention_bytes)

    def _note(self, done: Pruned) -> None:
        """Forgetting in time is as it should be; forgetting earlier, and being kept from it, is not."""
        if done.changed:
            log.error("segments of the change log were emptied or replaced by hand", extra=facts(segments=done.changed))
        early = [each for each in done.forgotten if (each.newest_age_s or 0) < self._retention_age_s]
        if early:
            log.warning(
                "the change log was full: younger changes than retention_age_s says are forgotten",
                extra=facts(
                    size_bytes=sum(each.size_bytes for each in early),
                    newest_age_s=round(min(each.newest_age_s or 0 for each in early)),
                ),
            )
        if late := set(done.locked) - self._told_locked:
            log.warning("a part of the change log is locked and cannot be pruned", extra=facts(segments=sorted(late)))
        self._told_locked = set(done.locked)
