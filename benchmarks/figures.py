"""The figures that the parts of a benchmark measure, and their table: each beside its floor, with its goal.

Theory: what is compared runs by turns, round after round, so that whatever else the machine does falls on all alike.
The ratio of each round is taken first, then the median of the ratios; the least and the greatest of them are shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

Thing = TypeVar("Thing")

WIDTH = 66
HEAD = ("part", "what", "measured", "floor", "measured / floor", "goal", "is")


class Goal(msgspec.Struct, frozen=True):
    """A bound of a figure's ratio, or of its value if it has no floor or `of_value` is true."""

    sign: Literal["<=", ">="]
    bound: float
    of_value: bool = False

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.sign == "<=" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {number(self.bound)}"


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing measured, once a round, and its floor in the same rounds.

    `x` is its place on the plot of its part: as many of `x_unit`, or a word.
    """

    part: str
    name: str
    unit: str
    rounds: Sequence[float]
    floor: Sequence[float] = ()
    x: int | str | None = None
    x_unit: str = ""
    goal: Goal | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.rounds, self.floor, strict=bool(self.floor))
        return [ours / base if base else math.inf for ours, base in pairs]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.floor else None

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.goal.holds(self.value if self.ratio is None or self.goal.of_value else self.ratio)

    @property
    def title(self) -> str:
        match self.x:
            case None:
                return self.name
            case int():
                return f"{self.name}, {self.x:,} {self.x_unit.removesuffix('s') if self.x == 1 else self.x_unit}"
            case str():
                return f"{self.name}, {self.x}"

    def cells(self) -> tuple[str, ...]:
        """Return its row of the table."""
        unit = self.unit if self.goal and (self.goal.of_value or not self.floor) else ""
        return (
            self.part,
            self.title,
            f"{number(self.value)} {self.unit}".rstrip() + ("" if self.floor else _spread(self.rounds)),
            f"{number(statistics.median(self.floor))} {self.unit}" if self.floor else "",
            f"{number(self.ratio)}{_spread(self.ratios)}" if self.ratio is not None else "",
            f"{self.goal or ''} {unit}".strip(),
            {None: "", True: "reached", False: "missed"}[self.is_reached],
        )


class Histogram(msgspec.Struct, frozen=True):
    """How many samples were in each bin; `edges` are the lower edges of the bins, and the upper edge of the last."""

    part: str
    name: str
    unit: str
    edges: Sequence[float]
    counts: Sequence[int]


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(values: Sequence[float]) -> str:
    return f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""


def text_table(figures: Sequence[Figure]) -> str:
    rows = [HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths).rstrip(), *lines[1:]])


def markdown_table(figures: Sequence[Figure]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *(figure.cells() for figure in figures)]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in rows)


def in_turn(things: Sequence[Thing], round_number: int) -> list[Thing]:
    """Return things in an order that is reversed in every other round, so that none always comes first."""
    return list(things if round_number % 2 == 0 else reversed(things))


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


# --- for scripts that print each figure by itself ---


def show_ratio(title: str, ours: Sequence[float], base: Sequence[float], *, target: str = "", note: str = "") -> None:
    """Return the median of the rounds' ratios, and in brackets the smallest and the largest."""
    ratios = [one / other for one, other in zip(ours, base, strict=True)]
    show(title, f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})", target=target, note=note)


def show(title: str, value: str, *, target: str = "", note: str = "") -> None:
    words = [f"  {title:<{WIDTH}} {value:<18}", f"target {target}" if target else "", f"[{note}]" if note else ""]
    print("  ".join(word for word in words if word).rstrip(), flush=True)


def headline(text: str) -> None:
    print(f"\n{text}", flush=True)
