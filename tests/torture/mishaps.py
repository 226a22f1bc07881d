"""What befalls bridges and server, as the plan has it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from cdc_bridge.admin.retention import read_log
from tests.support.cluster import Cluster
from tests.support.server import Database
from tests.torture.fleet import Fleet
from tests.torture.plan import Disaster, Mishap, Step
from tests.torture.tables import Table
from tests.torture.truth import Truth
from tests.torture.writer import Weather

LEASE_S = 10
PAUSE_COMMITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishaps:
    cluster: Cluster
    database: Database
    fleet: Fleet
    truth: Truth
    weather: Weather
    tables: Sequence[Table]

    async def befall(self, step: Step) -> None:
        await _DEEDS[step.what](self, self.fleet.existing(step.bridge))

    # --- bridges ---

    async def _kill_bridge(self, number: int) -> None:
        await self.fleet.kill(number)
        await self.fleet.start(number)

    async def _second_bridge_comes(self, number: int) -> None:
        await self.fleet.start(1)

    async def _second_bridge_goes(self, number: int) -> None:
        await self.fleet.stop(1)

    async def _end_sessions(self, number: int) -> None:
        self.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'cdc_bridge%' AND datname = current_database()"
        )

    async def _cut(self, number: int) -> None:
        self.fleet.proxy(number).cut()

    async def _half_open(self, number: int) -> None:
        proxy = self.fleet.proxy(number)
        proxy.freeze()
        await self.fleet.notices(number)
        proxy.cut()
        proxy.thaw()

    async def _pause(self, number: int) -> None:
        proxy = self.fleet.proxy(number)
        proxy.freeze()
        await self.truth.reach(self.truth.count + PAUSE_COMMITS)
        proxy.thaw()

    # --- the gate and the log ---

    async def _open_gate(self, number: int) -> None:
        self.database.execute("SELECT cdc.open_gate(%s)", [LEASE_S])

    async def _shut_gate(self, number: int) -> None:
        self.database.execute("SELECT cdc.shut_gate()")

    async def _flap_gate(self, number: int) -> None:
        for _ in range(10):
            await self._open_gate(number)
            await self.truth.reach(self.truth.count + 1)
            await self._shut_gate(number)
            await self.truth.reach(self.truth.count + 1)

    async def _next_segment(self, number: int) -> None:
        self.database.execute("SELECT cdc.advance_segment(cdc.current_segment())")

    async def _forget(self, number: int) -> None:
        """As `prune` does. A segment that somebody writes to is left alone."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            log = read_log(connection, "cdc")
            ring = [(log.current + step) % len(log.segments) for step in range(1, len(log.segments))]
            oldest = next((n for n in ring if not log.segments[n].is_empty), None)
            if oldest is None:
                return
            connection.execute("SET lock_timeout = '100ms'")
            try:
                connection.execute("SELECT cdc.forget_segment(%s)", [oldest])
            except psycopg.errors.LockNotAvailable:
                return
            self.truth.causes.forgotten.append(time.monotonic())

    async def _rewrite(self, number: int) -> None:
        """It waits for writers that wait for time to pass, so it must not keep that from passing."""
        table = self.tables[0]
        self.truth.causes.stored_anew.setdefault(table.name, time.monotonic())
        async with await self.database.connect() as connection:
            with suppress(psycopg.errors.DeadlockDetected):
                await connection.execute(table.rewrite())

    # --- the server: nothing else happens here until it is back ---

    async def _restart_server(self, number: int) -> None:
        self.weather.server_is_up.clear()
        self.cluster.stop("fast")
        self._come_back()

    async def _kill_server(self, number: int) -> None:
        self.weather.server_is_up.clear()
        self.truth.causes.crashes.append(time.monotonic())
        self.cluster.kill()
        self._come_back()

    def _come_back(self) -> None:
        self.cluster.start()
        self.truth.settle({number for (number,) in self.database.execute("SELECT number FROM ledger")})
        self.weather.server_is_up.set()


_DEEDS: Mapping[Mishap | Disaster, Callable[[Mishaps, int], Awaitable[None]]] = {
    Mishap.KILL_BRIDGE: Mishaps._kill_bridge,
    Mishap.END_SESSIONS: Mishaps._end_sessions,
    Mishap.CUT: Mishaps._cut,
    Mishap.HALF_OPEN: Mishaps._half_open,
    Mishap.PAUSE: Mishaps._pause,
    Mishap.SECOND_BRIDGE_COMES: Mishaps._second_bridge_comes,
    Mishap.SECOND_BRIDGE_GOES: Mishaps._second_bridge_goes,
    Mishap.OPEN_GATE: Mishaps._open_gate,
    Mishap.SHUT_GATE: Mishaps._shut_gate,
    Mishap.FLAP_GATE: Mishaps._flap_gate,
    Mishap.NEXT_SEGMENT: Mishaps._next_segment,
    Mishap.RESTART_SERVER: Mishaps._restart_server,
    Disaster.KILL_SERVER: Mishaps._kill_server,
    Disaster.FORGET: Mishaps._forget,
    Disaster.REWRITE: Mishaps._rewrite,
}
