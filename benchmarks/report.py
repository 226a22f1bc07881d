"""The figures of a run as JSON, as a table and as plots, and the page of the documentation that shows them."""

from __future__ import annotations

import datetime
import math
import os
import platform
import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.charts import Chart, Line, Point
from benchmarks.figures import Figure, Histogram, markdown_table

BEGIN, END = "<!-- figures: written by `make bench ARGS=--write-docs` -->", "<!-- end of figures -->"
X_TICKS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Machine(msgspec.Struct, frozen=True):
    """The machine that the figures come from."""

    processors: int
    processor: str
    memory_gb: float
    system: str
    python: str
    postgresql: str

    @classmethod
    def here(cls, postgresql: str) -> Machine:
        cpu = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
        memory = re.search(r"MemTotal:\s*(\d+)", _read("/proc/meminfo"))
        return cls(
            os.cpu_count() or 0,
            cpu[1] if cpu else platform.machine(),
            round(int(memory[1]) / 1e6, 1) if memory else 0,
            platform.system(),
            platform.python_version(),
            postgresql,
        )

    def __str__(self) -> str:
        return (
            f"{self.processors} processors ({self.processor}) for the server, the bridge and all clients, "
            f"{self.memory_gb:g} GB of memory, {self.system}, PostgreSQL {self.postgresql} with fsync on, "
            f"Python {self.python}"
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class Report(msgspec.Struct, frozen=True):
    machine: Machine
    day: datetime.date
    minutes: float
    rounds: int
    load: float
    """How many other processes wanted a processor in the minute before the run: they distort it."""

    figures: Sequence[Figure]
    histograms: Sequence[Histogram]
    failed: Sequence[str] = ()
    """Parts that have no figures, or not all of them."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Figures of one part and unit by their `x`: their ratios, or their values with the floor's beside them."""

    file: str
    part: str
    unit: str
    title: str
    x_title: str
    y_title: str
    of_ratios: bool = False
    has_log_y: bool = False

    def chart(self, figures: Sequence[Figure]) -> Chart | None:
        """None without figures."""
        mine = [each for each in figures if (each.part, each.unit) == (self.part, self.unit) and each.x and each.floor]
        if not mine:
            return None
        places = {x: float(number) for number, x in enumerate(dict.fromkeys(each.x for each in mine))}
        ticks = [(place, f"{x:,}" if isinstance(x, int) else str(x)) for x, place in places.items()]

        def line(name: str, values: Callable[[Figure], Sequence[float]], same: Sequence[Figure]) -> Line:
            points = [_point(places[each.x], values(each)) for each in same]
            return Line(name, points, "connected" if isinstance(same[0].x, int) else "apart")

        names = list(dict.fromkeys(each.name for each in mine))
        lines = []
        for name in names:
            same = [each for each in mine if each.name == name]
            if self.of_ratios:
                lines.append(line(name, lambda each: each.ratios, same))
            else:
                only = len(names) == 1
                lines.append(line("bridge" if only else name, lambda each: each.rounds, same))
                lines.append(line("floor" if only else f"{name}, floor", lambda each: each.floor, same))
        return Chart(self.title, self.x_title, self.y_title, ticks, lines, self.has_log_y)


def _point(x: float, values: Sequence[float]) -> Point:
    return x, statistics.median(values), min(values), max(values)


PLOTS = [
    Plot(
        "writers.svg",
        "writers",
        "rows/s",
        "What writers keep of their speed: single-row INSERTs",
        "writers at once",
        "rows a second / untouched table",
        of_ratios=True,
    ),
    Plot(
        "widths.svg",
        "widths",
        "rows/s",
        "What 16 writers keep of their speed, by the width of rows",
        "bytes of text in each row",
        "rows a second / untouched table",
        of_ratios=True,
    ),
    Plot(
        "bulk.svg",
        "bulk",
        "s",
        "How many times as long a statement of very many rows takes",
        "statement",
        "time / untouched table",
        of_ratios=True,
    ),
    Plot(
        "deliveries.svg",
        "sockets",
        "rows/s",
        "Deliveries of a burst of single-row commits",
        "sockets with equal subscriptions",
        "deliveries a second",
        has_log_y=True,
    ),
    Plot(
        "sockets.svg",
        "sockets",
        "us/delivery",
        "Processor time of a delivery",
        "sockets with equal subscriptions",
        "microseconds",
        has_log_y=True,
    ),
    Plot(
        "subscriptions.svg",
        "subscriptions",
        "us",
        "Processor time of a change that one subscription matches",
        "subscriptions, each with a filter of its own",
        "microseconds",
    ),
    Plot(
        "connections.svg",
        "connections",
        "MB",
        "Memory of the bridge's process",
        "connections with a subscription each",
        "RSS, MB",
    ),
]


def _latency_chart(histograms: Sequence[Histogram]) -> Chart:
    lines = []
    for histogram in histograms:
        share = 100 / sum(histogram.counts)
        heights = [count * share for count in (*histogram.counts, 0)]
        points = [(math.log10(edge), 0.0) for edge in histogram.edges[:1]]
        points += [(math.log10(edge), height) for edge, height in zip(histogram.edges, heights, strict=True)]
        lines.append(Line(histogram.name, [(x, y, y, y) for x, y in points], "histogram"))
    least = min(histogram.edges[0] for histogram in histograms)
    greatest = max(histogram.edges[-1] for histogram in histograms)
    ticks = [(math.log10(ms), f"{ms:g}") for ms in X_TICKS_MS if least <= ms <= greatest]
    return Chart("From COMMIT to the client", "milliseconds", "% of the commits", ticks, lines)


def charts(report: Report) -> Iterator[tuple[str, Chart]]:
    """Return each chart with the name of its file."""
    for plot in PLOTS:
        if chart := plot.chart(report.figures):
            yield plot.file, chart
    if report.histograms:
        yield "latency.svg", _latency_chart(report.histograms)


def write_plots(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts(report):
        (folder / name).write_text(chart.svg())


def write_page(report: Report, page: Path) -> None:
    """Put the table and the machine between the marks of the page, and the plots into the folder of its name."""
    write_plots(report, page.with_suffix(""))
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    told = (
        f"Measured on {report.day} in {report.minutes:.0f} minutes, {report.rounds} rounds, on {report.machine}. "
        f"The load average before it began was {report.load:.2f}."
    )
    page.write_text(f"{before}{BEGIN}\n\n{_wrap(told)}\n\n{markdown_table(report.figures)}\n\n{END}{after}")


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 118))
