"""What heartbeats prove, and when a marked gap can be mended."""

from __future__ import annotations

from cdc_bridge.capture.liveness import GapWatch, Proof
from cdc_bridge.change import Gap, Heard, Heartbeat, Listening, Snapshot
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


def told(*looks: tuple[int, Snapshot]) -> list[bool]:
    watch = GapWatch()
    return [watch.look(counter, seen) is not None for counter, seen in looks]


NOBODY = snapshot(50, 50)


def test_step_is_told_at_once_and_again_when_all_that_could_have_made_it_have_ended() -> None:
    assert told(
        (5, snapshot(10, 10)),
        (6, snapshot(10, 13, 10, 12)),
        (6, snapshot(12, 20, 12)),
        (6, snapshot(15, 20, 15)),
        (6, snapshot(15, 20, 15)),
    ) == [False, True, False, True, False]


def test_step_of_a_transaction_that_has_ended_already_is_told_once() -> None:
    assert told((5, snapshot(10, 10)), (6, snapshot(11, 11)), (6, NOBODY), (6, NOBODY)) == [False, True, False, False]


def test_step_from_before_the_first_look_is_told_when_it_may_have_committed() -> None:
    """`Listening` has mended what had committed by then, and no more."""
    assert told((5, snapshot(10, 12, 10)), (5, snapshot(10, 13, 10)), (5, NOBODY)) == [False, False, True]


def test_first_look_tells_nothing_where_nobody_can_have_stepped() -> None:
    assert told((1000, snapshot(10, 10)), (1000, NOBODY), (1000, NOBODY)) == [False, False, False]
    assert told((0, snapshot(10, 12, 10)), (0, NOBODY), (0, NOBODY)) == [False, False, False]


def test_steps_without_end_are_told_again_and_again_but_not_each_time() -> None:
    looks = [(step, snapshot(100 + step, 101 + step, 100 + step)) for step in range(1, 11)]
    assert 3 <= told(*looks).count(True) <= 6


def test_step_during_the_wait_gets_its_own_mending() -> None:
    assert told(
        (5, snapshot(10, 10)),
        (6, snapshot(10, 11, 10)),
        (6, snapshot(10, 11, 10)),
        (7, snapshot(10, 12, 10, 11)),
        (7, snapshot(11, 12, 11)),
        (7, snapshot(11, 12, 11)),
        (7, NOBODY),
        (7, NOBODY),
    ) == [False, True, False, True, False, True, False, True]
