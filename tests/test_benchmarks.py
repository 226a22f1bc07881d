"""`make bench` in its quickest form. What it measures is not looked at."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from benchmarks.__main__ import PAGE, PARTS
from benchmarks.charts import Chart, Line
from benchmarks.figures import Figure, Goal
from benchmarks.report import PLOTS, Report

ROOT = Path(__file__).parent.parent


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.once
@pytest.mark.database
@pytest.mark.timeout(900)
def test_each_part_has_rows_in_the_table_and_plots_are_drawn(tmp_path: Path) -> None:
    """All parts run; an earlier run's JSON gives the same table, and the page gets it with its plots."""
    page = tmp_path / "performance.md"
    shutil.copy(ROOT / PAGE, page)
    to_json, plots = tmp_path / "made" / "bench.json", tmp_path / "plots"
    table = bench("--quick", "--json", str(to_json), "--plots", str(plots))
    report = msgspec.json.decode(to_json.read_bytes(), type=Report)
    assert {figure.part for figure in report.figures} == set(PARTS)
    assert all(figure.title in table for figure in report.figures)
    files = {*(plot.file for plot in PLOTS), "latency.svg"}
    for name in files:
        assert ET.parse(plots / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert bench("--from", str(to_json), "--plots", str(plots), "--write-docs", str(page)) == table
    text = page.read_text()
    assert all(f"| {figure.part} | {figure.title} |" in text for figure in report.figures)
    assert {Path(link).name for link in re.findall(r"\]\((performance/[^)]+)\)", text)} == files
    assert all((tmp_path / "performance" / name).exists() for name in files)


def test_goal_bounds_the_ratio_where_there_is_a_floor() -> None:
    """And the value where there is none, or where the goal says so."""
    with_floor = Figure("p", "n", "us", [4, 9, 6], [2, 3, 3], goal=Goal("<=", 2))
    assert (with_floor.ratio, with_floor.is_reached) == (2, True)
    of_value = Figure("p", "n", "us", [4, 9, 6], [2, 3, 3], goal=Goal("<=", 5, of_value=True))
    assert (of_value.value, of_value.is_reached) == (6, False)
    assert Figure("p", "n", "us", [4, 9, 6], goal=Goal(">=", 6)).is_reached is True
    assert Figure("p", "n", "us", [4, 9, 6]).is_reached is None
    assert Figure("p", "n", "us", [1], [0], goal=Goal("<=", 2)).is_reached is False


def test_part_that_was_not_measured_has_no_plot() -> None:
    assert [plot for plot in PLOTS if plot.chart([Figure("other", "n", "us", [1], [1], x=1)])] == []


@pytest.mark.parametrize("has_log_y", [False, True])
def test_chart_of_a_single_point_is_well_formed(has_log_y: bool) -> None:
    line = Line("a < b & c", [(0, 5, 4, 6)])
    drawn = ET.fromstring(Chart("title", "x", "y", [(0, "1")], [line], has_log_y).svg())
    assert "a < b & c" in [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
