"""How long statements take that change very many rows. No bridge runs: it reads when they have committed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import psycopg

from benchmarks.figures import headline, in_turn, show_ratio
from benchmarks.stage import Subject, set_up
from tests.support.cluster import Cluster

INSERT = """
INSERT INTO {} (account, note, amount, details)
SELECT n % 10000, 'what customer number ' || n || ' had to say about it', n / 100.0,
    '{{"colour": "blue", "parts": [1, 2, 3]}}'
FROM generate_series(1, {}) AS n
"""
UPDATE = "UPDATE {} SET state = 'paid', updated_at = now()"
DELETE = "DELETE FROM {}"
TRUNCATE = "TRUNCATE {}"
COPY = "COPY {} (account, note, amount, details) FROM STDIN"
COPY_BLOCK_BYTES = 1024 * 1024


def run(cluster: Cluster, rounds: int, rows: int) -> None:
    headline(f"Time of one statement of {rows:,} rows, to that of an untouched table ({rounds} rounds, medians)")
    with psycopg.connect(set_up(cluster, "bulk"), autocommit=True) as connection:
        found = measure(connection, rounds, rows)
    for kind, target in (("INSERT", "1.6"), ("UPDATE", "2.0"), ("COPY", "1.5"), ("DELETE", "6")):
        base = found[kind][Subject.UNTOUCHED]
        ours = found[kind][Subject.ATTACHED]
        took = f"{statistics.median(ours):.2f} and {statistics.median(base):.2f} s"
        show_ratio(f"{kind}: attached", ours, base, target=f"at most {target}", note=took)
        show_ratio("  with an interval column", found[kind][Subject.LONG], base)
        show_ratio("  a naive trigger instead", found[kind][Subject.NAIVE], base)


def measure(connection: psycopg.Connection, rounds: int, rows: int) -> dict[str, dict[Subject, list[float]]]:
    """Each kind of statement on each table in turn; the tables begin as empty ones."""
    data = copied_rows(rows)
    kinds: dict[str, Callable[[Subject], float]] = {
        "INSERT": lambda subject: timed(lambda: connection.execute(INSERT.format(subject, rows))),
        "UPDATE": lambda subject: timed(lambda: connection.execute(UPDATE.format(subject))),
        "DELETE": lambda subject: timed(lambda: connection.execute(DELETE.format(subject))),
        "COPY": lambda subject: timed(partial(copy, connection, subject, data)),
    }
    found: dict[str, dict[Subject, list[float]]] = {kind: {subject: [] for subject in Subject} for kind in kinds}
    for number in range(rounds):
        for kind, run_one in kinds.items():
            if kind in ("INSERT", "COPY"):
                for subject in Subject:
                    connection.execute(TRUNCATE.format(subject))
            for subject in in_turn(list(Subject), number):
                found[kind][subject].append(run_one(subject))
    return found


def copy(connection: psycopg.Connection, subject: Subject, data: bytes) -> None:
    with connection.cursor() as cursor, cursor.copy(COPY.format(subject)) as into:
        for start in range(0, len(data), COPY_BLOCK_BYTES):
            into.write(data[start : start + COPY_BLOCK_BYTES])


def copied_rows(rows: int) -> bytes:
    """As COPY reads them."""
    line = '{}\twhat customer number {} had to say about it\t{:.2f}\t{{"colour": "blue", "parts": [1, 2, 3]}}\n'
    return "".join(line.format(n % 10000, n, n / 100) for n in range(1, rows + 1)).encode()


def timed(run_one: Callable[[], object]) -> float:
    began = time.perf_counter()
    run_one()
    return time.perf_counter() - began
