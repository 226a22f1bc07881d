"""The stage of the parts: a server that flushes as servers do, tables to compare, a bridge as a process.

Each part has a database of its own with four tables that differ in who watches them, see `Subject`.
"""

from __future__ import annotations

import contextlib
import enum
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

from cdc_bridge.admin import attach
from cdc_bridge.admin.mode import Mode
from tests.support.cluster import Cluster

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "512MB",
    # Nothing that comes in the midst of one run and not of another.
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
HERE = Path(__file__).parent
PUBLIC = "--insecure-public"
GATE_WITHIN_S = 60.0
IS_OPEN = "SELECT pg_sequence_last_value('cdc.gate'::regclass) & 1 = 1"
INSERT = """
INSERT INTO {} (account, note, amount, details)
VALUES (%s, 'what the customer had to say about it', 12.34, '{{"colour": "blue", "parts": [1, 2, 3]}}')
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much the parts do: `seconds` of one run of writers, `commits` in one round."""

    rounds: int = 5
    seconds: int = 2
    writers: tuple[int, ...] = (1, 4, 16, 64)
    text_bytes: tuple[int, ...] = (100, 1_000, 7_000)
    bulk_rows: int = 100_000
    large_rows: int = 1_000_000
    commits: int = 100
    sockets: tuple[int, ...] = (1, 10, 100, 1_000, 5_000)
    deliveries: int = 100_000
    subscriptions: tuple[int, ...] = (1, 100, 1_000, 10_000, 30_000)
    connections: tuple[int, ...] = (1_000, 2_000, 5_000)
    idle_s: float = 4.0


QUICK = Effort(1, 1, (1, 2), (100,), 1_000, 20_000, 20, (1, 10), 1_000, (1, 20), (10, 20), 0.5)
"""As little as possible, to see whether everything works. The figures mean little."""


class Subject(enum.StrEnum):
    """A table, by its name."""

    UNTOUCHED = "untouched"
    ATTACHED = "attached"
    LONG = "attached_long"
    """Attached too, with a column whose values depend on the session's settings: captured by the slower triggers."""
    NAIVE = "naive"
    """A row trigger that notifies each row as JSON."""


ATTACHED = (Subject.ATTACHED, Subject.LONG)


@contextlib.contextmanager
def server(bin_dir: Path | None) -> Iterator[Cluster]:
    with Cluster(bin_dir, settings=SETTINGS) as cluster:
        yield cluster


def set_up(cluster: Cluster, part: str) -> str:
    """Return the dsn of a new database with the tables."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(part)))
    with psycopg.connect(cluster.dsn(part), autocommit=True) as connection:
        for subject in Subject:
            more = ",\n    warranty interval DEFAULT '1 year'" if subject is Subject.LONG else ""
            connection.execute(_read("table.sql").replace("{table}", subject).replace("{more}", more).encode())
        connection.execute(_read("naive.sql").encode())
        attach_durably(connection, *ATTACHED)
    return cluster.dsn(part)


def attach_durably(connection: psycopg.Connection, *tables: str) -> None:
    attach.apply(connection, attach.plan(connection, attach.Request(tables, mode=Mode.DURABLE)))


def insert(connection: psycopg.Connection, subject: Subject, account: int) -> None:
    connection.execute(INSERT.format(subject), [account], prepare=True)
    connection.commit()


def wait_until_open(connection: psycopg.Connection) -> None:
    """Wait until the bridge has found that writers are few, and lets them notify."""
    deadline = time.monotonic() + GATE_WITHIN_S
    while connection.execute(IS_OPEN).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise RuntimeError("the bridge does not open the gate")
        time.sleep(0.1)
    connection.commit()
    time.sleep(2)  # it takes what comes inline once all older transactions have ended


def _read(name: str) -> str:
    return (HERE / name).read_text()


class BridgeProcess:
    """`cdc-bridge serve`, as an operator runs it. What it logs goes to `log`."""

    def __init__(self, dsn: str, log: IO[bytes], *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CDC_BRIDGE_", "PG"))}
        environment["CDC_BRIDGE_DRAIN_S"] = "0"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cdc_bridge", "serve", "--port", "0", "--dsn", dsn, *(arguments or (PUBLIC,))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip().removeprefix("listening on ")
        if not self.url:
            raise RuntimeError(f"the bridge does not start:\n{_end_of(log)}")

    def memory_bytes(self) -> int | None:
        """Return what it has in memory now, if the system tells."""
        return process_memory_bytes(self._process.pid)

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        return process_cpu_s(self._process.pid)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def running_bridge(dsn: str, *arguments: str) -> Iterator[BridgeProcess]:
    """`arguments` of serve; without any, everybody may read everything."""
    with tempfile.TemporaryFile() as log:
        bridge = BridgeProcess(dsn, log, *arguments)
        try:
            yield bridge
        except Exception:
            print(_end_of(log), file=sys.stderr)
            raise
        finally:
            bridge.stop()


def process_memory_bytes(pid: int) -> int | None:
    """Return what a process has in memory now, if the system tells."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None


def process_cpu_s(pid: int) -> float:
    """The processor time of a process, to the nanosecond unless a thread ends meanwhile; 0 where nothing tells."""
    with contextlib.suppress(OSError):
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _end_of(log: IO[bytes]) -> str:
    log.seek(0)
    return "\n".join(log.read().decode(errors="replace").splitlines()[-20:])
