"""What a capture says, on bad days: whoever listens holds it up by asking for nothing more."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from cdc_bridge import __version__
from cdc_bridge.admin.mode import Mode
from cdc_bridge.capture.capture_session import StreamOptions
from cdc_bridge.capture.change_stream import ChangeStream
from cdc_bridge.conninfo import heartbeat_name
from cdc_bridge.model.change import Change, Gap, Heartbeat, Listening, Lost, StreamItem
from tests.capture.ear import attach_tables
from tests.support.server import Database

WITHIN_S = 20.0
APART_S = 0.7
NEVER_S = 600.0


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int, text text); CREATE TABLE grown (id int, text text)")
    attach_tables(database, "t", "grown", mode=Mode.DURABLE)
    return database


@pytest.fixture(autouse=True)
def _gaps_are_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.capture.change_stream.GAPS_APART_S", APART_S)


@pytest.fixture
def polled(t: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Nothing notifies, and after the first one there is no heartbeat: the log is read at intervals, and no more."""
    monkeypatch.setattr("cdc_bridge.capture.heartbeat.BEAT_S", NEVER_S)
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
async def heard(
    polled: Database, group: set[int], congested: list[bool]
) -> AsyncIterator[AsyncGenerator[StreamItem, None]]:
    capture = ChangeStream(
        StreamOptions(polled.dsn, heartbeat_interval_s=NEVER_S, heartbeat_timeout_s=WITHIN_S),
        lambda relation_id: frozenset(group | {relation_id}) if relation_id in group else frozenset({relation_id}),
        lambda relation_ids: bool(congested),
    )
    async with aclosing(items(capture)) as generator:
        await until(generator, Listening)
        await until(generator, Heartbeat)
        yield generator


async def items(capture: ChangeStream) -> AsyncGenerator[StreamItem, None]:
    """The items of all batches, one by one."""
    async with aclosing(capture.batches()) as batches:
        async for batch in batches:
            for item in batch:
                yield item


async def until(heard: AsyncGenerator[StreamItem, None], kind: type[StreamItem]) -> list[StreamItem]:
    """What is said up to the next of its kind."""
    said: list[StreamItem] = []
    while not (said and isinstance(said[-1], kind)):
        said.append(await anext(heard))
    return said


def told(said: list[StreamItem]) -> list[str | list[int]]:
    """The ids of each change, and the cause of each gap."""
    return [
        each.cause.value if isinstance(each, Gap) else [int(bytes(row["id"])) for row in each.new]
        for each in said
        if isinstance(each, Gap | Change)
    ]


def lagging(said: list[StreamItem]) -> frozenset[int]:
    beat = said[-1]
    assert isinstance(beat, Heartbeat)
    return beat.lagging


def forget(database: Database) -> None:
    """What is in the log."""
    database.execute("SELECT cdc.write_to_segment(1)")
    database.execute("SELECT cdc.forget_segment(0)")


def log_nonsense(database: Database) -> None:
    database.execute(
        "INSERT INTO cdc.change_log_0 (seq, xid, at, relation, filenode, operation, new)"
        " VALUES (pg_current_wal_insert_lsn(), pg_current_xact_id(), now(), 't'::regclass, 0, 'I', 'nonsense')"
    )


def notify_nonsense(database: Database) -> None:
    database.execute("SELECT pg_notify('cdc_' || pg_sequence_last_value('cdc.channel'), 'nonsense')")


async def test_what_was_forgotten_unread_is_said_before_anything_that_comes_after_it(
    polled: Database, heard: AsyncGenerator[StreamItem, None]
) -> None:
    """Otherwise a cursor of what comes after would claim it."""
    polled.execute("INSERT INTO t VALUES (1)")
    forget(polled)
    polled.execute("INSERT INTO t VALUES (2)")
    assert told(await until(heard, Heartbeat)) == ["forgotten", [2]]
    polled.execute("INSERT INTO t VALUES (3)")
    assert told(await until(heard, Heartbeat)) == [[3]]


