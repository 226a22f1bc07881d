"""Measure what capture costs writers: single rows by pgbench, and statements that change very many.

Single rows are written to four tables by turns: untouched, attached where no bridge is, attached beside a bridge whose
client follows the table, and, since everybody writes that first, with a trigger that notifies each row. The bridge's
table is in a database of its own; a run on it ends when the client has everything.
"""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from benchmarks.figures import Figure, Goal, in_turn
from benchmarks.stage import BridgeProcess, Effort, Subject, running_bridge, set_up
from benchmarks.swarm import Swarm, subscribe, swarm
from tests.support.cluster import Cluster

SINGLE = r"""
\set account random(1, 10000)
\set amount random(1, 100000)
INSERT INTO {} (account, note, amount, details)
VALUES (:account, '{}', :amount / 100.0, '{{"colour": "blue", "parts": [1, 2, 3]}}');
"""
NOTE = "what the customer had to say about it"
WIDE_WRITERS = 16
UNTOUCHED, ALONE, BESIDE, NAIVE = "untouched", "no bridge", "beside a bridge", "a trigger that notifies each row"
GOALS = {(ALONE, 16): Goal(">=", 0.75), (BESIDE, 16): Goal(">=", 0.70), (BESIDE, 1): Goal(">=", 0.75)}

BULK_INSERT = """
INSERT INTO {} (account, note, amount, details)
SELECT n % 10000, 'what customer number ' || n || ' had to say about it', n / 100.0,
    '{{"colour": "blue", "parts": [1, 2, 3]}}'
FROM generate_series(1, {}) AS n
"""
BULK_UPDATE = "UPDATE {} SET state = 'paid', updated_at = now()"
BULK_DELETE = "DELETE FROM {}"
TRUNCATE = "TRUNCATE {}"
COPY = "COPY {} (account, note, amount, details) FROM STDIN"
COPY_BLOCK_BYTES = 1024 * 1024
BULK_GOALS = {"INSERT": 1.7, "UPDATE": 1.9, "COPY": 1.7, "DELETE": 7}


def run_pgbench(cluster: Cluster, dsn: str, table: str, writers: int, *how: str, note: str = NOTE) -> tuple[int, float]:
    """How many rows were inserted, each in a transaction of its own, and how many a second."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "insert.sql")
        script.write_text(SINGLE.format(table, note))
        command = [str(cluster.bin_dir / "pgbench"), *f"-n -M prepared -c {writers} -j {min(2, writers)}".split()]
        done = subprocess.run([*command, *how, "-f", str(script), dsn], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    commits = re.search(r"transactions actually processed: (\d+)", done.stdout)
    per_s = re.search(r"tps = ([\d.]+)", done.stdout)
    assert commits
    assert per_s
    return int(commits[1]), float(per_s[1])


Rounds = list[tuple[float, float, float]]


@dataclass(slots=True)
class Writers:
    """Runs of writers on tables of two databases; `client` follows the one beside the bridge."""

    cluster: Cluster
    seconds: int
    alone: str
    beside: str
    bridge: BridgeProcess
    client: Swarm

    def compare(self, rounds: int, writers: int, note: str = NOTE) -> dict[str, Rounds]:
        tables = {
            UNTOUCHED: (self.alone, Subject.UNTOUCHED),
            ALONE: (self.alone, Subject.ATTACHED),
            BESIDE: (self.beside, Subject.ATTACHED),
            NAIVE: (self.alone, Subject.NAIVE),
        }
        found: dict[str, Rounds] = {name: [] for name in tables}
        for number in range(rounds):
            for name in in_turn(list(tables), number):
                found[name].append(self._run(*tables[name], writers, note))
        return found

    def _run(self, dsn: str, table: Subject, writers: int, note: str) -> tuple[float, float, float]:
        """Rows a second, milliseconds until the client has all, and microseconds of the bridge's processor for each."""
        received, began_s = self.client.rows, self.bridge.cpu_s()
        commits, per_s = run_pgbench(self.cluster, dsn, table, writers, "-T", str(self.seconds), note=note)
        if dsn == self.alone:
            return per_s, 0, 0
        ended_s = time.monotonic()
        self.client.wait_for(received + commits)
        return per_s, (time.monotonic() - ended_s) * 1e3, (self.bridge.cpu_s() - began_s) / commits * 1e6


