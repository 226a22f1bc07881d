"""Hand traces to OpenTelemetry. This is imported only when tracing begins.

Bound: that of the SDK's BatchSpanProcessor (`OTEL_BSP_MAX_QUEUE_SIZE`). Policy: it drops spans past it. A thread of its
own sends them, so a collector that is slow or away holds nothing up.

Rule: what the SDK says of addresses and headers is not logged, since it quotes them, and tokens can be in them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

from cdc_bridge.logs import facts
from cdc_bridge.metrics.tracing import Trace, Tracing
from cdc_bridge.model.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

END_S = 1.0
"""The time in which the last spans are sent at the end; less than the bridge has for its own (`GRACE_S` of `serve`)."""

QUOTING = ("opentelemetry.exporter", "opentelemetry.util.re")
"""The loggers of the SDK that quote addresses and headers."""

HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")

_HEADER = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+\s*=.*)?", re.DOTALL)


@asynccontextmanager
async def open_tracing(ratio: float) -> AsyncIterator[Tracing | None]:
    """Yield what traces this part of all changes; None for 0. Raises `UsageError` without OpenTelemetry."""
    if not ratio:
        yield None
        return
    provider = _provider()
    try:
        yield Tracing(ratio, partial(_export, provider.get_tracer("cdc_bridge")))
    finally:
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, END_S)


def _provider() -> TracerProvider:
    """Return a provider that sends spans over OTLP/HTTP, configured by the SDK's own variables."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError(
            "trace_ratio needs OpenTelemetry, which is not installed: pip install 'cdc_bridge[otel]', or leave it at 0"
        ) from error
    for name in QUOTING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        _check_headers()
        resource = Resource.create({SERVICE_NAME: "cdc_bridge"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(cast("SpanExporter", _Exporter(OTLPSpanExporter()))))
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"a variable of OpenTelemetry (OTEL_*) is invalid: {error}") from error
    return provider


def _check_headers() -> None:
    """Raises `ValueError`."""
    for name in HEADERS:
        if not all(map(_HEADER.fullmatch, os.environ.get(name, "").split(","))):
            raise ValueError(f"{name} is no list of NAME=VALUE, separated by commas")


class _Exporter:
    """A `SpanExporter` that sends by another one, and logs when that fails first, and when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        was_failing, self._is_failing = self._is_failing, result.name != "SUCCESS"
        if self._is_failing and not was_failing:
            log.warning("traces are lost: the collector does not take them", extra=facts(spans=len(spans)))
        elif was_failing and not self._is_failing:
            log.info("the collector takes traces again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _export(tracer: Tracer, trace: Trace) -> None:
    """Make the spans of a trace that is at its end."""
    from opentelemetry.trace import set_span_in_context

    is_finished = trace.cause == "socket"
    if trace.topic_count or not is_finished:
        trace.go_on("", time.time_ns())
    root = tracer.start_span(
        f"{trace.operation} {trace.collection}".strip(),
        start_time=trace.began_ns,
        attributes={
            "cdc.collection": trace.collection,
            "cdc.operation": trace.operation,
            "cdc.xid": trace.key[0],
            "cdc.topics": trace.topic_count,
            "cdc.finished": is_finished,
        },
    )
    context = set_span_in_context(root)
    begin_ns = trace.began_ns
    for cause, end_ns in trace.spans:
        tracer.start_span(cause, context, start_time=begin_ns).end(end_ns)
        begin_ns = end_ns
    root.end(begin_ns)
