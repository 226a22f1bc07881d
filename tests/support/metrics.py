"""Reads a bridge's metrics as Prometheus does."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

WITHIN_S = 15.0


class Scrape:
    """All samples of one answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, /, **labels: str) -> float:
        """Raises `KeyError` for a sample that is not there."""
        return self._samples[name, frozenset(labels.items())]

    def sum(self, name: str, /, **labels: str) -> float:
        """The sum of all samples with these labels, among others."""
        return sum(
            value
            for (each, found), value in self._samples.items()
            if each == name and labels.items() <= dict(found).items()
        )

    @property
    def labels(self) -> Mapping[str, set[str]]:
        """All values of each label."""
        found: dict[str, set[str]] = {}
        for _, labels in self._samples:
            for name, value in labels:
                found.setdefault(name, set()).add(value)
        return found


def get(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def scrape(http: str) -> Scrape:
    status, text = await asyncio.to_thread(get, f"{http}/metrics")
    assert status == 200, (status, text)
    return Scrape(text)


async def scrape_until(http: str, holds: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until this holds. Nothing but asking tells."""
    async with asyncio.timeout(WITHIN_S):
        while not holds(found := await scrape(http)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found
