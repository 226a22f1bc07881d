"""Traces of sampled changes with OpenTelemetry: one trace each, from the commit to a socket.

Rule: the parts of a bridge know nothing of it. A traced bridge has its capture wrapped, and a publisher and topics of
their own classes, which note the time. Nothing here knows OpenTelemetry (`spans.py`).

Theory: the spans of a trace are causes of lag, one behind the other, so they add up to the whole. A change can go to
many topics and clients. It counts as asked while any of its topics waits for an answer that was due before it, and as
queued until one of the clients that were busy, the first that is found, is sent it.

Bound: `OPEN_MAX` traces at a time, `OPEN_S_MAX` each, and `TOPICS_MAX` topics of each, which is what is looked at to
tell asked and queued. Policy: past it changes are not sampled, and other topics only counted; a trace that takes longer
ends unfinished.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import Any

from cdc_bridge.capture import Capture
from cdc_bridge.capture.change_stream import ChangeStream
from cdc_bridge.engine.collection_registry import CollectionRegistry
from cdc_bridge.engine.outbox import Cut
from cdc_bridge.engine.pending import Pending
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.registry import SubscriberRegistry
from cdc_bridge.engine.subscriber import Reading, Subscriber
from cdc_bridge.engine.topic import Topic
from cdc_bridge.model.change import Change, StreamItem

OPEN_MAX = 1000
OPEN_S_MAX = 10.0
TOPICS_MAX = 100


class Trace:
    """One change on its way. `cause` is what it waits for, `spans` what it has waited for, each with its end.

    Times are in nanoseconds since 1970. `read_ns` is when the reading of the log that found it began, 0 if none did.
    `pending` is what its topics wait for, and `position` where the topic of a busy `client` has the change.
    """

    def __init__(self, change: Change, read_ns: int, now_ns: int) -> None:
        self.key = change.xid, change.seq
        self.operation = change.operation.name.lower()
        self.collection = ""
        self.came_ns = now_ns
        self.began_ns = self.ended_ns = min(change.at * 1000 or now_ns, read_ns or now_ns)  # clocks differ
        self.spans: list[tuple[str, int]] = []
        self.topics: dict[Topic, None] = {}
        self.topic_count = 0
        self.pending: set[Pending] = set()
        self.client: Subscriber | None = None
        self.position = 0
        self.cause = "held" if change.at else ""
        if read_ns:
            self.go_on("read", read_ns)
        self.go_on("match", now_ns)

    def go_on(self, cause: str, now_ns: int) -> None:
        """End the span of what it waited for: it waits for `cause` now."""
        self.ended_ns = max(now_ns, self.ended_ns)
        if self.cause:
            self.spans.append((self.cause, self.ended_ns))
        self.cause = cause


class Tracing:
    """See the module's docstring. `ratio` is the part of the changes to sample; `export` takes their traces."""

    def __init__(self, ratio: float, export: Callable[[Trace], None]) -> None:
        self._ratio = ratio
        self._export = export
        self.open: dict[tuple[int, int], Trace] = {}
        self.queued: dict[Subscriber, dict[Trace, None]] = {}

    def capture(self, stream: ChangeStream) -> Capture:
        """Return a capture that begins traces of what the stream brings."""
        return _TracedCapture(self, stream)

    def begin(self, batch: Sequence[StreamItem], reading: tuple[float, int] | None) -> None:
        """Begin traces of some of these. `reading` is that of `StreamCounts`, if one has found the last of them."""
        now_ns = time.time_ns()
        began_s, first_read = reading or (0, len(batch))
        read_ns = now_ns - int((time.monotonic() - began_s) * 1e9)
        for number, item in enumerate(batch):
            is_sampled = random.random() < self._ratio  # noqa: S311 - not a secret
            if is_sampled and isinstance(item, Change) and len(self.open) < OPEN_MAX:
                trace = Trace(item, read_ns if number >= first_read else 0, now_ns)
                self.open.setdefault(trace.key, trace)

    def publisher(self, collections: CollectionRegistry, subscribers: SubscriberRegistry) -> Publisher:
        """Return a publisher whose changes are traced, and give the registry such topics."""
        subscribers.make_topic = partial(_TracedTopic, self)
        return _TracedPublisher(self, collections, subscribers)

    def begin_flush(self, now_ns: int) -> None:
        """Note which changes have been matched, and which questions answered, before connections are woken."""
        for trace in self.open.values():
            if trace.cause == "match" and trace.collection:
                trace.go_on("asked" if trace.pending else "socket", now_ns)
            elif trace.cause == "asked":
                trace.pending &= {each for topic in trace.topics for each in topic.unsettled}
                if not trace.pending:
                    trace.go_on("socket", now_ns)

    def end_flush(self, now_ns: int) -> None:
        """Note which changes are at their end, and for which client another one waits."""
        for trace in list(self.open.values()):
            client = trace.client
            if trace.cause == "socket":
                client = next((late for topic in trace.topics for late in topic.late), None)
                if client is not None and client.topic is not None:
                    trace.cause, trace.client, trace.position = "queued", client, client.topic.log.end
                    self.queued.setdefault(client, {})[trace] = None
            has_left = client is not None and client.topic not in trace.topics
            if trace.cause == "socket" or has_left or now_ns - trace.came_ns > OPEN_S_MAX * 1e9:
                self._end(trace)

    def note_sent(self, client: Subscriber, end: int) -> None:
        """Note which changes are in the frame that a client is about to be sent. `end` is that of its topic."""
        for trace in tuple(self.queued[client]):
            if client.offset >= min(trace.position, end):
                trace.go_on("socket", time.time_ns())
                self._end(trace)

    def _end(self, trace: Trace) -> None:
        self.open.pop(trace.key, None)
        if trace.client is not None:
            del self.queued[trace.client][trace]
            if not self.queued[trace.client]:
                del self.queued[trace.client]
        asyncio.get_running_loop().call_soon(self._export, trace)  # when it has been written


