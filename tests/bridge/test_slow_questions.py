"""A question that PostgreSQL answers late holds up those who need the answer, and nobody else."""

from __future__ import annotations

import psycopg
import pytest

from tests.bridge.test_rights_attacks import ANN, Place, bare, bridge, follow, ids, person, place
from tests.support.wsclient import Client

__all__ = ["bare", "place"]

pytestmark = pytest.mark.once

SLOW = """
CREATE OR REPLACE FUNCTION auth.is_mine(owner uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN owner = auth.uid(); END $$"""


NO_KEYS = "SET session_replication_role = replica"
"""Or the foreign key would wait for the lock, too."""


async def comes(client: Client, uid: str, number: int) -> None:
    """By an event, or in fresh data."""
    seen: set[int] = set()
    while number not in seen:
        seen.update(ids(await client.until(uid=uid)))


async def test_policy_that_waits_holds_up_no_other_table(place: Place) -> None:
    place.database.execute(SLOW)
    async with bridge(place) as running, person(running, place.user, ANN) as ann:
        await follow(ann, "notes")
        await follow(ann, "judged")
        with psycopg.connect(place.database.dsn, autocommit=True) as locker:
            locker.execute("SELECT pg_advisory_lock(7)")
            ann.seen.clear()
            for number in (7, 8):
                place.database.execute(f"INSERT INTO judged VALUES ({number}, '{ANN}', 'x')")
                place.database.execute(f"INSERT INTO notes VALUES ({number}, '{ANN}', 'x')")
                assert ids(await ann.until(uid="notes")) == [number]
            assert not any(message.get("uid") == "judged" for message in ann.seen)
        await comes(ann, "judged", 8)


async def test_locked_table_behind_a_relation_holds_up_no_other_subscription(place: Place) -> None:
    async with bridge(place) as running, person(running, place.user, ANN) as ann:
        await follow(ann, "notes")
        await ann.send(
            {"type": "subscribe", "collection": "notes", "uid": "nested", "query": {"fields": ["id", "room.name"]}}
        )
        await ann.until(uid="nested", event="init")
        with psycopg.connect(place.database.dsn) as locker:
            locker.execute("LOCK TABLE rooms IN ACCESS EXCLUSIVE MODE")
            for number in (7, 8):
                place.database.execute(f"{NO_KEYS}; INSERT INTO notes VALUES ({number}, '{ANN}', 'x')")
                assert ids(await ann.until(uid="notes")) == [number]
        await comes(ann, "nested", 8)
