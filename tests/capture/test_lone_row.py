"""What a row costs that comes alone, counted in calls of our own functions: time is worth nothing where others work."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing
from types import FrameType
from typing import Any

import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.capture.capture_session import StreamOptions
from cdc_bridge.capture.change_stream import ChangeStream
from cdc_bridge.model.change import Change, Heartbeat
from tests.capture.ear import attach_tables
from tests.support.server import Database

CALLS_MAX = 40
WITHIN_S = 30.0
ALONE_S = 0.05


@pytest.fixture(autouse=True)
def _counting_ends() -> Iterator[None]:
    yield
    sys.setprofile(None)


async def test_lone_row_that_is_notified_is_not_looked_at_with_all_that_could_be_due(database: Database) -> None:
    """Rows are read from the log until the gate is open, so the first ones cost more."""
    database.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t", mode=Mode.DURABLE)
    calls = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_globals["__name__"].startswith("cdc_bridge.")

    stream = ChangeStream(StreamOptions(database.dsn))
    async with (
        aclosing(stream.batches()) as batches,
        await database.connect() as writer,
        asyncio.timeout(WITHIN_S),
    ):
        async for batch in batches:
            sys.setprofile(None)
            if isinstance(batch[-1], Change) and calls <= CALLS_MAX:
                return
            if isinstance(batch[-1], Change | Heartbeat):
                await asyncio.sleep(ALONE_S)
                calls = 0
                sys.setprofile(count)
                await writer.execute("INSERT INTO t VALUES (1)")