class _TracedCapture:
    """Implements `Capture`."""

    def __init__(self, tracing: Tracing, stream: ChangeStream) -> None:
        self._tracing = tracing
        self._stream = stream

    async def batches(self) -> AsyncGenerator[list[StreamItem], None]:
        counts = self._stream.counts
        async with aclosing(self._stream.batches()) as batches:
            async for batch in batches:
                reading, counts.reading = counts.reading, None
                self._tracing.begin(batch, reading)
                yield batch


class _TracedPublisher(Publisher):
    def __init__(self, tracing: Tracing, *registries: Any) -> None:
        super().__init__(*registries)
        self._tracing = tracing

    def apply(self, change: Change, now_us: int = 0) -> list[Reading]:
        key = change.xid, change.seq
        if (table := self._tables.get(change.relation_id)) is None:
            self._tracing.open.pop(key, None)
        trace = self._tracing.open.get(key)
        if trace is None or table is None:
            return super().apply(change, now_us)
        touched, self._touched = self._touched, {}
        try:
            return super().apply(change, now_us)
        finally:
            asked = [topic for each in self.inquiries if each.change is change for topic in each.pending]
            found = self._touched | dict.fromkeys(asked)
            trace.topic_count = len(found)
            trace.topics = dict.fromkeys(islice(found, TOPICS_MAX))
            trace.pending = {each for topic in trace.topics for each in topic.unsettled}
            trace.collection = table.collection.name
            self._touched |= touched

    def flush(self) -> None:
        self._tracing.begin_flush(time.time_ns())
        super().flush()
        self._tracing.end_flush(time.time_ns())


class _TracedTopic(Topic):
    def __init__(self, tracing: Tracing, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._tracing = tracing

    def cut(self, subscriber: Subscriber, *, one: bool) -> Cut:
        cut = super().cut(subscriber, one=one)
        if subscriber in self._tracing.queued:
            self._tracing.note_sent(subscriber, self.log.end)
        return cut
