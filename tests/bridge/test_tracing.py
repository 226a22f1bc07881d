"""Traces: one for each sampled change, its causes one behind the other from the commit to a socket, and no data."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from cdc_bridge.admin.mode import Mode
from cdc_bridge.metrics.spans import open_tracing
from cdc_bridge.model.errors import UsageError
from tests.bridge.test_rights_attacks import ANN, BOB, SECRET, Place, bare, bridge, follow, ids, person, place
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess, RunningBridge, running_bridge
from tests.support.metrics import scrape_until
from tests.support.process import PIPE, command, environment, running
from tests.support.rawclient import PING, PONG, TEXT, frame, upgraded
from tests.support.server import Database
from tests.support.wsclient import Client, connected

__all__ = ["bare", "place"]

pytestmark = pytest.mark.once

WITHIN_S = 15.0
PRIVATE = "a-value-that-no-span-may-show"


@dataclass
class Trace:
    """A trace as it was sent. `causes` are the spans below its root, in their order."""

    name: str
    attributes: dict[str, Any]
    causes: list[str]
    took_ns: int


@dataclass
class Collector:
    """A receiver of OTLP over HTTP."""

    endpoint: str = ""
    raw: bytes = b""
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        self.raw += body
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(plain(resource_spans.resource.attributes))
            self.spans += [span for scope in resource_spans.scope_spans for span in scope.spans]

    async def traces(self, count: int) -> list[Trace]:
        """Wait for so many. Nothing but asking tells."""
        async with asyncio.timeout(WITHIN_S):
            while len(roots := [span for span in self.spans if not span.parent_span_id]) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert len(roots) == count == len({root.trace_id for root in roots})
        return [self._trace(root) for root in sorted(roots, key=lambda root: root.start_time_unix_nano)]

    def _trace(self, root: Span) -> Trace:
        spans = [span for span in self.spans if span.trace_id == root.trace_id and span is not root]
        spans.sort(key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))
        assert all(span.parent_span_id == root.span_id and not span.attributes for span in spans)
        ends = [root.start_time_unix_nano, *[span.end_time_unix_nano for span in spans]]
        assert [span.start_time_unix_nano for span in spans] == ends[:-1], "one behind the other"
        assert ends[-1] == root.end_time_unix_nano, "they add up to the whole"
        took_ns = root.end_time_unix_nano - root.start_time_unix_nano
        return Trace(root.name, plain(root.attributes), [span.name for span in spans], took_ns)


def plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with receiving() as collector:
        yield collector


@contextmanager
def receiving(answers: threading.Event | None = None) -> Iterator[Collector]:
    """Run a collector; it does not answer before `answers` is set."""
    collector = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if answers is not None:
                answers.wait()
            collector.take(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield collector
    finally:
        if answers is not None:
            answers.set()
        server.shutdown()
        server.server_close()


def variables(collector: Collector, **more: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "CDC_BRIDGE_TRACE_RATIO": "1",
    } | more


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    attach(database, "t", mode=Mode.DURABLE)
    return database


@pytest.fixture
def exported(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Collector:
    """Yield the collector to which bridges of this process send traces."""
    for name, value in variables(collector).items():
        monkeypatch.setenv(name, value)
    return collector


@asynccontextmanager
async def traced(table: Database, collector: Collector, *arguments: str, **more: str) -> AsyncIterator[BridgeProcess]:
    async with BridgeProcess(table.dsn, *arguments, env=variables(collector, **more)) as running:
        await running.ready()
        yield running


@asynccontextmanager
async def follower(running: BridgeProcess | RunningBridge, **request: Any) -> AsyncIterator[Client]:
    async with connected(running.url) as client:
        await client.send({"type": "subscribe", "collection": "t", "uid": PRIVATE} | request)
        await client.until(event="init")
        yield client


async def test_each_change_is_one_trace_from_its_commit_to_a_socket(table: Database, collector: Collector) -> None:
    began_ns = time.time_ns()
    async with traced(table, collector) as running, follower(running) as client:
        table.execute("INSERT INTO t VALUES (1, %s)", [PRIVATE])
        await client.until(event="create")
        table.execute("UPDATE t SET text = 'x'")
        await client.until(event="update")
        first, second = await collector.traces(2)
    assert (first.name, second.name) == ("insert t", "update t")
    assert (first.causes, second.causes) == (["held", "match", "socket"], ["held", "match", "socket"])
    assert 0 < first.took_ns < time.time_ns() - began_ns
    xid = first.attributes.pop("cdc.xid")
    assert 0 < xid < second.attributes["cdc.xid"]
    assert first.attributes == {
        "cdc.collection": "t",
        "cdc.operation": "insert",
        "cdc.topics": 1,
        "cdc.finished": True,
    }
    assert PRIVATE.encode() not in collector.raw
    assert collector.resources[0]["service.name"] == "cdc_bridge"


async def test_change_of_the_log_was_read(
    table: Database, exported: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    async with running_bridge(table.dsn, trace_ratio=1.0, notify="off") as running, follower(running) as client:
        table.execute("INSERT INTO t VALUES (1)")
        await client.until(event="create")
        (trace,) = await exported.traces(1)
    assert trace.causes == ["held", "read", "match", "socket"]
    assert exported.resources[0]["service.name"] == "shop"


async def test_change_of_a_live_table_begins_when_it_came(table: Database, exported: Collector) -> None:
    attach(table, "t", mode=Mode.LIVE)
    async with running_bridge(table.dsn, trace_ratio=1.0) as running, follower(running) as client:
        table.execute("INSERT INTO t VALUES (1)")
        await client.until(event="create")
        (trace,) = await exported.traces(1)
    assert trace.causes == ["match", "socket"]


async def test_change_that_nobody_is_sent_ends_with_the_match(table: Database, exported: Collector) -> None:
    async with (
        running_bridge(table.dsn, trace_ratio=1.0) as running,
        follower(running, query={"filter": {"id": {"_gt": 5}}}),
    ):
        table.execute("INSERT INTO t VALUES (1)")
        (trace,) = await exported.traces(1)
    assert trace.causes == ["held", "match"]
    assert trace.attributes["cdc.topics"] == 0
    assert trace.attributes["cdc.finished"] is True


async def test_change_that_waits_for_a_busy_client_was_queued(table: Database, exported: Collector) -> None:
    async with running_bridge(table.dsn, trace_ratio=1.0, heartbeat_interval_s=0.2) as running:
        port = int(running.http.rpartition(":")[2])
        async with upgraded(port) as busy:
            await busy.send(frame(TEXT, b'{"type":"subscribe","collection":"t"}'))
            frames = busy.frames()
            (_, _), (opcode, payload) = [await anext(frames) for _ in range(2)]  # its `init`, and a PING
            assert opcode == PING
            for number in (1, 2):
                table.execute("INSERT INTO t VALUES (%s)", [number])
            await until_waiting(running)
            async with follower(running, query={"limit": 0}) as other:
                table.execute("INSERT INTO t VALUES (3)")
                await other.until(event="create")
            assert exported.spans == []
            await busy.send(frame(PONG, payload))
            traces = await exported.traces(3)
            assert [trace.causes for trace in traces] == [["held", "match", "queued", "socket"]] * 3
            assert all(trace.attributes["cdc.finished"] for trace in traces)
            table.execute("INSERT INTO t VALUES (4)")
            await until_waiting(running)
        *_, left = await exported.traces(4)
        assert left.causes == ["held", "match", "queued"]
        assert left.attributes["cdc.finished"] is False


async def test_trace_keeps_few_of_many_topics_and_counts_all(table: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change can concern a hundred thousand."""
    traces: list[tuple[int, int]] = []
    monkeypatch.setattr("cdc_bridge.metrics.tracing.TOPICS_MAX", 2)
    monkeypatch.setattr(
        "cdc_bridge.metrics.spans._export", lambda _, trace: traces.append((len(trace.topics), trace.topic_count))
    )
    async with running_bridge(table.dsn, trace_ratio=1.0) as running, connected(running.url) as client:
        for number in range(5):
            query = {"filter": {"id": {"_gt": -number}}}
            await client.send({"type": "subscribe", "collection": "t", "uid": str(number), "query": query})
            await client.until(event="init", uid=str(number))
        table.execute("INSERT INTO t VALUES (1)")
        await client.collect(5)
        async with asyncio.timeout(WITHIN_S):
            while not traces:  # noqa: ASYNC110 - nothing but looking tells
                await asyncio.sleep(0.02)
    assert traces == [(2, 5)]


