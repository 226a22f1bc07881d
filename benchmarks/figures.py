"""How runs are compared, and how a figure is printed: with the target beside it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")

WIDTH = 66


def in_turn(things: Sequence[Thing], round_number: int) -> list[Thing]:
    """In an order that turns round from round to round, so that none always comes first."""
    return list(things if round_number % 2 == 0 else reversed(things))


def show_ratio(title: str, ours: Sequence[float], base: Sequence[float], *, target: str = "", note: str = "") -> None:
    """The median of the rounds' ratios, and in brackets the smallest and the largest."""
    ratios = [one / other for one, other in zip(ours, base, strict=True)]
    show(title, f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})", target=target, note=note)


def show(title: str, value: str, *, target: str = "", note: str = "") -> None:
    words = [f"  {title:<{WIDTH}} {value:<18}", f"target {target}" if target else "", f"[{note}]" if note else ""]
    print("  ".join(word for word in words if word).rstrip(), flush=True)


def headline(text: str) -> None:
    print(f"\n{text}", flush=True)


def percentile(values: Sequence[float], percent: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(percent * 10) - 1]
