"""Capture by LISTEN: one connection that only listens, another one that sends heartbeats.

A heartbeat is a notification like those of the triggers and takes the same way. When none comes back in time
the connection is dead, whatever TCP thinks of it, and is given up. After a reconnect the first heartbeat that
returns proves that LISTEN works here; only then is `Listening` said.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg import AsyncConnection, errors, sql

from cdc_bridge.capture.payload import Decoder, heartbeat
from cdc_bridge.change import Gap, Heard, Heartbeat, Listening, Lost, Snapshot
from cdc_bridge.errors import CannotListen, CaptureLost, NotInstalled, PayloadError
from cdc_bridge.logs import facts

log = logging.getLogger(__name__)

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

KEEPALIVES: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


@dataclass(frozen=True, slots=True)
class NotifyOptions:
    """`heartbeat_timeout_s` bounds how long a dead connection goes unnoticed."""

    conninfo: str
    schema: str = "cdc"
    heartbeat_interval_s: float = 2
    heartbeat_timeout_s: float = 6
    connect_timeout_s: float = 5
    reconnect_delay_min_s: float = 0.1
    reconnect_delay_max_s: float = 10


@dataclass(slots=True)
class _Watch:
    """What the heartbeats of one life know: how many were sent, and the state of the triggers' `gap` sequence."""

    channel: str
    sender: str = field(default_factory=lambda: secrets.token_hex(4))
    beats_sent: int = 0
    gap_counter: str | None = None
    gap_began: Snapshot | None = None
    gap_found: bool = False


