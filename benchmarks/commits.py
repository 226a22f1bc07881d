"""How many single-row INSERTs a second there are: the writers are pgbench's, with prepared statements, over TCP."""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import headline, in_turn, show, show_ratio
from benchmarks.stage import ATTACHED, Subject, running_bridge, set_up
from benchmarks.subscriber import Subscriber, subscribed
from cdc_bridge.demo.postgres import Cluster

INSERT = r"""
\set account random(1, 10000)
\set amount random(1, 100000)
INSERT INTO {} (account, note, amount, details)
VALUES (:account, 'what the customer had to say about it', :amount / 100.0, '{{"colour": "blue", "parts": [1, 2, 3]}}');
"""


@dataclass(slots=True)
class Writers:
    """So many at once. With a subscriber, a run is over when that was told of all: the next one starts in peace."""

    cluster: Cluster
    dsn: str
    seconds: int
    count: int
    subscriber: Subscriber | None = None
    late_s: list[float] = field(default_factory=list)

    def run(self, subject: Subject) -> float:
        """How many a second."""
        told = self.subscriber.rows if self.subscriber else 0
        commits, per_s = self._run_pgbench(subject)
        if self.subscriber and subject in ATTACHED:
            began = time.monotonic()
            self.subscriber.wait_for(told + commits)
            self.late_s.append(time.monotonic() - began)
        return per_s

    def _run_pgbench(self, subject: Subject) -> tuple[int, float]:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "insert.sql")
            script.write_text(INSERT.format(subject))
            how = [
                "-n",
                "-M",
                "prepared",
                "-c",
                str(self.count),
                "-j",
                str(min(2, self.count)),
                "-T",
                str(self.seconds),
            ]
            command = [str(self.cluster.bin_dir / "pgbench"), *how, "-f", str(script), self.dsn]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        commits = re.search(r"transactions actually processed: (\d+)", done.stdout)
        per_s = re.search(r"tps = ([\d.]+)", done.stdout)
        assert commits
        assert per_s
        return int(commits[1]), float(per_s[1])


def run(cluster: Cluster, rounds: int, seconds: int) -> None:
    headline(f"Single-row INSERTs a second, to untouched ones ({rounds} rounds of {seconds} s, medians)")
    dsn = set_up(cluster, "commits")
    compare("16 writers, no bridge", Writers(cluster, dsn, seconds, 16), rounds, target="at least 0.75")
    with running_bridge(dsn) as bridge, subscribed(bridge.url, *ATTACHED) as subscriber:
        for count, title, target in ((16, "16 writers", "at least 0.70"), (1, "1 writer", "at least 0.85")):
            writers = Writers(cluster, dsn, seconds, count, subscriber)
            told, cpu_s = subscriber.rows, bridge.cpu_s()
            compare(f"{title}, a bridge with a client", writers, rounds, target=target)
            cpu_us = (bridge.cpu_s() - cpu_s) / (subscriber.rows - told) * 1e6
            show("  the client had heard all after the end of a run, at the latest", f"{max(writers.late_s):.2f} s")
            show("  the bridge's processor time for each row", f"{cpu_us:.0f} us")


def compare(title: str, writers: Writers, rounds: int, *, target: str) -> None:
    found: dict[Subject, list[float]] = {subject: [] for subject in Subject}
    for number in range(rounds):
        for subject in in_turn(list(Subject), number):
            found[subject].append(writers.run(subject))
    base = found[Subject.UNTOUCHED]
    per_s = f"{statistics.median(found[Subject.ATTACHED]):,.0f} of {statistics.median(base):,.0f} a second"
    show_ratio(f"{title}: attached", found[Subject.ATTACHED], base, target=target, note=per_s)
    show_ratio("  with an interval column", found[Subject.LONG], base)
    show_ratio("  a naive trigger instead", found[Subject.NAIVE], base)
