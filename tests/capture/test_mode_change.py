"""A table whose mode is changed: whatever comes after something newer is covered by a gap of that table."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.capture.capture_session import StreamOptions
from cdc_bridge.capture.change_stream import ChangeStream
from cdc_bridge.model.change import Change, Gap, Listening, StreamItem
from tests.capture.ear import attach_tables
from tests.support.server import Database

WITHIN_S = 20.0
NEVER_S = 600.0


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, version int); CREATE TABLE other (id int)")
    return database


@pytest.fixture
async def stream(t: Database) -> AsyncIterator[AsyncGenerator[list[StreamItem], None]]:
    """It does nothing while nobody takes from it."""
    stream = ChangeStream(StreamOptions(t.dsn, heartbeat_interval_s=NEVER_S, heartbeat_timeout_s=WITHIN_S))
    async with aclosing(stream.batches()) as batches:
        yield batches


async def until(batches: AsyncGenerator[list[StreamItem], None], version: int) -> list[int | str]:
    """The versions that are told, up to this one, and "gap" for a gap of the table or of all."""
    told: list[int | str] = []
    while version not in told:
        told += [
            "gap" if isinstance(item, Gap) else int(bytes(item.new[0]["version"]))
            for item in await anext(batches)
            if isinstance(item, Gap) or (isinstance(item, Change) and "version" in item.new[0])
        ]
    return told


async def listening(batches: AsyncGenerator[list[StreamItem], None]) -> None:
    while not any(isinstance(item, Listening) for item in await anext(batches)):
        pass


async def opened(database: Database, batches: AsyncGenerator[list[StreamItem], None]) -> None:
    """The gate is open: what is committed comes with its notification."""
    database.execute("INSERT INTO other VALUES (1)")
    async for batch in batches:
        changes = [item for item in batch if isinstance(item, Change)]
        if any(change.position is not None and change.position.length for change in changes):
            return
        if changes:
            database.execute("INSERT INTO other VALUES (1)")


def write(database: Database, version: int) -> None:
    database.execute("INSERT INTO t VALUES (1, %(v)s) ON CONFLICT (id) DO UPDATE SET version = %(v)s", {"v": version})


def assert_covered(told: list[int | str]) -> None:
    """No version comes after a newer one but after a gap."""
    newest = 0
    for each in told:
        if isinstance(each, int):
            assert each > newest, told
        newest = each if isinstance(each, int) else 0


@pytest.mark.parametrize("has_been_live", [True, False])
async def test_notification_of_the_time_before_does_not_come_after_the_log(
    t: Database, stream: AsyncGenerator[list[StreamItem], None], has_been_live: bool
) -> None:
    """What was notified while the table was live waits behind something that has the log read first."""
    attach_tables(t, "t", mode=Mode.LIVE)
    await listening(stream)
    if has_been_live:
        write(t, 1)
        assert await until(stream, 1) == [1]
    t.execute("SELECT cdc.shut_gate()")
    t.execute("SELECT pg_notify('cdc_' || pg_sequence_last_value('cdc.channel'), E'2 S\\n')")
    write(t, 2)
    attach_tables(t, "t", mode=Mode.DURABLE)
    write(t, 3)
    told = await until(stream, 3)
    write(t, 4)
    told += await until(stream, 4)
    assert_covered(told)


@pytest.mark.parametrize("has_been_durable", [True, False])
async def test_log_of_the_time_before_does_not_come_after_a_notification(
    t: Database,
    stream: AsyncGenerator[list[StreamItem], None],
    monkeypatch: pytest.MonkeyPatch,
    has_been_durable: bool,
) -> None:
    """Somebody has shut the gate, which no heartbeat has found yet, so the log is not read in time."""
    monkeypatch.setattr("cdc_bridge.capture.heartbeat.BEAT_S", NEVER_S)
    attach_tables(t, "t", "other", mode=Mode.DURABLE)
    await listening(stream)
    await opened(t, stream)
    if has_been_durable:
        write(t, 1)
        assert await until(stream, 1) == [1]
    t.execute("SELECT cdc.shut_gate()")
    write(t, 2)
    attach_tables(t, "t", mode=Mode.LIVE)
    write(t, 3)
    told = await until(stream, 2)
    assert_covered(told)
    assert {2, 3} <= set(told)
