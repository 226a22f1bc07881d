"""What a capture says, on bad days: whoever listens holds it up by asking for nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from cdc_bridge.capture.log import LogCapture, LogOptions
from cdc_bridge.change import Change, Gap, Heard, Heartbeat, Listening
from cdc_bridge.schema.mode import Mode
from tests.capture.ear import attach_tables
from tests.support.server import Database

WITHIN_S = 20.0
NEVER_S = 600.0


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int, text text); CREATE TABLE grown (id int, text text)")
    attach_tables(database, "t", "grown", mode=Mode.DURABLE)
    return database


@pytest.fixture
def polled(t: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Nothing notifies, and after the first one there is no heartbeat: the log is read at intervals, and no more."""
    monkeypatch.setattr("cdc_bridge.capture.watch.BEAT_S", NEVER_S)
    t.execute("UPDATE cdc.setting SET value = 'off' WHERE name = 'notify'")
    return t


@pytest.fixture
def group() -> set[int]:
    """The tables of one collection; all others have collections of their own."""
    return set()


@pytest.fixture
def congested() -> list[bool]:
    """Anything in it: nobody can take more."""
    return []


@pytest.fixture
async def heard(polled: Database, group: set[int], congested: list[bool]) -> AsyncIterator[AsyncGenerator[Heard, None]]:
    capture = LogCapture(
        LogOptions(polled.dsn, heartbeat_interval_s=NEVER_S, heartbeat_timeout_s=WITHIN_S),
        lambda relation_id: frozenset(group | {relation_id}) if relation_id in group else frozenset({relation_id}),
        lambda relation_ids: bool(congested),
    )
    async with aclosing(capture.heard()) as generator:
        await until(generator, Listening)
        await until(generator, Heartbeat)
        yield generator


async def until(heard: AsyncGenerator[Heard, None], kind: type[Heard]) -> list[Heard]:
    """What is said up to the next of its kind."""
    said: list[Heard] = []
    while not (said and isinstance(said[-1], kind)):
        said.append(await anext(heard))
    return said


def told(said: list[Heard]) -> list[str | list[int]]:
    """The ids of each change, and "gap" for a gap."""
    return [
        "gap" if isinstance(each, Gap) else [int(bytes(row["id"])) for row in each.new]
        for each in said
        if isinstance(each, Gap | Change)
    ]


def lagging(said: list[Heard]) -> frozenset[int]:
    beat = said[-1]
    assert isinstance(beat, Heartbeat)
    return beat.lagging


def forget(database: Database) -> None:
    """What is in the log."""
    database.execute("SELECT cdc.write_to_segment(1)")
    database.execute("SELECT cdc.forget_segment(0)")


async def test_what_was_forgotten_unread_is_said_before_anything_that_comes_after_it(
    polled: Database, heard: AsyncGenerator[Heard, None]
) -> None:
    """Otherwise a cursor of what comes after would claim it."""
    polled.execute("INSERT INTO t VALUES (1)")
    forget(polled)
    polled.execute("INSERT INTO t VALUES (2)")
    assert told(await until(heard, Heartbeat)) == ["gap", [2]]
    polled.execute("INSERT INTO t VALUES (3)")
    assert told(await until(heard, Heartbeat)) == [[3]]


@pytest.mark.parametrize("rows", [3, 3000])
async def test_what_was_forgotten_after_it_was_read_is_not_missed(
    polled: Database, heard: AsyncGenerator[Heard, None], rows: int
) -> None:
    """However long a transaction elsewhere keeps the bridge from forgetting that it saw it."""
    async with await polled.connect(autocommit=False) as elsewhere:
        await elsewhere.execute("SELECT pg_current_xact_id()")
        polled.execute("INSERT INTO t VALUES (1)")
        assert told(await until(heard, Heartbeat)) == [[1]]
        forget(polled)
        polled.execute("INSERT INTO t SELECT 2, repeat('x', 5000) FROM generate_series(1, %s)", [rows])
        said: list[str | list[int]] = []
        while [2] not in [each[:1] for each in said]:
            said = told(await until(heard, Heartbeat))
        assert "gap" not in said


async def test_lane_is_given_up_when_its_table_gets_another_partition(
    polled: Database, heard: AsyncGenerator[Heard, None], group: set[int], congested: list[bool]
) -> None:
    """It does not know of that one; no other lane may tell beside it what it tells."""
    [(t, grown)] = polled.execute("SELECT 't'::regclass::oid::bigint, 'grown'::regclass::oid::bigint")
    group.add(t)
    congested.append(True)
    polled.execute("INSERT INTO t SELECT 1, repeat('x', 5000) FROM generate_series(1, 3000)")
    said = await until(heard, Heartbeat)
    assert told(said) == []
    assert lagging(said) == {t}
    group.add(grown)
    polled.execute("INSERT INTO grown SELECT 2, repeat('x', 5000) FROM generate_series(1, 3000)")
    said = await until(heard, Heartbeat)
    while lagging(said) == {t}:
        said = await until(heard, Heartbeat)
    assert told(said) == ["gap"]
    assert lagging(said) == {t, grown}
    congested.clear()
    ids = []
    while lagging(said):
        said = await until(heard, Heartbeat)
        ids += told(said)
    assert {number for each in ids for number in each} == {2}
    polled.execute("INSERT INTO t VALUES (3)")
    assert told(await until(heard, Heartbeat)) == [[3]]
