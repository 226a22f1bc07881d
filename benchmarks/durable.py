"""What durable mode costs writers, and how soon clients hear: `make bench`, or `python -m benchmarks.durable PART`.

Prints ratios from runs that alternate on one server, with the targets beside them; absolute figures are this
machine's. Nothing is asserted. The server flushes its WAL, as servers do.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import psycopg

from benchmarks import bulk, commits, large, latency, stage

PARTS = ("commits", "bulk", "latency", "large")


def main() -> None:
    options = _options()
    with stage.server(options.pg_bin) as cluster:
        with psycopg.connect(cluster.dsn()) as connection:
            version = connection.info.parameter_status("server_version")
        print(f"Durable mode: PostgreSQL {version}, fsync on, {os.cpu_count()} processors for the server and all of us")
        for part in options.parts or PARTS:
            match part:
                case "commits":
                    commits.run(cluster, options.rounds, options.seconds)
                case "bulk":
                    bulk.run(cluster, options.rounds, options.rows)
                case "latency":
                    latency.run(cluster, options.commits)
                case "large":
                    large.run(cluster, options.large_rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durable", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without one, all of them")
    parser.add_argument("--rounds", type=int, default=6, help="of commits and bulk")
    parser.add_argument("--seconds", type=int, default=3, help="of each run of commits")
    parser.add_argument("--rows", type=int, default=100_000, help="of a statement in bulk")
    parser.add_argument("--commits", type=int, default=500, help="of each kind in latency")
    parser.add_argument("--large-rows", type=int, default=1_000_000, help="of the transaction in large")
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    main()
