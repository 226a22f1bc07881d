"""What heartbeats prove, and when a marked gap can be mended."""

from __future__ import annotations

from cdc_bridge.capture.liveness import GapWatch, Proof
from cdc_bridge.change import Gap, Heard, Heartbeat, Listening
from tests.core.facts import insert, row, snapshot

OURS = Heartbeat("us", 0, snapshot(1, 1))
THEIRS = Heartbeat("them", 0, snapshot(1, 1))


def test_nothing_is_passed_before_our_own_heartbeat_has_come_back() -> None:
    proof = Proof("us")
    before: list[Heard | None] = [None, insert(row(id=1)), THEIRS, Gap("a broken payload")]
    assert [proof.hear(heard) for heard in before] == [()] * 4
    assert proof.hear(OURS) == (Listening(),)
    assert proof.hear(THEIRS) == (THEIRS,)
    assert proof.hear(OURS) == (OURS,)
    assert proof.hear(None) == ()


def test_gap_is_told_once_all_that_could_have_made_it_have_ended() -> None:
    watch = GapWatch()
    assert watch.look(5, snapshot(10, 10)) is None
    assert watch.look(6, snapshot(10, 13, 10, 12)) is None
    assert watch.look(6, snapshot(12, 20, 12)) is None
    assert watch.look(6, snapshot(15, 20, 15)) == Gap("a trigger could not tell what changed")
    assert watch.look(6, snapshot(15, 20, 15)) is None


def test_gap_of_a_transaction_that_has_ended_already_is_told_at_once() -> None:
    watch = GapWatch()
    watch.look(5, snapshot(10, 10))
    assert watch.look(6, snapshot(11, 11)) is not None


def test_first_look_tells_nothing_of_the_past() -> None:
    assert GapWatch().look(1000, snapshot(10, 10)) is None


def test_steps_without_end_do_not_put_it_off_for_ever() -> None:
    """At every look the counter has stepped and somebody is in progress."""
    watch = GapWatch()
    told = [watch.look(step, snapshot(100 + step, 101 + step, 100 + step)) is not None for step in range(10)]
    assert told.count(True) >= 4


def test_step_during_the_wait_gets_its_own_mending() -> None:
    watch = GapWatch()
    watch.look(5, snapshot(10, 10))
    watch.look(6, snapshot(10, 11, 10))
    watch.look(7, snapshot(10, 12, 10, 11))
    assert watch.look(7, snapshot(11, 12, 11)) is not None
    assert watch.look(7, snapshot(11, 12, 11)) is None
    assert watch.look(7, snapshot(12, 12)) is not None
