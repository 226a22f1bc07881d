"""The canary: a row of the bridge's own that comes all the way, and fails nothing where it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.metrics import scrape, scrape_until
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = pytest.mark.once

CANARY: dict[str, Any] = {"canary_collection": "canary", "canary_interval_s": 0.05}


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.execute("CREATE TABLE canary (id text PRIMARY KEY, beat bigint NOT NULL)")
    attach(database, "t", "canary", mode=Mode.DURABLE)
    return database


@pytest.fixture
def lost_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.metrics.canary.LOST_S", 0.5)


@pytest.mark.parametrize("options", [{}, {"notify": "off"}], ids=["notified", "polled"])
async def test_canary_travels_the_whole_way_and_leaves_nothing_behind(
    tables: Database, options: dict[str, Any]
) -> None:
    async with running_bridge(tables.dsn, **CANARY, **options) as bridge:
        found = await scrape_until(bridge.http, lambda found: found.sum("cdc_canary_seconds_count") >= 3)
        assert found.value("cdc_canary_lost_total") == 0
        assert found.value("cdc_canary_sent_total") >= 3
        assert tables.execute("SELECT count(*) FROM canary") == [(1,)]
    assert tables.execute("SELECT count(*) FROM canary") == [(0,)]


@pytest.mark.parametrize(
    "obstacle",
    [
        "ALTER TABLE canary RENAME TO elsewhere",
        "ALTER TABLE canary DROP COLUMN beat",
        "ALTER TABLE canary ALTER COLUMN beat TYPE text",
        "ALTER TABLE canary ADD CHECK (beat < 0)",
    ],
)
async def test_canary_that_cannot_be_written_or_read_fails_nothing_else(
    tables: Database, obstacle: str, lost_soon: None
) -> None:
    tables.execute(obstacle)
    async with running_bridge(tables.dsn, **CANARY) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "t"})
        await client.until(event="init")
        for number in range(3):
            tables.execute(f"INSERT INTO t VALUES ({number})")
            await client.until(event="create")
        found = await scrape(bridge.http)
        assert found.value("cdc_ready") == 1


async def test_canary_of_which_a_trigger_says_nothing_is_lost(tables: Database, lost_soon: None) -> None:
    async with running_bridge(tables.dsn, **CANARY) as bridge:
        await scrape_until(bridge.http, lambda found: found.sum("cdc_canary_seconds_count") >= 1)
        tables.execute("ALTER TABLE canary DISABLE TRIGGER USER")
        await scrape_until(bridge.http, lambda found: found.value("cdc_canary_lost_total") >= 1)
        attach(tables, "canary")
        mended = (await scrape(bridge.http)).sum("cdc_canary_seconds_count")
        await scrape_until(bridge.http, lambda found: found.sum("cdc_canary_seconds_count") > mended)


async def test_without_its_setting_there_is_no_canary(tables: Database) -> None:
    async with running_bridge(tables.dsn) as bridge:
        found = await scrape(bridge.http)
        assert found.sum("cdc_canary_sent_total") == 0
        assert "cdc_canary_sent" in found.families
    assert tables.execute("SELECT count(*) FROM canary") == [(0,)]
