"""Bytes of WAL that a write makes, beside those of logical replication: `python -m benchmarks.wal`.

Bytes do not depend on how busy the machine is. Images of whole pages are off: how many there are depends on the time
between checkpoints. Each statement is a transaction.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.stage import attach_durably
from tests.support.cluster import Cluster

ROWS = 5_000
SETTINGS = {"full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off", "checkpoint_timeout": "1h"}
TABLE = (Path(__file__).parent / "table.sql").read_text().format(table="t", more="")
SLOT = "SELECT pg_create_logical_replication_slot('s', 'pgoutput')"
STATEMENTS = {
    "INSERT": "INSERT INTO t (account, note, amount, details)"
    " SELECT n, 'a note of some length, as people write them', n, '{\"a\": 1}'"
    " FROM generate_series(%s::int, %s::int) n",
    "UPDATE": "UPDATE t SET state = 'shut', updated_at = now() WHERE id BETWEEN %s AND %s",
    "DELETE": "DELETE FROM t WHERE id BETWEEN %s AND %s",
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to capture changes: a `wal_level`, and what is done with the table."""

    title: str
    wal_level: str
    is_attached: bool = False
    preparation: str = ""


WAYS = (
    Way("untouched", "replica"),
    Way("attached", "replica", is_attached=True),
    Way("logical replication", "logical", preparation=SLOT),
    Way("logical replication, old rows too", "logical", preparation=f"{SLOT}; ALTER TABLE t REPLICA IDENTITY FULL"),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for rows in (1, 1_000):
        print(f"bytes of WAL for each row, in statements of {rows:,}")
        for way in WAYS:
            figures = "".join(f"{title} {size_bytes:>5.0f}   " for title, size_bytes in measure(way, rows))
            print(f"  {way.title:35}{figures}", flush=True)


def measure(way: Way, rows: int) -> Iterator[tuple[str, float]]:
    """Yield the bytes of WAL that each kind of statement makes, for one of its rows."""
    with (
        Cluster(settings=SETTINGS | {"wal_level": way.wal_level}) as cluster,
        psycopg.connect(cluster.dsn(), autocommit=True) as connection,
    ):
        connection.execute(TABLE.encode())
        if way.is_attached:
            attach_durably(connection, "t")
        elif way.preparation:
            connection.execute(way.preparation.encode())
        for title, statement in STATEMENTS.items():
            before = position(connection)
            for first in range(1, ROWS + 1, rows):
                connection.execute(statement.encode(), [first, first + rows - 1])
            yield title, (position(connection) - before) / ROWS


def position(connection: psycopg.Connection) -> int:
    """Return how many bytes of WAL there are."""
    [(found,)] = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchall()
    return int(found)


if __name__ == "__main__":
    main()
