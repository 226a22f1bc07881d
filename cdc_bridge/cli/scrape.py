"""Compare the metrics of a bridge between two looks at them. `docs/metrics.md` explains each."""

import http.client
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

TIMEOUT_S = 3
SLOW = "1013"
"""The close code of clients that are too slow."""

Labels: TypeAlias = tuple[str, ...]
"""The values of the labels, in the order of their names."""

Values: TypeAlias = Mapping[str, Mapping[Labels, float]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One look at a bridge. `problem`: why there are no metrics. `state` is what `/readyz?verbose` says."""

    url: str
    at_s: float
    values: Values = field(default_factory=dict)
    problem: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)

    def total(self, name: str) -> float:
        return sum(self.values.get(name, {}).values())


class _LateTopic(msgspec.Struct):
    collection: str
    subscribers: int
    late: int
    waiting_bytes: int
    oldest_age_s: float | None


class _State(msgspec.Struct):
    """The members of `/readyz?verbose` that are shown. Each can be missing: not only a bridge may answer."""

    ready: bool | None = None
    reasons: list[str] = []
    late_topics: list[_LateTopic] = []


def fetch(url: str) -> str:
    """Return what a bridge answers, asked without a proxy. Raises `OSError`, `urllib.error.HTTPError` among them, and
    `ValueError`.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            return str(response.read().decode())
    except http.client.HTTPException as error:
        raise ValueError(f"no address, or no HTTP is spoken there ({type(error).__name__})") from error


def scrape(url: str) -> Scrape:
    """Ask the bridge at this address for its metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    at_s = time.monotonic()
    values: dict[str, dict[Labels, float]] = {}
    try:
        text = fetch(f"{url.rstrip('/')}/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple([value for _, value in sorted(sample.labels.items())])
                values.setdefault(sample.name, {})[labels] = sample.value
    except (OSError, ValueError) as error:
        return Scrape(url, at_s, problem=f"no metrics: {getattr(error, 'reason', None) or error}")
    return Scrape(url, at_s, values, state=_state(url))


def _state(url: str) -> Mapping[str, Any]:
    """Return what a bridge says of its readiness; nothing where it says nothing that can be read."""
    with suppress(OSError, ValueError, msgspec.DecodeError, RecursionError):
        try:
            text: str | bytes = fetch(f"{url.rstrip('/')}/readyz?verbose")
        except urllib.error.HTTPError as error:
            text = error.read()
        found: Mapping[str, Any] = msgspec.to_builtins(msgspec.json.decode(text, type=_State))
        return found
    return {}


def summary(before: Scrape, after: Scrape) -> dict[str, Any]:
    """Return what happened between two looks, and how the bridge is now, as `top --json` prints it."""
    if before.problem or after.problem:
        return {"url": after.url, "problem": after.problem or before.problem}
    interval_s = max(after.at_s - before.at_s, 1e-3)

    def gained(name: str) -> float:
        return max(0.0, after.total(name) - before.total(name))  # it can have been started again

    def rate(name: str) -> float:
        return gained(name) / interval_s

    return {
        "url": after.url,
        "problem": None,
        "ready": after.state.get("ready"),
        "reasons": after.state.get("reasons", []),
        "late_topics": after.state.get("late_topics", []),
        "changes_per_s": rate("cdc_changes_total"),
        "deliveries_per_s": rate("cdc_deliveries_total"),
        "sent_bytes_per_s": rate("cdc_sent_bytes_total"),
        "closes_per_s": rate("cdc_closes_total"),
        "connections": after.total("cdc_connections"),
        "subscriptions": after.total("cdc_subscriptions"),
        "topics": after.total("cdc_topics"),
        "backlog_bytes": after.total("cdc_backlog_bytes"),
        "oldest_undelivered_s": after.total("cdc_oldest_undelivered_age_seconds"),
        "new_gaps": gained("cdc_gaps_total"),
        "new_resyncs": gained("cdc_resyncs_total"),
        "lag": [{"cause": cause, **times} for (cause,), times in _times(before, after, "cdc_lag_seconds")],
        "round_trip": next((times for _, times in _times(before, after, "cdc_client_round_trip_seconds")), None),
        "closed_as_slow": max(0.0, _slow(after) - _slow(before)),
        "policies": sorted(_policies(before, after, interval_s), key=lambda each: -each["busy"]),
    }


def _slow(scraped: Scrape) -> float:
    """Return how many connections were closed because too much waited for them."""
    return sum(count for labels, count in scraped.values.get("cdc_closes_total", {}).items() if SLOW in labels)


def _policies(before: Scrape, after: Scrape, interval_s: float) -> Iterator[dict[str, Any]]:
    """Yield the policies that were evaluated. `busy` is the part of the time that PostgreSQL took for them."""
    name = "cdc_policy_evaluation_seconds"
    for labels, took_s in after.values.get(f"{name}_sum", {}).items():
        spent_s = took_s - before.values.get(f"{name}_sum", {}).get(labels, 0)
        if spent_s > 0:
            collection, policy = labels
            yield {"collection": collection, "policy": policy, "busy": spent_s / interval_s}


def _times(before: Scrape, after: Scrape, name: str) -> Iterator[tuple[Labels, dict[str, float | None]]]:
    """Yield how long things of a histogram took: its labels, and what half and 99 % took at most."""
    name = f"{name}_bucket"
    gained: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in after.values.get(name, {}).items():
        earlier = before.values.get(name, {}).get(labels, 0)
        gained.setdefault(labels[:-1], []).append((float(labels[-1]), count - earlier))
    for labels, unsorted in gained.items():
        counts = sorted(unsorted)
        if counts[-1][1] > 0:
            yield labels, {"p50_s": _quantile(counts, 0.5), "p99_s": _quantile(counts, 0.99)}


def _quantile(counts: list[tuple[float, float]], share: float) -> float | None:
    """Return the bound below which this share is; None above the largest one."""
    bound = next(bound for bound, count in counts if count >= share * counts[-1][1])
    return None if math.isinf(bound) else bound
