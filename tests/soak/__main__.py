"""`make soak MINUTES=60`: mixed load on one bridge, then what was lost and what has grown."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.soak.soak import GROWTH_MAX, Samples, Soak
from tests.support.server import own_cluster, server_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    chosen = parser.parse_args()
    with own_cluster() as cluster:
        cluster.start()
        report = asyncio.run(Soak(server_of(cluster).create_database(), chosen.minutes * 60).run())
    print("\n".join(report.lines()))
    grown = max(map(Samples.growth, (report.samples.memory, report.samples.files)))
    return 1 if report.problems or grown > GROWTH_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
