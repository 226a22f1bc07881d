"""The bounds of traces, and clocks that differ."""

from __future__ import annotations

import asyncio
import time

import pytest

from cdc_bridge.metrics.tracing import OPEN_S_MAX, Trace, Tracing
from tests.core.facts import insert, row


async def test_no_more_changes_are_traced_at_a_time_than_the_bound_and_none_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cdc_bridge.metrics.tracing.OPEN_MAX", 2)
    ended: list[Trace] = []
    tracing = Tracing(1, ended.append)
    changes = [insert(row(id=1))._replace(xid=xid) for xid in range(3)]
    tracing.begin(changes, None)
    tracing.end_flush(time.time_ns())
    assert [key[0] for key in tracing.open] == [0, 1]
    tracing.end_flush(time.time_ns() + int(OPEN_S_MAX * 1.1e9))
    await asyncio.sleep(0)
    assert [trace.key[0] for trace in ended] == [0, 1]
    assert {trace.cause for trace in ended} == {"match"}
    tracing.begin(changes[2:], None)
    assert [key[0] for key in tracing.open] == [2]


@pytest.mark.parametrize("read_s", [0, 0.5])
def test_change_of_a_clock_that_is_ahead_begins_when_it_came(read_s: float) -> None:
    now_ns = time.time_ns()
    read_ns = now_ns - int(read_s * 1e9) if read_s else 0
    trace = Trace(insert(row(id=1))._replace(at=now_ns // 1000 + 60_000_000), read_ns, now_ns)
    assert trace.began_ns == (read_ns or now_ns)
    assert trace.spans[-1][1] == now_ns
    assert [cause for cause, _ in trace.spans] == (["held", "read"] if read_s else ["held"])


def test_only_what_the_reading_has_found_was_read() -> None:
    tracing = Tracing(1, lambda trace: None)
    tracing.begin([insert(row(id=1))._replace(xid=xid) for xid in range(3)], (time.monotonic() - 1, 2))
    assert [[cause for cause, _ in trace.spans] for trace in tracing.open.values()] == [[], [], ["read"]]
