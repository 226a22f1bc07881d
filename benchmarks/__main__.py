"""Measure what the bridge costs and how fast it is: all parts or some, one table, a JSON file and plots.

    make bench                                   # all parts
    make bench ARGS="--quick"                    # whether it works, in about a minute
    make bench ARGS="writers bulk --rounds 3"    # some parts
    make bench ARGS="--write-docs"               # all parts, into docs/performance.md
    make bench ARGS="--from build/bench.json --write-docs"    # from an earlier run

Nothing is asserted. The server flushes its WAL, as servers do. Run it on a machine on which nothing else happens.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg

from benchmarks import fanout, large, latency, stage, writers
from benchmarks.figures import Figure, Histogram, text_table
from benchmarks.report import Machine, Report, write_page, write_plots
from tests.support.cluster import Cluster

Part = Callable[[Cluster, stage.Effort], Iterator[Figure | Histogram]]

PARTS: dict[str, Part] = {
    "writers": writers.run,
    "widths": writers.run_widths,
    "bulk": writers.run_bulk,
    "latency": latency.run,
    "sockets": fanout.run_sockets,
    "subscriptions": fanout.run_subscriptions,
    "statements": fanout.run_statements,
    "connections": fanout.run_connections,
    "large": large.run,
}
PAGE = Path("docs/performance.md")


def main() -> None:
    options = _options()
    if options.source:
        report = msgspec.json.decode(options.source.read_bytes(), type=Report)
    else:
        report = measure(options)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    print(f"\n{report.machine}\n\n{text_table(report.figures)}", flush=True)
    write_plots(report, options.plots)
    if report.failed:
        sys.exit(f"failed: {', '.join(report.failed)}")
    if options.page and {figure.part for figure in report.figures} != set(PARTS):
        sys.exit("the page is left as it is: it shows all parts")
    if options.page:
        write_page(report, options.page)


def measure(options: argparse.Namespace) -> Report:
    effort = stage.QUICK if options.quick else stage.Effort()
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began_s, load = time.monotonic(), round(os.getloadavg()[0], 2)
    found: list[Figure | Histogram] = []
    failed: list[str] = []
    with stage.server(options.pg_bin) as cluster:
        with psycopg.connect(cluster.dsn()) as connection:
            machine = Machine.here(connection.info.parameter_status("server_version") or "")
        for name in options.parts or PARTS:
            part_began_s = time.monotonic()
            try:
                found += PARTS[name](cluster, effort)
            except Exception:  # the other parts are worth having
                traceback.print_exc()
                failed.append(name)
            print(f"{name}: {time.monotonic() - part_began_s:.0f} s", file=sys.stderr, flush=True)
    figures = [each for each in found if isinstance(each, Figure)]
    histograms = [each for each in found if isinstance(each, Histogram)]
    minutes = round((time.monotonic() - began_s) / 60, 1)
    return Report(machine, datetime.date.today(), minutes, effort.rounds, load, figures, histograms, failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without one, all of them")
    parser.add_argument("--quick", action="store_true", help="as little as possible, to see whether it works")
    parser.add_argument("--rounds", type=int, help=f"else {stage.Effort().rounds}")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where to write what was measured")
    parser.add_argument("--plots", type=Path, default=Path("build/bench"), help="the folder of the plots")
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing, take an earlier run's JSON")
    parser.add_argument("--write-docs", dest="page", type=Path, nargs="?", const=PAGE, help=f"else of {PAGE}")
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if options.page and (options.parts or options.quick):
        parser.error("the page shows all parts, measured in full")
    return options


if __name__ == "__main__":
    main()
