"""A table that is written to at a steady rate, and a client in another process that notes how late each row came."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import SynchronizedArray
from urllib.parse import urlsplit

import psycopg
import uvloop

from benchmarks.figures import percentile, show
from benchmarks.swarm import CONTEXT, READY_WITHIN_S, Client, Shared, shared, subscribe, text_frame

KEYS = 50
TABLE = f"""
CREATE TABLE probe (id int PRIMARY KEY, sent_ns bigint NOT NULL, filler text NOT NULL);
INSERT INTO probe SELECT id, 0, '' FROM generate_series(0, {KEYS - 1}) AS id
"""
UPDATE = "UPDATE probe SET sent_ns = %s, filler = %s WHERE id = %s"
SENT = re.compile(rb'"sent_ns":"?(\d+)')
DELAYS_MAX = 1_000_000


class _Noting(Client):
    """Notes when the rows that it receives were written."""

    def __init__(self, request: bytes, counters: Shared, delays_ms: SynchronizedArray[float]) -> None:
        super().__init__(request, counters)
        self._delays_ms = delays_ms

    def _take(self, text: bytes) -> None:
        now_ns, count = time.monotonic_ns(), self._shared.rows.value
        super()._take(text)
        for number, sent_ns in enumerate(SENT.findall(text), count):
            self._delays_ms[number] = (now_ns - int(sent_ns)) / 1e6


def _main(url: str, counters: Shared, delays_ms: SynchronizedArray[float]) -> None:
    async def follow() -> None:
        address, request = urlsplit(url), text_frame(subscribe("probe").encode())
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: _Noting(request, counters, delays_ms), str(address.hostname), int(address.port or 80)
        )
        await client.ready
        counters.ready.set()
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(follow())


class Probe:
    """`written` rows so far; `received` by the client."""

    def __init__(self, dsn: str, url: str, per_s: float, row_bytes: int) -> None:
        self.written = 0
        self._dsn = dsn
        self._pause_s = 1 / per_s
        self._filler = "x" * row_bytes
        self._counters = shared()
        self._delays_ms: SynchronizedArray[float] = CONTEXT.Array("d", DELAYS_MAX, lock=False)
        self._taken = 0
        self._ends = threading.Event()
        self._writer = threading.Thread(target=self._write)
        self._client = CONTEXT.Process(target=_main, args=(url, self._counters, self._delays_ms), daemon=True)

    @property
    def received(self) -> int:
        return self._counters.rows.value

    def start(self) -> None:
        self._client.start()
        if not self._counters.ready.wait(READY_WITHIN_S):
            raise RuntimeError("the probe has no initial data")
        self._writer.start()

    def end(self) -> None:
        self._ends.set()
        self._writer.join()
        self._client.terminate()
        self._client.join()

    def take_ms(self) -> list[float]:
        """Return the delays of what was received since the last call."""
        begin, self._taken = self._taken, self.received
        return list(self._delays_ms[begin : self._taken])

    def wait_for_all(self, within_s: float) -> int:
        """Stop writing, and return how many of the rows written have not come in this time."""
        self._ends.set()
        self._writer.join()
        deadline_s = time.monotonic() + within_s
        while self.received < self.written and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return self.written - self.received

    def _write(self) -> None:
        due_s = time.monotonic()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._ends.wait(max(due_s - time.monotonic(), 0)):
                connection.execute(UPDATE, [time.monotonic_ns(), self._filler, self.written % KEYS])
                self.written += 1
                due_s = max(due_s + self._pause_s, time.monotonic() - 1)


@contextlib.contextmanager
def probing(dsn: str, url: str, *, per_s: float, row_bytes: int = 0) -> Iterator[Probe]:
    """`dsn` has the attached table `probe` (`TABLE`)."""
    probe = Probe(dsn, url, per_s, row_bytes)
    probe.start()
    try:
        yield probe
    finally:
        probe.end()


def show_delays(title: str, delays_ms: Sequence[float], before_ms: Sequence[float], *, target: str = "") -> None:
    """Print how much later than before rows came."""
    if len(delays_ms) < 2:
        show(title, "too few rows")
        return
    p50, p99 = (percentile(delays_ms, percent) / percentile(before_ms, percent) for percent in (50, 99))
    note = f"{percentile(delays_ms, 50):.1f}, {percentile(delays_ms, 99):.1f} and at most {max(delays_ms):.0f} ms"
    show(f"{title}: p50, p99 to before", f"{p50:.1f}, {p99:.1f}", target=target, note=note)
