"""A deployment of two bridges behind HAProxy: both are restarted in turn, while rows are written.

    python -m benchmarks.rolling
    python -m benchmarks.rolling --clients 100 --drain-s 2

HAProxy (Debian's package `haproxy`) has to be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import psycopg

from benchmarks.figures import headline, show
from benchmarks.stage import attach_durably, server
from tests.support.rolling import TABLE, Outcome, deploy
from tests.support.server import Database, Server

ROWS_PER_S = 5.0


def run(database: Database, clients: int, drain_s: float) -> Outcome:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(TABLE)
        attach_durably(connection, "t")
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(deploy(database, Path(directory), clients=clients, drain_s=drain_s, rows_per_s=ROWS_PER_S))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rolling", description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--drain-s", type=float, default=5)
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    headline(
        f"{options.clients:,} clients with cursors; both bridges restarted in turn, each drained over"
        f" {options.drain_s:g} s"
    )
    with server(options.pg_bin) as cluster:
        outcome = run(Database(Server(cluster.dsn(), ""), "postgres"), options.clients, options.drain_s)
    show("rows written meanwhile, each for every client", f"{outcome.rows:,}", note=f"in {outcome.took_s:.0f} s")
    show("lost", f"{outcome.lost}", target="0")
    show("sent twice", f"{outcome.duplicates}", target="0")
    show("got fresh data instead", f"{outcome.fresh}", target="0")
    show("clients that were asked to come again", f"{outcome.closes:,}")
    show(
        "longest silence of a client", f"{outcome.silence_s:.2f} s", note=f"a row is written every {1 / ROWS_PER_S:g} s"
    )


if __name__ == "__main__":
    main()
