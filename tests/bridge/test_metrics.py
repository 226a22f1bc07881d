"""What a bridge shows of itself: every metric moves when what it counts happens, and nobody else can see it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.metrics.names import METRICS
from cdc_bridge.server.traffic import SAMPLED
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.metrics import WITHIN_S, get, scrape, scrape_until
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once

SECRET = "a-value-that-no-metric-may-show"


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    attach(database, "t", mode=Mode.DURABLE)
    return database


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


async def subscribe(client: Client, **request: Any) -> None:
    await client.send({"type": "subscribe", "collection": "t"} | request)
    await client.until(event="init")


async def test_every_metric_is_shown_and_none_that_is_not_described(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge:
        found = await scrape(bridge.http)
        shown = {name for name in found.families if name.startswith("cdc_")}
        assert shown == {name.removesuffix("_total") for name in METRICS}
        assert "process_resident_memory_bytes" in found.families
        assert found.value("cdc_ready") == found.value("cdc_listening") == 1


async def test_a_row_is_counted_on_its_whole_way(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client)
        before = await scrape(bridge.http)
        table.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        table.execute("UPDATE t SET text = 'c' WHERE id = 1")
        await client.until(event="update")
        after = await scrape(bridge.http)

        def gained(name: str, /, **labels: str) -> float:
            return after.value(name, **labels) - before.value(name, **labels)

        assert gained("cdc_changes_total", collection="t", operation="insert") == 2
        assert gained("cdc_changes_total", collection="t", operation="update") == 1
        assert gained("cdc_deliveries_total") == 2
        assert gained("cdc_sent_bytes_total") > 0
        assert gained("cdc_lag_seconds_count", cause="commit_to_socket") >= 1
        assert gained("cdc_lag_seconds_count", cause="held") >= 1
        assert gained("cdc_lag_seconds_count", cause="match") >= 1
        assert (after.value("cdc_connections"), after.value("cdc_subscriptions"), after.value("cdc_topics")) == (
            1,
            1,
            1,
        )
        assert after.value("cdc_oldest_undelivered_age_seconds") == 0
        assert after.sum("cdc_gaps_total") == after.sum("cdc_resyncs_total") == 0
        assert after.value("cdc_read_seconds_count", kind="rows") == 1
        await subscribe(client, cursor=True, after="not a cursor", uid="2")
        after = await scrape(bridge.http)
        assert gained("cdc_cursors_total", outcome="not_ours") == 1
        assert gained("cdc_resyncs_total", reason="replay") == 1


async def test_frames_are_measured_until_their_client_has_read_them(table: Database) -> None:
    """One in 16, so that most cost nothing."""
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client)
        for number in range(2 * SAMPLED):
            table.execute(f"INSERT INTO t VALUES ({number})")
            await client.until(event="create")
        found = await scrape_until(bridge.http, lambda found: found.value("cdc_client_round_trip_seconds_count") >= 2)
        assert 0 < found.value("cdc_client_round_trip_seconds_sum") < WITHIN_S


async def test_changes_that_nobody_is_sent_are_counted_by_the_reason(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url) as client:
        table.execute("INSERT INTO t VALUES (1)")
        await scrape_until(
            bridge.http, lambda found: found.value("cdc_changes_undelivered_total", reason="not_subscribed") == 1
        )
        await subscribe(client, query={"filter": {"id": {"_gt": 10}}})
        table.execute("INSERT INTO t VALUES (2)")
        await scrape_until(
            bridge.http, lambda found: found.value("cdc_changes_undelivered_total", reason="filter") == 1
        )


async def test_labels_have_no_value_that_a_client_has_chosen(table: Database) -> None:
    table.execute(f"INSERT INTO t VALUES (1, '{SECRET}')")
    async with running_bridge(table.dsn) as bridge:
        async with connected(bridge.url) as client:
            await client.send({"type": "auth", "access_token": SECRET, "uid": SECRET})
            await client.until(type="auth")
            await subscribe(client, uid=SECRET, query={"filter": {"text": {"_eq": SECRET}}})
            await client.send({"type": "subscribe", "collection": SECRET, "uid": "2"})
            await client.until(status="error")
            await client.connection.close(4999, SECRET)
        await asyncio.to_thread(get, f"{bridge.http}/{SECRET}")
        found = await scrape_until(bridge.http, lambda found: found.sum("cdc_closes_total") == 1)
    assert SECRET not in found.text
    assert found.value("cdc_closes_total", by="client", code="other") == 1
    assert found.value("cdc_authentication_failures_total", reason="malformed") == 1
    assert found.value("cdc_http_responses_total", status="404") == 1
    assert "t" in found.labels["collection"]


async def test_the_log_is_shown_once_it_was_looked_at(table: Database) -> None:
    table.execute("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n")
    async with running_bridge(table.dsn) as bridge:
        found = await scrape_until(bridge.http, lambda found: found.sum("cdc_log_bytes") > 100_000)
    assert found.value("cdc_log_age_seconds") > 0
    assert found.value("cdc_log_closed") == 0


THROUGH_OTHERS = (
    {"X-Forwarded-For": "192.0.2.1"},
    {"Forwarded": "for=192.0.2.1"},
    {"Origin": "http://127.0.0.1"},
    {"Host": "evil.example"},
)


def other_addresses() -> Iterator[str]:
    """An address of this machine that is no loopback address, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return
        yield probe.getsockname()[0]


async def test_main_port_shows_metrics_to_this_machine_alone(table: Database) -> None:
    async with running_bridge(table.dsn, host="0.0.0.0") as bridge:
        port = bridge.http.rpartition(":")[2]
        for headers in THROUGH_OTHERS:
            assert (await asyncio.to_thread(get, f"http://127.0.0.1:{port}/metrics", headers))[0] == 404, headers
        for address in other_addresses():
            assert (await asyncio.to_thread(get, f"http://{address}:{port}/metrics", {"Host": "localhost"}))[0] == 404
        assert (await asyncio.to_thread(get, f"http://127.0.0.1:{port}/metrics"))[0] == 200


async def test_behind_a_proxy_the_main_port_shows_no_metrics(table: Database) -> None:
    """Whoever the proxy speaks for comes from this machine."""
    async with running_bridge(table.dsn, behind_proxy=True) as bridge:
        assert (await asyncio.to_thread(get, f"{bridge.http}/metrics"))[0] == 404


async def test_port_for_metrics_is_no_way_to_a_websocket(table: Database) -> None:
    port = free_port()
    async with running_bridge(table.dsn, metrics_port=port) as bridge:
        own = f"http://127.0.0.1:{port}"
        assert (await scrape(own)).value("cdc_ready") == 1
        assert [
            (await asyncio.to_thread(get, own + path))[0] for path in ("/healthz", "/readyz", "/websocket", "/")
        ] == [
            200,
            200,
            404,
            404,
        ]
        assert (await scrape(bridge.http)).value("cdc_connections") == 0


async def test_port_for_metrics_serves_other_machines_where_it_is_meant_to(table: Database) -> None:
    port = free_port()
    async with running_bridge(table.dsn, metrics_port=port, metrics_host="0.0.0.0"):
        status, _ = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/metrics", {"Host": "bridge.example:9000"})
        assert status == 200