async def until_waiting(running: RunningBridge) -> None:
    """Wait until something waits for a client."""
    await scrape_until(running.http, lambda found: found.value("cdc_backlog_bytes") > 0)


async def test_change_that_a_policy_decides_was_asked_about(place: Place, exported: Collector) -> None:
    async with bridge(place, trace_ratio=1.0) as running, person(running, place.user, ANN) as ann:
        await follow(ann, "judged")
        place.execute(f"INSERT INTO judged VALUES (7, '{BOB}', '{PRIVATE}')")
        place.execute(f"INSERT INTO judged VALUES (8, '{ANN}', 'hers')")
        assert ids(await ann.until(uid="judged")) == [8]
        his, hers = await exported.traces(2)
    assert hers.causes == ["held", "match", "asked", "socket"]
    assert his.causes[:3] == hers.causes[:3]
    for private in (PRIVATE, ANN, BOB, jwt.encode({"sub": ANN}, SECRET, algorithm="HS256").partition(".")[0]):
        assert private.encode() not in exported.raw


async def test_some_changes_are_sampled_and_the_last_ones_sent_at_the_end(
    table: Database, exported: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100000")
    async with running_bridge(table.dsn, trace_ratio=0.5) as running, follower(running) as client:
        for number in range(100):
            table.execute("INSERT INTO t VALUES (%s)", [number])
        await client.collect(100)
        assert exported.spans == []
    assert 10 < len([span for span in exported.spans if not span.parent_span_id]) < 90


FEW = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}


