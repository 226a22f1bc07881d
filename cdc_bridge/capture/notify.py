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
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection, errors, sql

from cdc_bridge.capture.liveness import GapWatch, Proof
from cdc_bridge.capture.payload import Decoder, heartbeat
from cdc_bridge.change import Gap, Heard, Listening, Lost, Snapshot
from cdc_bridge.conninfo import HEARTBEAT, LISTEN
from cdc_bridge.errors import CannotListen, CaptureLost, DatabaseError, NotInstalled, PayloadError, SchemaClosed
from cdc_bridge.logs import facts
from cdc_bridge.statements import statement

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
class _Life:
    """What one pair of connections knows: from LISTEN to whatever ends it."""

    channel: str
    proof: Proof = field(default_factory=lambda: Proof(secrets.token_hex(4)))
    gaps: GapWatch = field(default_factory=GapWatch)
    beats_sent: int = 0
    found: list[Gap] = field(default_factory=list)


class NotifyCapture:
    """See the module's docstring; the guarantee is the port's, in `cdc_bridge.capture`."""

    def __init__(self, options: NotifyOptions) -> None:
        self._options = options
        self.last_heard_s = float("-inf")
        """When a notification last arrived, by the monotonic clock."""

    async def heard(self) -> AsyncGenerator[Heard, None]:
        """Raises `CannotListen` when notifications do not arrive although LISTEN was accepted."""
        delay_s = self._options.reconnect_delay_min_s
        proven = False
        while True:
            reason = "unknown"
            try:
                async with aclosing(self._listen()) as life:
                    async for heard in life:
                        if isinstance(heard, Listening):
                            proven = True
                            delay_s = self._options.reconnect_delay_min_s
                        yield heard
            except CannotListen as error:
                if not proven:
                    raise
                reason = str(error)
            except (CaptureLost, DatabaseError, psycopg.Error, OSError, UnicodeDecodeError) as error:
                reason = _reason(error)
            yield Lost(reason)
            pause_s = delay_s * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
            log.warning("not listening, trying again", extra=facts(reason=reason, in_s=round(pause_s, 1)))
            await asyncio.sleep(pause_s)
            delay_s = min(delay_s * 2, self._options.reconnect_delay_max_s)

    async def _listen(self) -> AsyncGenerator[Heard, None]:
        """One life of the two connections, from the first proof of listening to the end of either."""
        async with await self._connect(LISTEN) as listener, await self._connect(HEARTBEAT) as beater:
            async with asyncio.timeout(self._options.connect_timeout_s):
                await listener.execute(statement("queries/listener_session"))
                await beater.execute(statement("queries/listener_session"))
                life = _Life(await self._channel(listener))
                await self._look_for_gaps(beater, life)
                await listener.execute(statement("queries/listen", self._options.schema))
            # A task group may not span a yield, so this task is ended by hand.
            beating = asyncio.create_task(self._beat(beater, life))
            try:
                async with aclosing(self._receive(listener, life, beating)) as received:
                    async for heard in received:
                        yield heard
            finally:
                beating.cancel()
                with suppress(asyncio.CancelledError, psycopg.Error, OSError):
                    await beating

    async def _receive(
        self, listener: Connection, life: _Life, beating: asyncio.Task[None]
    ) -> AsyncGenerator[Heard, None]:
        """What arrives, once listening is proved."""
        decoder = Decoder()
        heard_s = time.monotonic()
        while True:
            # The timeout only brings control back here, to look at the heartbeats.
            async for note in listener.notifies(timeout=self._options.heartbeat_interval_s):
                heard_s = self.last_heard_s = time.monotonic()
                for heard in (*life.proof.hear(_understand(decoder, note.payload)), *life.found):
                    yield heard
                life.found.clear()
            if beating.done():
                raise CaptureLost(f"heartbeats cannot be sent: {_reason(beating.exception())}")
            if time.monotonic() - heard_s > self._options.heartbeat_timeout_s:
                raise self._silence(life)

    def _silence(self, life: _Life) -> CaptureLost | CannotListen:
        if life.proof.proven or not life.beats_sent:
            return CaptureLost(f"no heartbeat came back for {self._options.heartbeat_timeout_s:g} s")
        return CannotListen(
            "LISTEN is accepted but notifications do not arrive. Is there a pooler in transaction mode (PgBouncer) "
            "in between? Connect to PostgreSQL directly, or to a session pool."
        )

    async def _beat(self, beater: Connection, life: _Life) -> None:
        """Send heartbeats, and look for gaps, until the connection breaks."""
        while True:
            async with asyncio.timeout(self._options.heartbeat_timeout_s):
                head = heartbeat(life.proof.sender, life.beats_sent)
                await beater.execute(statement("queries/heartbeat"), {"channel": life.channel, "head": head})
                life.beats_sent += 1
                await self._look_for_gaps(beater, life)
            await asyncio.sleep(self._options.heartbeat_interval_s)

    async def _look_for_gaps(self, beater: Connection, life: _Life) -> None:
        counter = await _value(beater, statement("queries/gap", self._options.schema))
        if life.gaps.is_step(counter):
            life.gaps.step(counter, await _value(beater, statement("queries/new_xid")))
        if gap := life.gaps.look(Snapshot.parse(await _value(beater, statement("queries/snapshot")))):
            life.found.append(gap)

    async def _channel(self, connection: Connection) -> str:
        schema = self._options.schema
        try:
            number = await _value(connection, statement("queries/channel", schema))
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            raise NotInstalled(schema) from None
        except errors.InsufficientPrivilege:
            query = statement("queries/version", schema)
            row = await (await connection.execute(query, {"schema": schema})).fetchone()
            raise SchemaClosed(connection.info.user, schema, row[-1] if row else "?") from None
        if number is None:
            raise NotInstalled(schema)
        return f"cdc_{number}"

    async def _connect(self, purpose: str) -> Connection:
        return await AsyncConnection.connect(
            self._options.conninfo,
            autocommit=True,
            prepare_threshold=None,  # poolers
            connect_timeout=max(2, round(self._options.connect_timeout_s)),
            application_name=purpose,
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


async def _value(connection: Connection, query: sql.Composed) -> Any:
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row else None
