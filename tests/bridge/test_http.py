"""What the port answers to plain HTTP, and whom it lets in."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from cdc_bridge.admin import detach
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.metrics import get, scrape_until
from tests.support.proxy import Proxy
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL


async def answer(bridge: RunningBridge, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(bridge.http + path, timeout=10) as response:
                return response.status, response.read().decode().strip()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode().strip()

    return await asyncio.to_thread(ask)


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    return database


async def test_health_is_about_the_process_and_readiness_about_the_database(table: Database) -> None:
    async with Proxy.before(table.dsn) as proxy, running_bridge(proxy.dsn(table.dsn)) as bridge:
        assert await answer(bridge, "/healthz") == (200, "alive")
        assert await answer(bridge, "/readyz") == (200, "ready")
        proxy.refuse()
        proxy.cut()
        await bridge.loses_the_database()
        assert await answer(bridge, "/healthz") == (200, "alive")
        status, reasons = await answer(bridge, "/readyz")
        assert (status, reasons.split("; ")[0]) == (503, "not listening to the database")


async def test_readiness_says_that_our_schema_is_gone_and_what_to_do(table: Database) -> None:
    async with running_bridge(table.dsn, reconnect_delay_max_s=0.5) as bridge:
        with psycopg.connect(table.dsn, autocommit=True) as conn:
            detach.apply(conn, detach.plan(conn, detach.Request(all_tables=True, purge=True)))
        async with asyncio.timeout(30):
            while "schema" not in (found := await answer(bridge, "/readyz"))[1]:  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.05)
        assert found == (
            503,
            'not listening to the database: this database has no schema "cdc" of cdc_bridge: attach a table first'
            " (cdc-bridge attach TABLE)",
        )
        attach(table, "t")
        async with asyncio.timeout(30):
            while await answer(bridge, "/readyz") != (200, "ready"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_strangers_are_not_told_the_names_of_tables_and_roles(table: Database) -> None:
    """What is wrong names them, and what a client may not read it may not know."""
    table.execute("ALTER TABLE t DISABLE TRIGGER ALL")
    async with running_bridge(table.dsn, wait=False, reconnect_delay_max_s=0.5) as bridge:
        for named, gone in (("changes of public.t may be missed: ", False), ('no schema "cdc"', True)):
            if gone:
                with psycopg.connect(table.dsn, autocommit=True) as conn:
                    detach.apply(conn, detach.plan(conn, detach.Request(all_tables=True, purge=True)))
            async with asyncio.timeout(30):
                while named not in (await answer(bridge, "/readyz"))[1]:  # noqa: ASYNC110 - only asking tells
                    await asyncio.sleep(0.05)
            assert named in json.loads((await answer(bridge, "/readyz?verbose"))[1])["reasons"][0]
            for path in ("/readyz", "/readyz?verbose"):
                status, said = await asyncio.to_thread(get, f"{bridge.http}{path}", {"X-Forwarded-For": "192.0.2.1"})
                assert status == 503
                assert [word for word in ("public.t", "trigger", "schema") if word in said] == []


async def test_verbose_readiness_says_what_it_rests_on(table: Database) -> None:
    async with Proxy.before(table.dsn) as proxy, running_bridge(proxy.dsn(table.dsn)) as bridge:
        status, text = await answer(bridge, "/readyz?verbose")
        state = json.loads(text)
        assert 0 <= state.pop("heartbeat_age_s") < 60
        assert (status, state) == (
            200,
            {
                "ready": True,
                "reasons": [],
                "draining": False,
                "connections": 0,
                "subscriptions": 0,
                "listening": True,
                "can_read": True,
                "catalog": {"collections": 1, "problems": []},
                "log": {"problems": []},
                "late_topics": [],
            },
        )
        proxy.refuse()
        proxy.cut()
        await bridge.loses_the_database()
        status, text = await answer(bridge, "/readyz?verbose")
        state = json.loads(text)
        assert (status, state["ready"], state["listening"], state["heartbeat_age_s"]) == (503, False, False, None)
        assert state["reasons"][0] == "not listening to the database"
        assert "password" not in text


async def test_topics_for_which_something_waits_are_named_to_this_machine_only(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge, await Client.connect(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "t"})
        await client.expect(event="init")
        client.connection.transport.pause_reading()
        table.execute("INSERT INTO t VALUES (1)")
        await scrape_until(bridge.http, lambda found: found.value("cdc_deliveries_total") == 2)
        table.execute("INSERT INTO t VALUES (2)")  # it waits for the PONG of the first
        await scrape_until(bridge.http, lambda found: found.value("cdc_oldest_undelivered_age_seconds") > 0)
        [topic] = json.loads((await answer(bridge, "/readyz?verbose"))[1])["late_topics"]
        assert (topic["collection"], topic["subscribers"], topic["late"]) == ("t", 1, 1)
        assert topic["waiting_bytes"] > 0
        forwarded = await asyncio.to_thread(get, f"{bridge.http}/readyz?verbose", {"X-Forwarded-For": "192.0.2.1"})
        assert "late_topics" not in json.loads(forwarded[1])
        client.connection.transport.resume_reading()


async def test_verbose_readiness_counts_connections_and_subscriptions(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge:
        assert await bridge.counts() == {"connections": 0, "subscriptions": 0}
        async with await Client.connect(bridge.url) as client:
            for uid in ("a", "b"):
                await client.send({"type": "subscribe", "collection": "t", "uid": uid})
                await client.expect(event="init")
            assert await bridge.counts() == {"connections": 1, "subscriptions": 2}
            await client.send({"type": "unsubscribe", "uid": "a"})
            await client.expect(event="unsubscribe")
            assert await bridge.counts() == {"connections": 1, "subscriptions": 1}
        await bridge.counts_become(connections=0, subscriptions=0)


@pytest.mark.parametrize("path", ["/index.html", "/other", "/websocket/", "/healthz/x"])
async def test_other_paths_are_answered_at_once(table: Database, path: str) -> None:
    async with running_bridge(table.dsn) as bridge:
        assert (await answer(bridge, path))[0] == 404


async def refusal(bridge: RunningBridge, **keywords: Any) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await Client.connect(bridge.url, **keywords)
    return refused.value.response.status_code


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "file://",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1:8765.evil.example",
        "http://[::1",
    ],
)
async def test_page_of_another_host_is_kept_out(table: Database, origin: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "cdc_bridge.server.http")
    async with running_bridge(table.dsn) as bridge:
        assert await refusal(bridge, origin=origin) == 403
    assert [each.facts["origin"] for each in caplog.records if hasattr(each, "facts") and "origin" in each.facts] == [
        origin
    ]


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1:8000", "https://[::1]"])
async def test_page_of_this_machine_is_let_in(table: Database, origin: str) -> None:
    async with running_bridge(table.dsn) as bridge, connected(bridge.url, origin=origin) as client:
        await client.send({"type": "ping"})
        await client.expect(type="pong")


async def test_where_there_is_a_list_its_origins_are_let_in_and_no_other(table: Database) -> None:
    async with running_bridge(table.dsn, allowed_origins=("https://app.example",)) as bridge:
        async with connected(bridge.url, origin="https://app.example") as client, connected(bridge.url) as program:
            for each in (client, program):
                await each.send({"type": "ping"})
                await each.expect(type="pong")
        for origin in ("http://app.example", "https://app.example:444", "https://x.app.example", "http://127.0.0.1:1"):
            assert await refusal(bridge, origin=origin) == 403


async def test_several_origins_or_hosts_are_refused(table: Database) -> None:
    async with running_bridge(table.dsn) as bridge:
        several = [("Origin", "http://localhost"), ("Origin", "http://localhost")]
        assert await refusal(bridge, additional_headers=several) == 403
        assert await refusal(bridge, additional_headers=[("Host", "evil.example")]) == 400


async def test_name_that_resolves_to_this_machine_does_not_make_a_page_ours(table: Database) -> None:
    """DNS rebinding: the page's host is the host that was asked, and yet a stranger's."""
    async with running_bridge(table.dsn) as bridge:
        port = bridge.http.rpartition(":")[2]
        url = f"ws://evil.example:{port}/websocket"
        with pytest.raises(InvalidStatus) as refused:
            await Client.connect(url, origin=f"http://evil.example:{port}", host="127.0.0.1", port=int(port))
        assert refused.value.response.status_code == 403


async def test_connections_past_the_limits_are_refused_before_the_upgrade(table: Database) -> None:
    async with running_bridge(table.dsn, connections_max=2) as bridge, connected(bridge.url), connected(bridge.url):
        assert await refusal(bridge) == 503
    async with running_bridge(table.dsn, connections_per_address_max=1) as bridge:
        async with connected(bridge.url):
            assert await refusal(bridge) == 429
        await a_place(bridge)


async def a_place(bridge: RunningBridge) -> None:
    """Come in as soon as the one before has left: nothing tells a client that the bridge has noticed it."""
    async with asyncio.timeout(10):
        while True:
            try:
                async with connected(bridge.url) as client:
                    await client.send({"type": "ping"})
                    await client.expect(type="pong")
                    return
            except InvalidStatus as refused:
                if refused.response.status_code != 429:
                    raise
            await asyncio.sleep(0.01)


async def test_subscriptions_past_the_limit_are_refused(table: Database) -> None:
    async with running_bridge(table.dsn, subscriptions_max=2) as bridge, connected(bridge.url) as client:
        for number in range(3):
            await client.send({"type": "subscribe", "collection": "t", "uid": number})
        kinds = [(await client.next()) for _ in range(3)]
        assert [message.get("event") for message in kinds].count("init") == 2
        (error,) = [message for message in kinds if message.get("status") == "error"]
        assert (error["error"]["code"], error["uid"]) == ("LIMIT_EXCEEDED", 2)
        await client.send({"type": "unsubscribe", "uid": 0})
        await client.expect(event="unsubscribe", uid=0)
        await client.send({"type": "subscribe", "collection": "t", "uid": "again"})
        await client.expect(event="init", uid="again")
