"""Metrics by their reasons, each brought about: what nobody was sent, why clients began anew, what was refused."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest

from cdc_bridge.access.authenticator import mint
from cdc_bridge.admin.mode import Mode
from cdc_bridge.metrics.names import AUTHENTICATION_REASONS, CURSOR_OUTCOMES, OTHER_REASON
from cdc_bridge.server.traffic import SAMPLED
from tests.bridge.missed import gaps_are_mended
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.follower import following
from tests.support.metrics import Scrape, scrape, scrape_until
from tests.support.proxy import Proxy
from tests.support.rawclient import PING, PONG, TEXT, Raw, frame, upgraded
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once

SECRET = "a secret of some thirty-two bytes"


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, text text);"
        "CREATE TABLE live (id int PRIMARY KEY, text text);"
        "CREATE TABLE parted (id int PRIMARY KEY, t int REFERENCES t) PARTITION BY RANGE (id);"
        "CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (1000000)"
    )
    attach(database, "t", "parted", mode=Mode.DURABLE)
    attach(database, "live", mode=Mode.LIVE)
    return database


async def subscribe(client: Client, collection: str = "t", **request: Any) -> Any:
    await client.send({"type": "subscribe", "collection": collection, "uid": collection} | request)
    return await client.until(event="init", uid=request.get("uid", collection))


@asynccontextmanager
async def busy(bridge: RunningBridge, collection: str, **request: Any) -> AsyncIterator[tuple[Raw, bytes]]:
    """A client that has been sent its data, and does not say that it has read them: with the payload to say so."""
    async with upgraded(int(bridge.http.rpartition(":")[2])) as raw:
        await raw.send(frame(TEXT, json.dumps({"type": "subscribe", "collection": collection} | request).encode()))
        frames = raw.frames()
        _, (opcode, payload) = [await anext(frames) for _ in range(2)]
        assert opcode == PING
        yield raw, payload


async def test_every_operation_is_counted_and_what_nobody_wants_by_the_reason(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        await subscribe(client, event="delete")
        tables.execute("INSERT INTO t VALUES (1)")
        tables.execute("UPDATE t SET text = 'x'")
        tables.execute("INSERT INTO parted VALUES (1)")
        tables.execute("TRUNCATE parted")
        tables.execute("DELETE FROM t")
        await client.until(event="delete")
        tables.execute("TRUNCATE t CASCADE")
        found = await scrape_until(
            bridge.http, lambda found: found.value("cdc_changes_total", collection="t", operation="truncate") == 1
        )
    for operation in ("insert", "update", "delete", "truncate"):
        assert found.value("cdc_changes_total", collection="t", operation=operation) == 1
    assert found.value("cdc_changes_undelivered_total", reason="filter") == 2
    assert found.value("cdc_changes_undelivered_total", reason="not_subscribed") == 3


async def test_change_that_somebody_is_sent_at_once_and_nobody_after_a_question_is_delivered(tables: Database) -> None:
    """What a filter through another table says, PostgreSQL has to be asked."""
    tables.execute("INSERT INTO t VALUES (1, 'a')")
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        for number, text in enumerate("bc"):
            await subscribe(client, "parted", query={"filter": {"t": {"text": {"_eq": text}}}}, uid=str(number))
        tables.execute("INSERT INTO parted VALUES (1, 1)")
        found = await scrape_until(bridge.http, lambda found: found.value("cdc_evaluations_total") >= 2)
        assert found.value("cdc_changes_undelivered_total", reason="filter") == 1, "once, of two questions"
        await subscribe(client, "parted", uid="all")
        tables.execute("INSERT INTO parted VALUES (2, 1)")
        await client.until(event="create")
        found = await scrape_until(bridge.http, lambda found: found.value("cdc_evaluations_total") >= 4)
        assert found.value("cdc_changes_undelivered_total", reason="filter") == 1


async def test_time_to_read_the_log_is_counted_and_the_gate_says_that_it_is_shut(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge:
        await scrape_until(bridge.http, lambda found: found.value("cdc_gate_state", state="open") == 1)
    attach(tables, "live", mode=Mode.DURABLE)
    async with running_bridge(tables.dsn, notify="off") as bridge:
        tables.execute("INSERT INTO t VALUES (1)")
        found = await scrape_until(bridge.http, lambda found: found.value("cdc_lag_seconds_count", cause="read") >= 1)
        assert found.value("cdc_gate_state", state="shut") == 1


@pytest.mark.parametrize("collection", ["t", "live"])
async def test_change_that_waits_behind_a_frame_has_an_age_and_a_time_in_the_queue(
    tables: Database, collection: str
) -> None:
    """One frame in 16 is measured."""
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        for _ in range(SAMPLED - 1):
            await client.send({"type": "ping"})
            await client.until(type="pong")
        async with busy(bridge, collection) as (raw, payload):
            tables.execute(f"INSERT INTO {collection} VALUES (1)")
            first = await scrape_until(bridge.http, lambda found: found.value("cdc_backlog_bytes") > 0)
            later = await scrape(bridge.http)
            assert later.value("cdc_oldest_undelivered_age_seconds") > first.value("cdc_oldest_undelivered_age_seconds")
            await raw.send(frame(PONG, payload))
            found = await scrape_until(
                bridge.http, lambda found: found.value("cdc_lag_seconds_count", cause="queued") == 1
            )
        assert found.value("cdc_oldest_undelivered_age_seconds") == found.value("cdc_backlog_bytes") == 0


async def test_gaps_and_resyncs_are_counted_by_the_reason(tables: Database) -> None:
    async with Proxy.before(tables.dsn) as proxy:
        options: dict[str, Any] = {"heartbeat_interval_s": 0.2, "reconnect_delay_max_s": 0.2, "jwt_secret": SECRET}
        more: dict[str, Any] = {"auth_mode": "public", "roles": ("postgres",), "backlog_bytes_max": 20_000}
        async with (
            running_bridge(proxy.dsn(tables.dsn), **options, **more) as bridge,
            connected(bridge.url) as client,
        ):
            for collection in ("t", "live", "parted"):
                await subscribe(client, collection)

            async def counted(metric: str, reason: str, statement: str, uid: str = "t") -> None:
                assert (await scrape(bridge.http)).value(metric, reason=reason) == 0
                tables.execute(statement)
                await client.until(event="init", reason="resync", uid=uid)
                await scrape_until(bridge.http, lambda found: found.value(metric, reason=reason) >= 1)

            assert (await scrape(bridge.http)).sum("cdc_resyncs_total") == 0
            tables.execute("INSERT INTO t VALUES (1)")
            await client.until(event="create")
            await counted("cdc_gaps_total", "trigger", "SELECT cdc.mark_gap()")
            await gaps_are_mended(tables)
            await counted("cdc_resyncs_total", "catalog", "ALTER TABLE t ADD COLUMN more int")
            await counted("cdc_resyncs_total", "stream", "TRUNCATE part", "parted")
            nonsense = "SELECT pg_notify('cdc_' || pg_sequence_last_value('cdc.channel'), 'nonsense')"
            await counted("cdc_gaps_total", "unreadable", nonsense)
            attach(tables, "t", mode=Mode.LIVE)
            await counted("cdc_gaps_total", "mode", "INSERT INTO t VALUES (2)")
            proxy.cut()
            await client.until(reason="resync", uid="live")
            await client.send({"type": "auth", "access_token": mint(SECRET, {"role": "postgres"})})
            await client.until(reason="resync", uid="live")
            async with busy(bridge, "live", overflow="resync") as (raw, payload):
                for number in range(2):
                    tables.execute(f"INSERT INTO live SELECT {number}, repeat('x', 15000)")
                    await client.until(event="create", uid="live")
                await raw.send(frame(PONG, payload))
                assert (await raw.text())["reason"] == "resync"
            found = await scrape(bridge.http)
        for reason in ("gap", "listening", "rights", "overflow"):
            assert found.value("cdc_resyncs_total", reason=reason) >= 1, reason


async def test_cursors_are_counted_by_what_became_of_them(tables: Database) -> None:
    async with running_bridge(tables.dsn, heartbeat_interval_s=0.1) as bridge:
        counts = Counter[str]()

        async def comes_back(outcome: str, cursor: str, collection: str = "t", **request: Any) -> None:
            async with connected(bridge.url) as client:
                answer = await subscribe(client, collection, cursor=True, after=cursor, **request)
            assert answer.get("resumed", False) == (outcome == "resumed")
            counts[outcome] += 1
            found = await scrape(bridge.http)
            assert {each: found.value("cdc_cursors_total", outcome=each) for each in CURSOR_OUTCOMES} == {
                each: counts[each] for each in CURSOR_OUTCOMES
            }

        async with following(bridge.url, "t") as follower:
            tables.execute("INSERT INTO t VALUES (1)")
            await follower.knows(1)
            cursor = follower.cursor
        await comes_back("resumed", cursor)
        await comes_back("not_ours", "nonsense")
        await comes_back("no_log", cursor, "live")
        await comes_back("other_tables", cursor, related=True)
        tables.execute("SELECT cdc.write_to_segment(1), cdc.forget_segment(0)")
        async with connected(bridge.url) as client:
            await subscribe(client, cursor=True, after=cursor)
            await client.until(event="init", reason="resync")
        counts["resumed"] += 1
        counts["forgotten"] += 1
        tables.execute("SELECT cdc.mark_gap()")
        await gaps_are_mended(tables)
        await comes_back("gap", cursor)
        async with following(bridge.url, "t") as follower:
            cursor = follower.cursor
            tables.execute("ALTER TABLE t ALTER text TYPE varchar")
            await follower.is_resynced()
        await comes_back("altered", cursor)


REFUSED: dict[str, Callable[[], str]] = {
    "expired": lambda: token(exp=1),
    "not_yet_valid": lambda: token(nbf=time.time() + 1000),
    "audience": lambda: token(aud="others"),
    "issuer": lambda: token(iss="others"),
    "unknown_key": lambda: mint(SECRET.upper(), {"role": "postgres"}),
    "algorithm": lambda: jwt.encode({"role": "postgres"}, SECRET * 2, algorithm="HS512"),
    "role": lambda: token(role="others"),
    "malformed": lambda: "none",
}


def token(**claims: Any) -> str:
    return mint(SECRET, {"role": "postgres", "aud": "us", "iss": "we"} | claims)


async def test_tokens_that_are_refused_are_counted_by_the_reason(tables: Database) -> None:
    assert REFUSED.keys() == {*AUTHENTICATION_REASONS.values(), OTHER_REASON}
    options: dict[str, Any] = {"jwt_secret": SECRET, "auth_mode": "public", "roles": ("postgres",)}
    checked: dict[str, Any] = {"jwt_audience": "us", "jwt_issuer": "we"}
    async with running_bridge(tables.dsn, **options, **checked) as bridge, connected(bridge.url) as client:
        for reason, forged in REFUSED.items():
            await client.send({"type": "auth", "access_token": forged()})
            await client.until(type="auth", status="error")
            found = await scrape(bridge.http)
            assert found.value("cdc_authentication_failures_total", reason=reason) == 1, reason
        await client.send({"type": "auth", "access_token": token()})
        await client.until(type="auth", status="ok")
    assert found.sum("cdc_authentication_failures_total") == len(REFUSED)


async def test_reads_are_counted_by_kind_with_their_time_in_the_queue(tables: Database) -> None:
    tables.execute("INSERT INTO t VALUES (1)")
    async with running_bridge(tables.dsn) as bridge, connected(bridge.url) as client:
        first = await subscribe(client, cursor=True)
        await subscribe(client, uid="figures", query={"aggregate": {"count": "*"}})
        await subscribe(client, uid="resumed", cursor=True, after=first["cursor"])
        tables.execute("INSERT INTO t VALUES (2)")
        await client.until(uid="figures", event="update")

        def counted(found: Scrape) -> bool:
            kinds = ("rows", "alone", "replay", "refresh")
            names = ("cdc_read_seconds_count", "cdc_read_queue_seconds_count")
            return all(found.value(name, kind=kind) >= 1 for name in names for kind in kinds)

        found = await scrape_until(bridge.http, counted)
        assert found.value("cdc_reads_waiting") == 0


async def test_closes_are_counted_by_who_closed_and_with_which_code(tables: Database) -> None:
    async with running_bridge(tables.dsn, jwt_secret=SECRET, auth_mode="handshake") as bridge:
        async with connected(bridge.url) as client:
            await client.send({"type": "ping"})
            code = await client.closed()
        async with connected(bridge.url) as client:
            await client.connection.close(1001)
        async with connected(bridge.url) as client:
            client.connection.transport.abort()
            found = await scrape_until(bridge.http, lambda found: found.sum("cdc_closes_total") == 3)
    assert found.value("cdc_closes_total", by="bridge", code=str(code)) == 1
    assert found.value("cdc_closes_total", by="client", code="1001") == 1
    assert found.value("cdc_closes_total", by="client", code="1006") == 1
