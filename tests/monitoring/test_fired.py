"""Alerts fired by what they are about: a real bridge, scraped by a real Prometheus, told to a real Alertmanager."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.engine.dispatcher import OBSERVED_APART_S
from tests.monitoring.programs import program
from tests.monitoring.test_rules import ALERTS, RULES, expressions
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess, running_bridge
from tests.support.proxy import Proxy
from tests.support.rawclient import TEXT, frame, upgraded
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

WITHIN_S = 60.0
HELD_S = 2.5
SLOW_POLICY_S = 0.6
WAITING_S = 2.0
FILES_MAX = 64
FILES_LEFT = 4
SECRET = "a secret of some thirty-two bytes"

SOONER = (
    (r"for: \w+", "for: 100ms"),
    (r"seconds > 30", "seconds > 2"),
    (r"> 2e9", "> 1e5"),
    (r"> 5\n", "> 1\n"),
)
"""What would take minutes, or gigabytes, takes seconds here. Nothing else of the rules is altered."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


async def get(url: str) -> Any:
    def ask() -> Any:
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)

    return await asyncio.to_thread(ask)


@asynccontextmanager
async def running(log: Path, *command: str) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=asyncio.subprocess.STDOUT)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


class Monitoring:
    """Prometheus and Alertmanager, and what they have been told so far."""

    def __init__(self, prometheus: int, alertmanager: int) -> None:
        self._prometheus, self._alertmanager = (f"http://127.0.0.1:{port}" for port in (prometheus, alertmanager))
        self.fired: set[str] = set()

    async def look(self) -> None:
        with suppress(OSError):  # it is still starting
            found = await get(f"{self._alertmanager}/api/v2/alerts")
            self.fired |= {each["labels"]["alertname"] for each in found}

    async def until_fired(self, *alerts: str) -> None:
        """Nothing but asking tells."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not self.fired.issuperset(alerts):
                    await asyncio.sleep(0.2)
                    await self.look()
        except TimeoutError:
            raise AssertionError(f"{set(alerts) - self.fired} have not fired, {self.fired} have") from None

    async def value(self, expression: str) -> Any:
        return (await get(f"{self._prometheus}/api/v1/query?query={quote(expression)}"))["data"]["result"]

    async def until_holds(self, expression: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            while True:
                with suppress(OSError):  # it is still starting
                    if await self.value(expression):
                        return
                await asyncio.sleep(0.1)

    async def until_scraped(self) -> None:
        await self.until_holds("count_over_time(cdc_ready[1m]) > 2")

    async def understands(self, expression: str) -> bool:
        """Whether Prometheus can evaluate what a panel asks."""
        try:
            await self.value(expression.replace("$__rate_interval", "1m").replace("$instance", ".*"))
        except OSError:
            return False
        return True


@asynccontextmanager
async def monitoring(target: str, folder: Path) -> AsyncIterator[Monitoring]:
    prometheus, alertmanager = program("prometheus"), program("alertmanager", "prometheus-alertmanager")
    ports = free_port(), free_port()
    rules = RULES.read_text()
    for long, short in SOONER:
        rules = re.sub(long, short, rules)
    (folder / "alerts.yaml").write_text(rules)
    own = (RULES.parent / "prometheus.yaml").read_text()
    for name, value in {
        "15s": "250ms",
        "bridge:9464": target,
        "alertmanager:9093": f"127.0.0.1:{ports[1]}",
    }.items():
        assert name in own
        own = own.replace(name, value)
    (folder / "prometheus.yaml").write_text(own)
    receiver: Mapping[str, object] = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
    (folder / "alertmanager.yaml").write_text(json.dumps(receiver))
    async with (
        running(
            folder / "alertmanager.log",
            alertmanager,
            f"--config.file={folder / 'alertmanager.yaml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{ports[1]}",
            "--cluster.listen-address=",
        ),
        running(
            folder / "prometheus.log",
            prometheus,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
        ),
    ):
        yield Monitoring(*ports)


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    database.execute("CREATE TABLE canary (id text PRIMARY KEY, beat bigint NOT NULL)")
    attach(database, "t", "canary", mode=Mode.DURABLE)
    return database


async def test_alerts_fire_for_their_real_causes(
    tables: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_bridge.metrics.canary.LOST_S", 0.5)
    monkeypatch.setattr("cdc_bridge.bridge.MAINTENANCE_INTERVAL_S", 3.0)
    metrics_port = free_port()
    options: dict[str, Any] = {
        "jwt_secret": SECRET,
        "auth_mode": "public",
        "backlog_bytes_max": 4096,
        "canary_collection": "canary",
        "canary_interval_s": 0.5,
        "metrics_port": metrics_port,
        "reconnect_delay_max_s": 0.5,
    }
    async with Proxy.before(tables.dsn) as proxy, AsyncExitStack() as serving:
        bridge = await serving.enter_async_context(running_bridge(proxy.dsn(tables.dsn), **options))
        async with monitoring(f"127.0.0.1:{metrics_port}", tmp_path) as told:
            await told.until_scraped()
            await told.look()
            assert told.fired == set(), "in health nothing fires"
            assert [each for each in expressions() if not await told.understands(each)] == []
            async with connected(bridge.url) as client:
                await client.send({"type": "subscribe", "collection": "t"})
                await client.until(event="init")
                await long_transactions(tables, told)
                await refused_tokens_and_cursors(bridge.url)
                await told.until_fired("CdcBridgeTokensRefused", "CdcBridgeCursorsRefused")
                await client_that_does_not_read(bridge.url, tables, told)
                tables.execute("ALTER TABLE canary DISABLE TRIGGER USER")
                await told.until_fired("CdcBridgeCanaryLost")
                tables.execute(
                    "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1000, 3000) n;"
                    "SELECT cdc.mark_gap(), cdc.close_log(1)"
                )
                await told.until_fired("CdcBridgeGap", "CdcBridgeResyncs", "CdcBridgeLogClosed", "CdcBridgeLogLarge")
            await lost_database(proxy, told)
            await serving.aclose()
            await told.until_fired("CdcBridgeDown")
            assert told.fired <= set(ALERTS)


async def lost_database(proxy: Proxy, told: Monitoring) -> None:
    for lost in range(1, 5):
        proxy.cut()
        await told.until_holds(f"cdc_sessions_lost_total >= {lost} and cdc_listening == 1")
    proxy.refuse()
    proxy.cut()
    await told.until_fired(
        "CdcBridgeReconnects", "CdcBridgeNotListening", "CdcBridgeNotReady", "CdcBridgeHeartbeatMissing"
    )
    await proxy.accept()


async def long_transactions(tables: Database, told: Monitoring) -> None:
    async with AsyncExitStack() as writers:
        for number in range(-3, 0):
            writer = await writers.enter_async_context(await psycopg.AsyncConnection.connect(tables.dsn))
            writers.push_async_callback(asyncio.sleep, 2 * OBSERVED_APART_S)  # not all batches are timed
            await writer.execute(b"INSERT INTO t VALUES (%s)", [number])
        await asyncio.sleep(HELD_S)  # that they take so long is what this is about
    await told.until_fired("CdcBridgeSlow")


async def refused_tokens_and_cursors(url: str) -> None:
    async with connected(url) as client:
        for number in range(25):
            await client.send({"type": "auth", "access_token": "none", "uid": str(number)})
            await client.until(type="auth")
        for number in range(3):
            await client.send(
                {"type": "subscribe", "collection": "t", "cursor": True, "after": "none", "uid": str(number)}
            )
            await client.until(event="init")


async def client_that_does_not_read(url: str, tables: Database, told: Monitoring) -> None:
    port = int(url.rpartition(":")[2].partition("/")[0])
    async with upgraded(port) as silent:
        await silent.send(frame(TEXT, b'{"type":"subscribe","collection":"t"}'))
        await silent.text()  # its `init`, after which it says nothing
        tables.execute("INSERT INTO t VALUES (1)")
        tables.execute("INSERT INTO t VALUES (2)")
        await told.until_fired("CdcBridgeLagging")
        tables.execute("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(10, 20) n")
        await told.until_fired("CdcBridgeSlowClients")


async def test_alerts_about_load_fire_for_their_real_causes(tables: Database, tmp_path: Path) -> None:
    metrics_port = free_port()
    role = f"reader_{tables.name}"
    tables.execute(
        f"CREATE ROLE {role};"
        "CREATE TABLE guarded (id int PRIMARY KEY);"
        "CREATE FUNCTION takes_long(id int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$"
        f" BEGIN PERFORM pg_sleep({SLOW_POLICY_S}); RETURN true; END $$;"
        "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY slow ON guarded USING (takes_long(id));"
        f"GRANT SELECT ON guarded, t TO {role}"
    )
    attach(tables, "guarded")
    options = (f"--metrics-port={metrics_port}", "--snapshot-concurrency=1", "--anon-role", role)
    try:
        async with BridgeProcess(tables.dsn, *options, files_max=FILES_MAX) as bridge, AsyncExitStack() as clients:
            await bridge.ready()
            async with monitoring(f"127.0.0.1:{metrics_port}", tmp_path) as told:
                await told.until_scraped()
                await told.look()
                assert told.fired == set(), "in health nothing fires"
                await slow_policy(bridge.url, tables)
                await reads_behind_a_lock(bridge.url, tables)
                await told.until_fired("CdcBridgeSlowPolicy", "CdcBridgeReadsWait")
                assert told.fired.isdisjoint({"CdcBridgeFewFiles"})
                [sample] = await told.value("process_open_fds")
                for _ in range(FILES_MAX - FILES_LEFT - int(sample["value"][1])):
                    await clients.enter_async_context(connected(bridge.url))
                await told.until_fired("CdcBridgeFewFiles")
    finally:
        tables.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def slow_policy(url: str, tables: Database) -> None:
    async with connected(url) as client:
        await client.send({"type": "subscribe", "collection": "guarded"})
        await client.until(event="init")
        for number in range(3):
            tables.execute("INSERT INTO guarded VALUES (%s)", [number])
            await client.until(event="create")


async def reads_behind_a_lock(url: str, tables: Database) -> None:
    async with connected(url) as client, await psycopg.AsyncConnection.connect(tables.dsn) as writer:
        await writer.execute("LOCK TABLE t")
        for number in range(5):
            await client.send({"type": "subscribe", "collection": "t", "query": {"limit": number}, "uid": str(number)})
        await asyncio.sleep(WAITING_S)  # that they wait for so long is what this is about
        await writer.rollback()
        for _ in range(5):
            await client.until(event="init")
