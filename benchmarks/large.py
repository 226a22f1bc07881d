"""One transaction of very many rows, and what others notice of it: another table is written to all the while."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import psycopg

from benchmarks.bulk import INSERT
from benchmarks.figures import headline, show
from benchmarks.stage import BridgeProcess, Subject, attach_durably, running_bridge, set_up
from benchmarks.subscriber import subscribed
from tests.support.cluster import Cluster

UPDATE = "UPDATE {} SET state = 'paid' WHERE id > 0"
OTHER = "CREATE TABLE other (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sent_ns bigint NOT NULL)"
TELL_OTHER = "INSERT INTO other (sent_ns) VALUES (%s)"
PAUSE_S = 0.02
QUIET_S = 5
SETTLE_S = 3


@dataclass(slots=True)
class Memory:
    """Of the bridge: at first, and at most."""

    bridge: BridgeProcess
    first: int | None = None
    most: int = 0
    _looked_s: float = field(default=float("-inf"))

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked_s > 0.05:
            self._looked_s = now
            found = self.bridge.memory_bytes()
            self.first = found if self.first is None else self.first
            self.most = max(self.most, found or 0)

    @property
    def growth(self) -> str:
        return "not known here" if self.first is None else f"{(self.most - self.first) / 1e6:,.0f} MB"


def run(cluster: Cluster, rows: int) -> None:
    headline(f"One UPDATE of {rows:,} rows")
    dsn = set_up(cluster, "large")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(OTHER)
        attach_durably(connection, "other")
        connection.execute(INSERT.format(Subject.ATTACHED, rows))
        connection.execute(INSERT.format(Subject.UNTOUCHED, rows))
        began = time.monotonic()
        connection.execute(UPDATE.format(Subject.UNTOUCHED))
        show("the statement on an untouched table", f"{time.monotonic() - began:.1f} s")
        with running_bridge(dsn) as bridge:
            tell(connection, bridge, dsn, rows)


def tell(connection: psycopg.Connection, bridge: BridgeProcess, dsn: str, rows: int) -> None:
    with (
        subscribed(bridge.url, Subject.ATTACHED) as client,
        subscribed(bridge.url, "other", with_delays=True) as other,
        Teller(dsn),
    ):
        time.sleep(SETTLE_S)
        other.take_longest_ms()
        time.sleep(QUIET_S)
        quiet_ms = other.take_longest_ms()
        memory = Memory(bridge)
        memory.look()
        began = time.monotonic()
        connection.execute(UPDATE.format(Subject.ATTACHED))
        committed = time.monotonic()
        statement_ms = other.take_longest_ms()
        client.wait_for(rows, memory.look)
        told = time.monotonic()
        telling_ms = other.take_longest_ms()
    show("the statement on the attached table", f"{committed - began:.1f} s")
    per_s = f"{rows / (told - committed):,.0f} rows a second"
    show("from then on until all of it was at a client", f"{told - committed:.1f} s", note=per_s)
    show("the bridge's memory grew meanwhile by at most", memory.growth)
    show(f"an event of another table took at most: {QUIET_S} s before", f"{quiet_ms:,.0f} ms")
    show("  while the statement ran", f"{statement_ms:,.0f} ms")
    show("  from then on until all was told", f"{telling_ms:,.0f} ms")


class Teller:
    """Writes to the other table, a row every few milliseconds."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _write(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stopping.wait(PAUSE_S):
                connection.execute(TELL_OTHER, [time.monotonic_ns()])