class NotifyCapture:
    """See the module's docstring; the guarantee is the port's, in `cdc_bridge.capture`."""

    def __init__(self, options: NotifyOptions) -> None:
        self._options = options
        self.last_heard_s = float("-inf")
        """When a notification last arrived, by the monotonic clock."""

    async def heard(self) -> AsyncIterator[Heard]:
        """Raises `CannotListen` when notifications do not arrive although LISTEN was accepted."""
        delay_s = self._options.reconnect_delay_min_s
        proven = False
        while True:
            reason = "unknown"
            try:
                async for heard in self._listen():
                    if isinstance(heard, Listening):
                        proven = True
                        delay_s = self._options.reconnect_delay_min_s
                    yield heard
            except CannotListen as error:
                if not proven:
                    raise
                reason = str(error)
            except (CaptureLost, NotInstalled, psycopg.Error, OSError) as error:
                reason = _reason(error)
            yield Lost(reason)
            pause_s = delay_s * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
            log.warning("not listening, trying again", extra=facts(reason=reason, in_s=round(pause_s, 1)))
            await asyncio.sleep(pause_s)
            delay_s = min(delay_s * 2, self._options.reconnect_delay_max_s)

    async def _listen(self) -> AsyncIterator[Heard]:
        """One life of the two connections, from the first proof of listening to the end of either."""
        async with await self._connect("listen") as listener, await self._connect("heartbeat") as beater:
            async with asyncio.timeout(self._options.connect_timeout_s):
                watch = _Watch(await self._channel(listener))
                await self._find_gap(beater, watch)
                await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(watch.channel)))
            beating = asyncio.create_task(self._beat(beater, watch))
            try:
                async with aclosing(self._receive(listener, watch, beating)) as received:
                    async for heard in received:
                        yield heard
            finally:
                beating.cancel()
                with suppress(asyncio.CancelledError, psycopg.Error, OSError):
                    await beating

    async def _receive(
        self, listener: Connection, watch: _Watch, beating: asyncio.Task[None]
    ) -> AsyncGenerator[Heard, None]:
        """What arrives, once the first of our own heartbeats has."""
        decoder = Decoder()
        proven = False
        heard_s = time.monotonic()
        while True:
            # The timeout only brings control back here, to look at the heartbeats.
            async for note in listener.notifies(timeout=self._options.heartbeat_interval_s):
                heard_s = self.last_heard_s = time.monotonic()
                heard = _understand(decoder, note.payload)
                if proven and heard is not None:
                    yield heard
                elif isinstance(heard, Heartbeat) and heard.sender == watch.sender:
                    # What came before is part of the gap that `Listening` ends, be it whole or broken.
                    proven = True
                    yield Listening()
                if proven and watch.gap_found:
                    watch.gap_found = False
                    yield Gap("a trigger could not tell what changed")
            if beating.done():
                raise CaptureLost(f"heartbeats cannot be sent: {_reason(beating.exception())}")
            if time.monotonic() - heard_s > self._options.heartbeat_timeout_s:
                raise self._silence(proven=proven or not watch.beats_sent)

    def _silence(self, *, proven: bool) -> CaptureLost | CannotListen:
        if proven:
            return CaptureLost(f"no heartbeat came back for {self._options.heartbeat_timeout_s:g} s")
        return CannotListen(
            "LISTEN is accepted but notifications do not arrive. Is there a pooler in transaction mode (PgBouncer) "
            "in between? Connect to PostgreSQL directly, or to a session pool."
        )

    async def _beat(self, beater: Connection, watch: _Watch) -> None:
        """Send heartbeats, and look for gaps, until the connection breaks."""
        statement = "SELECT pg_notify(%s, %s || pg_current_snapshot()::text)"
        while True:
            async with asyncio.timeout(self._options.heartbeat_timeout_s):
                await beater.execute(statement, [watch.channel, heartbeat(watch.sender, watch.beats_sent)])
                watch.beats_sent += 1
                await self._find_gap(beater, watch)
            await asyncio.sleep(self._options.heartbeat_interval_s)

    async def _find_gap(self, beater: Connection, watch: _Watch) -> None:
        """Whether a trigger has marked a gap, and its transaction has ended so that a snapshot can see it.

        The counter is read before the snapshot: whoever has stepped it had a transaction id by then, so it is
        either in progress in that snapshot or has ended.
        """
        name = f'"{self._options.schema}".gap'
        counter = await _value(beater, "SELECT coalesce(pg_sequence_last_value(%s::regclass), 0)::text", name)
        snapshot = Snapshot.parse(await _value(beater, "SELECT pg_current_snapshot()::text"))
        if watch.gap_counter not in (None, counter):
            watch.gap_began = snapshot
        watch.gap_counter = counter
        if watch.gap_began and all(snapshot.sees(xid) for xid in watch.gap_began.in_progress):
            watch.gap_began = None
            watch.gap_found = True

    async def _channel(self, connection: Connection) -> str:
        name = f'"{self._options.schema}".channel'
        try:
            number = await _value(connection, "SELECT pg_sequence_last_value(%s::regclass)::text", name)
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            number = None
        if number is None:
            raise NotInstalled(
                f'schema "{self._options.schema}" is not installed in this database: run `cdc-bridge attach` first'
            )
        return f"cdc_{number}"

    async def _connect(self, purpose: str) -> Connection:
        return await AsyncConnection.connect(
            self._options.conninfo,
            autocommit=True,
            prepare_threshold=None,  # poolers
            connect_timeout=max(2, round(self._options.connect_timeout_s)),
            application_name=f"cdc_bridge {purpose}",
            client_encoding="UTF8",
            **KEEPALIVES,
        )


def _understand(decoder: Decoder, payload: str) -> Heard | None:
    """None: more parts are to come. What cannot be read may have been a change: a gap."""
    try:
        return decoder.receive(payload)
    except PayloadError as error:
        return Gap(str(error))


def _reason(error: BaseException | None) -> str:
    if isinstance(error, TimeoutError):
        return "the database does not answer in time"
    return str(error).strip() or type(error).__name__


async def _value(connection: Connection, statement: LiteralString, *parameters: str) -> Any:
    row = await (await connection.execute(statement, parameters)).fetchone()
    return row[0] if row else None
