"""Plots as SVG: lines with their spread over ordered places, or histograms. Readable on light and on dark pages.

Style sheets inside the picture follow the reader's colour scheme. Lines differ by marker as well as by colour.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.figures import number

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 84, 62
ASIDE = 8
"""Between the lines of one place, so that they do not hide each other's spread."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.paper { fill: #ffffff } .grid { stroke: #d1d9e0 }
.s0 { stroke: #0969da; fill: #0969da } .s1 { stroke: #bc4c00; fill: #bc4c00 }
.s2 { stroke: #1a7f37; fill: #1a7f37 } .s3 { stroke: #8250df; fill: #8250df }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.paper { fill: #0d1117 } .grid { stroke: #3d444d }
.s0 { stroke: #58a6ff; fill: #58a6ff } .s1 { stroke: #f0883e; fill: #f0883e }
.s2 { stroke: #3fb950; fill: #3fb950 } .s3 { stroke: #bc8cff; fill: #bc8cff }
}
.line { fill: none; stroke-width: 2 }
"""

Point = tuple[float, float, float, float]
"""x, y, and the least and greatest y."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points with their spread, connected or not; or a histogram, each point of which is where a bin begins."""

    name: str
    points: Sequence[Point]
    style: Literal["connected", "apart", "histogram"] = "connected"


@dataclass(frozen=True, slots=True)
class Chart:
    """`x_ticks` are places on the x axis with their labels. A logarithmic y axis has a line at each power of ten."""

    title: str
    x_title: str
    y_title: str
    x_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    has_log_y: bool = False

    def svg(self) -> str:
        root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
        ET.SubElement(root, "title").text = self.title
        ET.SubElement(root, "style").text = STYLE
        ET.SubElement(root, "rect", {"class": "paper", "width": "100%", "height": "100%"})
        _text(root, LEFT, 26, self.title, css="title")
        self._draw_axes(root)
        at = float(LEFT)
        for index, line in enumerate(self.lines):
            self._draw_line(root, line, index)
            _marker(root, at + 6, 48, index)
            _text(root, at + 18, 52, line.name)
            at += 38 + 6.4 * len(line.name)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode") + "\n"

    def _draw_axes(self, root: ET.Element) -> None:
        for value in self._y_ticks():
            y = self._y(value)
            _line(root, (LEFT, y), (WIDTH - RIGHT, y), "grid")
            _text(root, LEFT - 8, y + 4, number(value), anchor="end")
        for place, label in self.x_ticks:
            _text(root, self._x(place), HEIGHT - BOTTOM + 20, label, anchor="middle")
        _text(root, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, self.x_title, anchor="middle")
        middle = (TOP + HEIGHT - BOTTOM) / 2
        _text(root, 20, middle, self.y_title, anchor="middle", transform=f"rotate(-90 20 {middle:g})")

    def _draw_line(self, root: ET.Element, line: Line, index: int) -> None:
        aside = 0.0 if line.style == "histogram" else (index - (len(self.lines) - 1) / 2) * ASIDE
        places: list[tuple[float, float]] = []
        for x, y, least, greatest in line.points:
            at = self._x(x) + aside
            if line.style == "histogram":
                places += [(at, places[-1][1])] if places else []
            else:
                _line(root, (at, self._y(least)), (at, self._y(greatest)), f"line s{index}")
                _marker(root, at, self._y(y), index)
            places.append((at, self._y(y)))
        if line.style != "apart":
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            ET.SubElement(root, "polyline", {"class": f"line s{index}", "points": points})

    def _x(self, x: float) -> float:
        places = [place for place, _ in self.x_ticks] + [point[0] for line in self.lines for point in line.points]
        least, greatest = min(places), max(places)
        edge = 0 if self.lines[0].style == "histogram" else 40
        share = (x - least) / (greatest - least) if greatest > least else 0.5
        return LEFT + edge + share * (WIDTH - LEFT - RIGHT - 2 * edge)

    def _y(self, value: float) -> float:
        ticks = self._y_ticks()
        first, last = ticks[0], ticks[-1]
        share = math.log(value / first) / math.log(last / first) if self.has_log_y else value / last
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def _y_ticks(self) -> list[float]:
        values = [value for line in self.lines for _, *measured in line.points for value in measured]
        least, greatest = min(values), max(values) or 1.0
        if self.has_log_y:
            first, last = math.floor(math.log10(least)), math.ceil(math.log10(greatest))
            return [10.0**power for power in range(first, max(last, first + 1) + 1)]
        step = 10.0 ** math.floor(math.log10(greatest))
        step = next(step / part for part in (5, 2, 1, 0.5) if greatest / (step / part) <= 6)
        return [step * index for index in range(math.ceil(greatest / step) + 1)]


def _text(
    root: ET.Element, x: float, y: float, text: str, *, css: str = "", anchor: str = "", transform: str = ""
) -> None:
    attributes = {"class": css, "text-anchor": anchor, "transform": transform}
    places = {"x": f"{x:.1f}", "y": f"{y:.1f}"}
    ET.SubElement(root, "text", places | {key: value for key, value in attributes.items() if value}).text = text


def _line(root: ET.Element, begin: tuple[float, float], end: tuple[float, float], css: str) -> None:
    places = zip(("x1", "y1", "x2", "y2"), (*begin, *end), strict=True)
    ET.SubElement(root, "line", {"class": css} | {name: f"{place:.1f}" for name, place in places})


def _marker(root: ET.Element, x: float, y: float, index: int) -> None:
    """A disc, a square, a diamond or a triangle."""
    shapes = [
        "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        "M-4 -4h8v8h-8z",
        "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        "M0 -5l5 9h-10z",
    ]
    ET.SubElement(root, "path", {"class": f"s{index}", "d": shapes[index], "transform": f"translate({x:.1f} {y:.1f})"})