async def test_collector_that_does_not_answer_holds_nothing_up(table: Database) -> None:
    with receiving(threading.Event()) as silent:
        async with traced(table, silent, **FEW) as running, follower(running) as client:
            for number in range(20):
                table.execute("INSERT INTO t VALUES (%s)", [number])
                await client.until(event="create")
            running.terminate()
            assert await running.wait(WITHIN_S) == 0


async def test_collector_that_is_away_holds_nothing_up(table: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (variables(Collector("http://127.0.0.1:9")) | FEW).items():
        monkeypatch.setenv(name, value)
    async with running_bridge(table.dsn, trace_ratio=1.0) as running, follower(running) as client:
        for number in range(20):
            table.execute("INSERT INTO t VALUES (%s)", [number])
            await client.until(event="create")


NOT_TRACED = """
import asyncio, sys
import cdc_bridge.bridge
from cdc_bridge.metrics.spans import open_tracing
async def main():
    async with open_tracing(0) as tracing:
        print(tracing, [name for name in sys.modules if "opentelemetry" in name])
asyncio.run(main())
"""


async def test_without_the_setting_nothing_of_opentelemetry_is_imported() -> None:
    async with running(sys.executable, "-c", NOT_TRACED) as process, asyncio.timeout(WITHIN_S):
        stdout, _ = await process.communicate()
    assert stdout.decode() == "None []\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"authorization: Bearer {PRIVATE}"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", f"a=b,{PRIVATE}"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nobody"),
    ],
)
async def test_variable_of_the_sdk_that_is_invalid_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"a variable of OpenTelemetry \(OTEL_\*\) is invalid: ") as raised:
        await open_tracing(1).__aenter__()
    assert PRIVATE not in f"{raised.value}{caplog.text}"


async def test_secret_in_the_collectors_address_is_not_logged(table: Database) -> None:
    """That nobody takes the traces is logged, and once."""
    nobody = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"ftp://127.0.0.1/?api_key={PRIVATE}"}
    async with traced(table, Collector(), **nobody) as running, asyncio.timeout(WITHIN_S):
        number = 0
        while "traces are lost" not in running.stderr or number < 40:
            number += 1
            table.execute("INSERT INTO t VALUES (%s)", [number])
            await asyncio.sleep(0.02)
        running.terminate()
        assert await running.wait() == 0
    assert PRIVATE not in running.stderr
    assert running.stderr.count("traces are lost") == 1


async def test_without_the_extra_the_setting_is_refused_in_a_sentence(table: Database, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError")
    env = {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"}
    arguments = command("serve", "--dsn", table.dsn, "--insecure-public", "--port", "0", "--trace-ratio", "1")
    async with running(*arguments, env=env, stderr=PIPE) as process, asyncio.timeout(WITHIN_S):
        _, stderr = await process.communicate()
    assert process.returncode == 2
    said = "cdc-bridge: trace_ratio needs OpenTelemetry, which is not installed: pip install 'cdc_bridge[otel]'"
    assert stderr.decode().splitlines()[-1].startswith(said)
    assert "Traceback" not in stderr.decode()
