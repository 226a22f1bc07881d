"""What metrics say of rights: policies that PostgreSQL evaluates, and tokens that are no good."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.bridge.test_rights_attacks import ANN, BOB, Place, bare, bridge, follow, ids, person, place
from tests.bridge.test_slow_questions import SLOW
from tests.support.metrics import scrape, scrape_until

__all__ = ["bare", "place"]

pytestmark = pytest.mark.once


async def test_change_that_a_policy_shows_to_nobody_is_counted_and_what_the_policy_took(place: Place) -> None:
    async with bridge(place) as running, person(running, place.user, ANN) as ann:
        await follow(ann, "judged")
        place.execute(f"INSERT INTO judged VALUES (7, '{BOB}', 'his')")
        found = await scrape_until(
            running.http, lambda found: found.value("cdc_changes_undelivered_total", reason="policy") == 1
        )
        place.execute(f"INSERT INTO judged VALUES (8, '{ANN}', 'hers')")
        assert ids(await ann.until(uid="judged")) == [8]
        found = await scrape(running.http)
        assert found.value("cdc_changes_undelivered_total", reason="policy") == 1
        assert found.value("cdc_evaluations_total") == 2
        assert found.value("cdc_evaluation_seconds_count") == 2
        assert found.value("cdc_lag_seconds_count", cause="asked") == 2
        assert found.value("cdc_policy_evaluation_seconds_count", collection="judged", policy="own") >= 2


async def test_policy_that_takes_too_long_is_counted_with_its_time_and_what_follows_from_it(place: Place) -> None:
    async with bridge(place, evaluation_timeout_s=0.2) as running, person(running, place.user, ANN) as ann:
        await follow(ann, "judged")
        place.execute(SLOW)
        with psycopg.connect(place.database.dsn, autocommit=True) as locker:
            locker.execute("SELECT pg_advisory_lock(7)")
            place.execute(f"INSERT INTO judged VALUES (7, '{ANN}', 'hers')")
            found = await scrape_until(
                running.http, lambda found: found.value("cdc_resyncs_total", reason="undecided") == 1
            )
        assert found.value("cdc_policy_evaluation_seconds_sum", collection="judged", policy="own") > 0.1
        await ann.until(event="init", reason="resync")


async def test_change_for_somebody_whose_token_has_expired_is_counted(place: Place) -> None:
    async with bridge(place) as running, person(running, place.user, ANN, exp=int(time.time()) + 2) as ann:
        await follow(ann, "notes")
        await ann.until(type="auth")  # it has expired
        place.execute(f"INSERT INTO notes VALUES (7, '{ANN}', 'hers', 'x', 1)")
        await scrape_until(
            running.http, lambda found: found.value("cdc_changes_undelivered_total", reason="paused") == 1
        )
        await ann.send({"type": "unsubscribe", "uid": "notes"})
        await ann.until(event="unsubscribe")
        place.execute(f"INSERT INTO notes VALUES (8, '{ANN}', 'hers', 'x', 1)")
        found = await scrape_until(
            running.http, lambda found: found.value("cdc_changes_undelivered_total", reason="not_subscribed") == 1
        )
        assert found.value("cdc_changes_undelivered_total", reason="paused") == 1
