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
from benchmarks.stage import ATTACHED, Subject, running_bridge, sessions_cpu_s, set_up
from benchmarks.subscriber import Subscriber, subscribed
from tests.support.cluster import Cluster

INSERT = r"""
\set account random(1, 10000)
\set amount random(1, 100000)
INSERT INTO {} (account, note, amount, details)
VALUES (:account, 'what the customer had to say about it', :amount / 100.0, '{{"colour": "blue", "parts": [1, 2, 3]}}');
"""


@dataclass(slots=True)
class Writers:
    """So many at once. With a subscriber, a run is over when that was told of all: the next one starts in peace.

    `cpu_us` is what sessions of the server that ended meanwhile took of the processors for each INSERT: the writers',
    and whatever came and went beside them. Others at work on the machine matter less for that.
    """

    cluster: Cluster
    dsn: str
    seconds: int
    count: int
    subscriber: Subscriber | None = None
    late_s: list[float] = field(default_factory=list)
    cpu_us: dict[Subject, list[float]] = field(default_factory=lambda: {subject: [] for subject in Subject})

    def run(self, subject: Subject) -> float:
        """How many a second."""
        told, cpu_s = self.subscriber.rows if self.subscriber else 0, sessions_cpu_s(self.cluster)
        commits, per_s = self._run_pgbench(subject)
        if self.subscriber and subject in ATTACHED:
            self.late_s.append(self._until_told(self.subscriber, told + commits))
        self.cpu_us[subject].append((sessions_cpu_s(self.cluster) - cpu_s) / commits * 1e6)
        return per_s

    def _until_told(self, subscriber: Subscriber, rows: int) -> float:
        """The seconds that are still needed."""
        began = time.monotonic()
        subscriber.wait_for(rows)
        return time.monotonic() - began

    def _run_pgbench(self, subject: Subject) -> tuple[int, float]:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "insert.sql")
            script.write_text(INSERT.format(subject))
            how = f"-n -M prepared -c {self.count} -j {min(2, self.count)} -T {self.seconds}".split()
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
    ours, others = writers.cpu_us[Subject.ATTACHED], writers.cpu_us[Subject.UNTOUCHED]
    each = f"{statistics.median(ours):.0f} and {statistics.median(others):.0f} us an INSERT"
    show_ratio("  processor time of sessions that ended", ours, others, note=each)
    show_ratio("  with an interval column", found[Subject.LONG], base)
    show_ratio("  a naive trigger instead", found[Subject.NAIVE], base)