@contextmanager
def _set_up(cluster: Cluster, effort: Effort, part: str) -> Iterator[Writers]:
    alone, beside = set_up(cluster, part), set_up(cluster, f"{part}_beside")
    with running_bridge(beside) as bridge, swarm(bridge.url, [subscribe(Subject.ATTACHED)]) as client:
        yield Writers(cluster, effort.seconds, alone, beside, bridge, client)


def run(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Single-row INSERTs by more and more writers."""
    with _set_up(cluster, effort, "writers") as writers:
        for count in effort.writers:
            found = writers.compare(effort.rounds, count)
            yield from _kept("writers", found, count, "writers")
            late_ms, cost_us = ([each[index] for each in found[BESIDE]] for index in (1, 2))
            yield Figure("writers", "a client has all, after the last commit", "ms", late_ms, (), count, "writers")
            goal = Goal("<=", 10) if count == 16 else None
            yield Figure("writers", "the bridge's CPU, a row", "us", cost_us, (), count, "writers", goal)


def run_widths(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """The same with rows of more and more text, which does not compress well."""
    with _set_up(cluster, effort, "widths") as writers:
        for size in effort.text_bytes:
            note = random.Random(size).randbytes(size // 2).hex()
            found = writers.compare(effort.rounds, WIDE_WRITERS, note)
            yield from _kept("widths", found, size, "bytes of text")


def _kept(part: str, found: dict[str, Rounds], x: int, unit: str) -> Iterator[Figure]:
    floor = [per_s for per_s, _, _ in found[UNTOUCHED]]
    for name in (ALONE, BESIDE, NAIVE):
        goal = GOALS.get((name, x)) if part == "writers" else None
        yield Figure(part, name, "rows/s", [per_s for per_s, _, _ in found[name]], floor, x, unit, goal)


def run_bulk(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Statements of very many rows. No bridge runs: it reads when they have committed."""
    subjects = [Subject.UNTOUCHED, Subject.ATTACHED, Subject.LONG, Subject.NAIVE]
    names = {
        Subject.ATTACHED: "attached",
        Subject.LONG: "with an interval column",
        Subject.NAIVE: NAIVE,
    }
    with psycopg.connect(set_up(cluster, "bulk"), autocommit=True) as connection:
        kinds = _bulk_kinds(connection, effort.bulk_rows)
        found: dict[tuple[str, Subject], list[float]] = {(kind, each): [] for each in subjects for kind in kinds}
        for number in range(effort.rounds):
            for kind, run_one in kinds.items():
                if kind in ("INSERT", "COPY"):
                    for subject in subjects:
                        connection.execute(TRUNCATE.format(subject))
                for subject in in_turn(subjects, number):
                    began_s = time.perf_counter()
                    run_one(subject)
                    found[kind, subject].append(time.perf_counter() - began_s)
    for subject, name in names.items():
        for kind, most in BULK_GOALS.items():
            goal = Goal("<=", most) if subject is Subject.ATTACHED else None
            yield Figure("bulk", name, "s", found[kind, subject], found[kind, Subject.UNTOUCHED], kind, goal=goal)


def _bulk_kinds(connection: psycopg.Connection, rows: int) -> dict[str, Callable[[Subject], object]]:
    line = '{}\twhat customer number {} had to say about it\t{:.2f}\t{{"colour": "blue", "parts": [1, 2, 3]}}\n'
    data = "".join(line.format(n % 10000, n, n / 100) for n in range(1, rows + 1)).encode()
    return {
        "INSERT": lambda subject: connection.execute(BULK_INSERT.format(subject, rows)),
        "UPDATE": lambda subject: connection.execute(BULK_UPDATE.format(subject)),
        "DELETE": lambda subject: connection.execute(BULK_DELETE.format(subject)),
        "COPY": partial(_copy, connection, data),
    }


def _copy(connection: psycopg.Connection, data: bytes, subject: Subject) -> None:
    with connection.cursor() as cursor, cursor.copy(COPY.format(subject)) as into:
        for start in range(0, len(data), COPY_BLOCK_BYTES):
            into.write(data[start : start + COPY_BLOCK_BYTES])
