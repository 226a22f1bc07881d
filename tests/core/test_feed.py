"""Initial data and stream meet without a gap or an overlap, whatever the order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.engine.feed import Feed, Phase
from cdc_bridge.model.subscription import Event, EventKind
from tests.core.facts import snapshot


def event(label: str) -> tuple[Event, ...]:
    return (Event(EventKind.CREATE, (label.encode(),)),)


def labels(groups: list[tuple[Event, ...]]) -> list[str]:
    return [row.decode() for events in groups for e in events for row in e.rows or ()]


def test_change_is_held_until_the_data_is_there() -> None:
    feed = Feed(held_bytes_max=10_000)
    assert feed.offer(12, event("later")) == ()
    assert feed.phase is Phase.HOLDING
    assert labels(feed.begin(snapshot(10, 12)) or []) == ["later"]


def test_change_that_the_data_holds_is_dropped_before_and_after_it() -> None:
    feed = Feed(held_bytes_max=10_000)
    feed.offer(9, event("seen, heard early"))
    assert feed.begin(snapshot(10, 12, 10)) == []
    assert feed.offer(11, event("seen, heard late")) == ()
    assert feed.offer(10, event("was in progress")) == event("was in progress")
    assert feed.offer(12, event("came later")) == event("came later")


def test_feed_is_live_once_a_heartbeat_proves_that_the_past_has_passed() -> None:
    feed = Feed(held_bytes_max=10_000)
    feed.begin(snapshot(10, 12, 10))
    phases = []
    for heartbeat in (snapshot(11, 13, 11), snapshot(12, 14)):
        feed.heard(heartbeat)
        phases.append(feed.phase)
    assert phases == [Phase.MEETING, Phase.LIVE]
    assert feed.offer(3, event("x")) == event("x")


def test_hold_forgets_and_counts() -> None:
    feed = Feed(held_bytes_max=10_000)
    feed.offer(12, event("before the gap"))
    feed.hold()
    assert feed.epoch == 1
    assert feed.begin(snapshot(10, 11)) == []


def test_too_many_held_changes_call_for_newer_data() -> None:
    feed = Feed(held_bytes_max=1000)
    for xid in range(12, 40):
        feed.offer(xid, event("x" * 50))
    assert feed.begin(snapshot(10, 12)) is None
    assert feed.epoch == 1
    feed.offer(50, event("fits"))
    assert labels(feed.begin(snapshot(45, 46)) or []) == ["fits"]


@given(st.data())
def test_every_commit_is_in_the_data_or_in_the_stream_and_never_in_both(data: st.DataObject) -> None:
    """Transactions commit in any order; the snapshot is taken anywhere, notifications come late or early."""
    xids = data.draw(st.permutations(range(10, 18)), label="commit order")
    taken_after = data.draw(st.integers(0, len(xids)), label="commits that the snapshot sees")
    heard_before_taking = data.draw(st.integers(0, taken_after), label="notifications heard when it was asked for")
    read_after = data.draw(st.integers(heard_before_taking, len(xids)), label="notifications heard when it was read")
    seen = set(xids[:taken_after])
    in_progress = set(range(10, 18)) - seen
    feed = Feed(held_bytes_max=100_000)
    streamed: list[str] = []
    for xid in xids[heard_before_taking:read_after]:
        assert feed.offer(xid, event(str(xid))) == ()
    streamed += labels(feed.begin(snapshot(min(in_progress, default=18), 18, *in_progress)) or [])
    for xid in xids[read_after:]:
        streamed += labels([feed.offer(xid, event(str(xid)))])
    assert streamed == [str(xid) for xid in xids if xid not in seen]


def test_change_that_cannot_be_told_is_lacking_unless_the_data_have_it() -> None:
    feed = Feed(held_bytes_max=10_000)
    assert not feed.lack(12)
    assert (feed.lacks(snapshot(12, 12)), feed.lacks(snapshot(13, 13))) == (True, False)
    feed.begin(snapshot(13, 13))
    assert (feed.lack(12), feed.lack(13), feed.epoch) == (False, True, 0)


def test_what_is_lacking_is_forgotten_with_all_that_was_kept() -> None:
    feed = Feed(held_bytes_max=10_000)
    feed.lack(12)
    feed.hold()
    assert not feed.lacks(snapshot(12, 12))


def test_too_much_that_is_lacking_calls_for_newer_data() -> None:
    feed = Feed(held_bytes_max=1000)
    for xid in range(12, 40):
        feed.lack(xid)
    assert feed.begin(snapshot(40, 40)) is None
