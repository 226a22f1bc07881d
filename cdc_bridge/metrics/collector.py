"""Shows what the parts of a bridge have counted, as Prometheus reads it.

Rule: parts keep plain numbers, and know nothing of Prometheus. They are read here, when somebody asks. No label has a
value that a client can choose, and nothing here shows rows, values or tokens.

Theory: what happens for every row or frame must not look up a metric by its labels. So a part adds to an integer or a
dictionary of its own. Times are taken for a batch, a read or a question, or one frame in some (`server/traffic.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

from cdc_bridge.access.authenticator import Authenticator
from cdc_bridge.admin.maintenance import LogMaintenance
from cdc_bridge.capture.change_stream import ChangeStream
from cdc_bridge.capture.gate import GateState
from cdc_bridge.engine.broker import Broker
from cdc_bridge.engine.scheduler import Cause
from cdc_bridge.engine.shares import Kind
from cdc_bridge.engine.topic import Topic
from cdc_bridge.histogram import BOUNDS_S, Histogram
from cdc_bridge.metrics.canary import Canary
from cdc_bridge.metrics.names import AUTHENTICATION_REASONS, CURSOR_OUTCOMES, METRICS, OTHER_REASON, UNDELIVERED_REASONS
from cdc_bridge.model.change import GapCause
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.server.websocket_server import WebSocketServer

if TYPE_CHECKING:
    from prometheus_client import Metric

Sample: TypeAlias = tuple[str, tuple[str, ...], float | Histogram]
"""The name of a metric, the values of its labels, and its value."""


@dataclass(frozen=True, slots=True, eq=False)
class Collector:
    """See the module's docstring. `policies` has times by the names of a collection and a policy of it."""

    broker: Broker
    stream: ChangeStream
    server: WebSocketServer
    maintenance: LogMaintenance
    authenticator: Authenticator
    not_ready: Callable[[], Sequence[object]]
    policies: Mapping[tuple[str, str], Histogram]
    canary: Canary
    _first_seen_us: dict[tuple[Topic, int], int] = field(default_factory=dict)
    """When a position at which a topic waits was first seen, for entries of which it is not known when they came."""

    def collect(self) -> Iterator[Metric]:
        """Implement prometheus_client's collector."""
        found: dict[str, list[tuple[tuple[str, ...], float | Histogram]]] = {name: [] for name in METRICS}
        for name, labels, value in self._samples():
            found[name].append((labels, value))
        for name, samples in found.items():
            yield _metric(name, samples)

    def _samples(self) -> Iterator[Sample]:
        yield from self._of_the_stream()
        yield from self._of_changes()
        yield from self._of_subscribers()
        yield from self._of_questions()
        yield from self._of_clients()
        yield from self._of_the_canary()

    def _of_the_stream(self) -> Iterator[Sample]:
        counts = self.stream.counts
        yield "cdc_build_info", (version("cdc_bridge"),), 1
        yield "cdc_ready", (), not self.not_ready()
        yield "cdc_listening", (), self.broker.listening
        if self.stream.last_proven_s > 0:
            yield "cdc_heartbeat_age_seconds", (), time.monotonic() - self.stream.last_proven_s
        yield "cdc_sessions_lost_total", (), counts.lost
        for state in GateState:
            yield "cdc_gate_state", (state.value,), counts.gate == state.value
            yield "cdc_gate_changes_total", (state.value,), counts.gate_changes[state.value]
        yield "cdc_log_closed", (), bool(self.maintenance.problems)
        if (log := self.maintenance.log) is not None:
            yield "cdc_log_bytes", (), log.size_bytes
            yield "cdc_log_age_seconds", (), log.oldest_age_s or 0

    def _of_changes(self) -> Iterator[Sample]:
        hub, dispatcher, traffic = self.broker.hub, self.broker.dispatcher, self.server.traffic
        names = hub.catalog.by_relation_id
        for relation_id, counts in hub.collections.counts.items():
            for operation, count in counts.items():
                labels = names[relation_id].name, operation.name.lower()
                yield "cdc_changes_total", labels, count
        for reason in UNDELIVERED_REASONS:
            yield "cdc_changes_undelivered_total", (reason,), self.broker.publisher.undelivered[reason]
        lags = {**dispatcher.lags, "read": self.stream.counts.read, "queued": traffic.queued}
        for cause, histogram in lags.items():
            yield "cdc_lag_seconds", (cause,), histogram
        topics = hub.subscribers.topics
        filled = [topic for topic in topics if topic.log.size_bytes]  # few, of a hundred thousand perhaps
        at_us = min(filter(None, [dispatcher.oldest_us, *self._oldest_us(filled)]), default=0)
        yield "cdc_oldest_undelivered_age_seconds", (), max(time.time() - at_us / 1e6, 0) if at_us else 0
        yield "cdc_backlog_bytes", (), sum(topic.log.size_bytes for topic in filled)
        yield "cdc_topics", (), len(topics)
        for gap in GapCause:
            yield "cdc_gaps_total", (gap.value,), dispatcher.gaps[gap]

    def _oldest_us(self, topics: Iterable[Topic]) -> Iterator[int]:
        """Yield when the oldest entry that waits in each topic was written, or was first seen by this."""
        known, now_us = dict(self._first_seen_us), time.time_ns() // 1000
        self._first_seen_us.clear()
        for topic in topics:
            if topic.oldest is not None:
                position, written_us = topic.oldest
                if not written_us:
                    written_us = self._first_seen_us[topic, position] = known.get((topic, position), now_us)
                yield written_us

    def _of_subscribers(self) -> Iterator[Sample]:
        hub, scheduler = self.broker.hub, self.broker.scheduler
        yield "cdc_subscriptions", (), len(hub)
        for cause in Cause:
            yield "cdc_resyncs_total", (cause.value,), scheduler.resyncs[cause]
        for outcome in CURSOR_OUTCOMES:
            yield "cdc_cursors_total", (outcome,), hub.cursors[outcome]

    def _of_questions(self) -> Iterator[Sample]:
        workers, evaluation = self.broker.read_workers, self.broker.evaluation
        for kind in Kind:
            yield "cdc_read_queue_seconds", (kind.value,), workers.queued[kind]
            yield "cdc_read_seconds", (kind.value,), workers.took[kind]
        yield "cdc_reads_waiting", (), len(self.broker.scheduler)
        yield "cdc_evaluations_total", (), evaluation.count
        yield "cdc_evaluation_seconds", (), evaluation.took
        for names, histogram in self.policies.items():
            yield "cdc_policy_evaluation_seconds", names, histogram

    def _of_clients(self) -> Iterator[Sample]:
        traffic = self.server.traffic
        yield "cdc_connections", (), self.server.limits.admitted_count
        yield "cdc_deliveries_total", (), traffic.deliveries
        yield "cdc_frames_sent_total", (), traffic.frames
        yield "cdc_sent_bytes_total", (), traffic.sent_bytes
        yield "cdc_client_round_trip_seconds", (), traffic.round_trip
        closes = {("bridge", str(int(code))): 0 for code in CloseCode} | traffic.closes
        for labels, count in closes.items():
            yield "cdc_closes_total", labels, count
        for status, count in traffic.responses.items():
            yield "cdc_http_responses_total", (str(status),), count
        failures = dict.fromkeys([*AUTHENTICATION_REASONS.values(), OTHER_REASON], 0)
        for reason, count in self.authenticator.refused.items():
            failures[AUTHENTICATION_REASONS.get(reason, OTHER_REASON)] += count
        for reason, count in failures.items():
            yield "cdc_authentication_failures_total", (reason,), count

    def _of_the_canary(self) -> Iterator[Sample]:
        if self.canary.is_on:
            yield "cdc_canary_seconds", (), self.canary.took
            yield "cdc_canary_sent_total", (), self.canary.sent
            yield "cdc_canary_lost_total", (), self.canary.lost


def _metric(name: str, samples: Iterable[tuple[tuple[str, ...], float | Histogram]]) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    description = METRICS[name]
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if name.endswith("_total"):
        family = CounterMetricFamily(name, description.text, labels=description.labels)
    elif description.is_histogram:
        family = HistogramMetricFamily(name, description.text, labels=description.labels)
    else:
        family = GaugeMetricFamily(name, description.text, labels=description.labels)
    for labels, value in samples:
        if isinstance(value, Histogram):
            assert isinstance(family, HistogramMetricFamily)
            bounds = [*map(str, map(float, BOUNDS_S)), "+Inf"]
            buckets = zip(bounds, accumulate(value.counts), strict=True)
            family.add_metric(labels, [(bound, count) for bound, count in buckets], value.sum_s)
        else:
            assert not isinstance(family, HistogramMetricFamily)
            family.add_metric(labels, float(value))
    return family


def exposition(collector: Collector) -> Callable[[], str]:
    """Return a function that returns all metrics as text. It must be called where the bridge runs."""
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    for collect in (ProcessCollector, PlatformCollector, GCCollector):
        collect(registry=registry)
    registry.register(collector)
    return lambda: generate_latest(registry).decode()