@pytest.mark.parametrize("rows", [3, 3000])
async def test_what_was_forgotten_after_it_was_read_is_not_missed(
    polled: Database, heard: AsyncGenerator[StreamItem, None], rows: int
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
        assert "forgotten" not in said


async def test_lane_is_given_up_when_its_table_gets_another_partition(
    polled: Database, heard: AsyncGenerator[StreamItem, None], group: set[int], congested: list[bool]
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
    assert told(said) == ["bulk_read"]
    assert lagging(said) == {t, grown}
    congested.clear()
    ids = []
    while lagging(said):
        said = await until(heard, Heartbeat)
        ids += told(said)
    assert {number for each in ids for number in each} == {2}
    polled.execute("INSERT INTO t VALUES (3)")
    assert told(await until(heard, Heartbeat)) == [[3]]


async def test_collections_that_are_much_together_wait_for_clients_together(
    polled: Database, heard: AsyncGenerator[StreamItem, None], congested: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is large. Whoever follows all of them could be told too much at once."""
    monkeypatch.setattr("cdc_bridge.capture.log_pages.READ_ALL_BYTES_MAX", 5_000_000)
    [(t, grown)] = polled.execute("SELECT 't'::regclass::oid::bigint, 'grown'::regclass::oid::bigint")
    congested.append(True)
    polled.execute(
        "BEGIN; INSERT INTO t SELECT 1, repeat('x', 5000) FROM generate_series(1, 600);"
        "INSERT INTO grown SELECT 2, repeat('x', 5000) FROM generate_series(1, 600); COMMIT"
    )
    said = await until(heard, Heartbeat)
    assert told(said) == []
    assert lagging(said) == {t, grown}
    congested.clear()
    ids = []
    while lagging(said):
        said = await until(heard, Heartbeat)
        ids += told(said)
    assert [number for each in ids for number in each] == [1] * 600 + [2] * 600


async def test_nonsense_in_the_log_is_a_gap_but_not_too_often(
    polled: Database, heard: AsyncGenerator[StreamItem, None]
) -> None:
    """What comes after it waits for that gap, so that no position claims what could not be read."""
    log_nonsense(polled)
    assert told(await until(heard, Gap)) == ["unreadable"]
    told_s = time.monotonic()
    log_nonsense(polled)
    polled.execute("INSERT INTO t VALUES (1)")
    log_nonsense(polled)
    assert told(await until(heard, Gap)) == ["unreadable"]
    assert time.monotonic() - told_s > APART_S * 0.9
    polled.execute("INSERT INTO t VALUES (2)")
    assert told(await until(heard, Heartbeat)) == [[2]]


async def test_heartbeat_does_not_claim_what_nonsense_in_the_log_holds_up(t: Database) -> None:
    """Whatever the gate does meanwhile."""
    capture = ChangeStream(StreamOptions(t.dsn, heartbeat_interval_s=0.05))
    async with aclosing(items(capture)) as heard:
        await until(heard, Listening)
        log_nonsense(t)
        await until(heard, Gap)
        log_nonsense(t)
        [(xid,)] = t.execute("INSERT INTO t VALUES (1) RETURNING pg_current_xact_id()::text::bigint")
        said = await until(heard, Gap)
        assert told(said) == ["unreadable"]
        beats = [each for each in said if isinstance(each, Heartbeat)]
        assert beats
        assert not any(beat.snapshot.sees(xid) for beat in beats)
        t.execute("INSERT INTO t VALUES (2)")
        assert told(await until(heard, Change)) == [[2]]


async def test_session_of_heartbeats_says_for_how_long_not_all_changes_have_been_had(t: Database) -> None:
    """Here a large transaction is kept waiting, since nobody takes it."""
    names = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
    current = heartbeat_name(__version__, 0)
    is_congested = True
    capture = ChangeStream(StreamOptions(t.dsn), is_congested=lambda relation_ids: is_congested)
    async with aclosing(items(capture)) as heard:
        await until(heard, Listening)
        await until(heard, Heartbeat)
        assert (current,) in t.execute(names)
        t.execute("INSERT INTO t SELECT n FROM generate_series(10, 200000) n")
        while not any(re.fullmatch(r"cdc_bridge heartbeat \S+ [1-9] s behind", name) for (name,) in t.execute(names)):
            await until(heard, Heartbeat)
        is_congested = False
        while (current,) not in t.execute(names):
            await anext(heard)


async def test_notifications_that_are_nonsense_are_a_gap_but_not_too_often_and_one_after_the_last(t: Database) -> None:
    """What the log has of the same time is told, and no gap waits for it."""
    capture = ChangeStream(StreamOptions(t.dsn))
    gaps_s: list[float] = []
    changes: list[str | list[int]] = []
    last_s = 0.0

    async def listen() -> None:
        async with aclosing(items(capture)) as heard:
            await until(heard, Listening)
            listening.set()
            async for each in heard:
                changes.extend(told([each]) if isinstance(each, Change) else [])
                gaps_s.extend([time.monotonic()] if isinstance(each, Gap) else [])

    listening = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(listen())
        await listening.wait()
        for number in range(10):
            t.execute("INSERT INTO t VALUES (%s)", [number])
            notify_nonsense(t)
            last_s = time.monotonic()
            await asyncio.sleep(APART_S / 5)
        await asyncio.sleep(APART_S * 1.5)
        task.cancel()
    assert changes == [[number] for number in range(10)]
    assert len(gaps_s) <= 4
    assert last_s < gaps_s[-1] < last_s + APART_S * 1.4


async def test_who_takes_what_is_told_late_has_not_lost_the_database(t: Database) -> None:
    """While nobody takes it no heartbeat is sent or heard, and that proves nothing."""
    capture = ChangeStream(StreamOptions(t.dsn, heartbeat_interval_s=0.2, heartbeat_timeout_s=1))
    async with aclosing(items(capture)) as heard:
        await until(heard, Listening)
        await until(heard, Heartbeat)
        for _ in range(2):
            t.execute("INSERT INTO t VALUES (1)")
            assert not any(isinstance(each, Lost) for each in await until(heard, Change))
            await asyncio.sleep(2)
