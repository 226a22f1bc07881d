"""When a marked gap can be mended, and how often gaps are told."""

from __future__ import annotations

from cdc_bridge.capture.gaps import GapLimit, GapWatch
from cdc_bridge.model.change import Gap, Snapshot
from tests.core.facts import snapshot


def told(*looks: tuple[int, int, Snapshot]) -> list[bool]:
    """Each look: the counter, the id that is assigned when it has stepped, and what is in progress then."""
    watch = GapWatch()
    gaps = []
    for counter, younger, now in looks:
        if watch.is_step(counter):
            watch.step(counter, younger)
        gaps.append(watch.look(now) is not None)
    return gaps


NOBODY = snapshot(50, 50)


def test_step_is_told_at_once_and_again_when_all_that_could_have_made_it_have_ended() -> None:
    assert told(
        (0, 9, snapshot(10, 10)),
        (6, 14, snapshot(10, 15, 10, 12)),
        (6, 0, snapshot(12, 20, 12)),
        (6, 0, snapshot(15, 20, 15)),
        (6, 0, snapshot(15, 20, 15)),
    ) == [False, True, False, True, False]


def test_transaction_that_no_snapshot_lists_because_it_is_the_youngest_is_waited_for() -> None:
    """Its id is at or above xmax, until somebody younger has ended."""
    assert told((0, 9, snapshot(12, 12)), (6, 13, snapshot(12, 12)), (6, 0, snapshot(12, 14, 12)), (6, 0, NOBODY)) == [
        False,
        True,
        False,
        True,
    ]


def test_step_from_before_the_first_look_is_told_when_it_may_have_committed() -> None:
    """`Listening` has mended what had committed by then, and no more."""
    assert told((5, 13, snapshot(10, 14, 10)), (5, 0, snapshot(10, 14, 10)), (5, 0, NOBODY)) == [False, False, True]


def test_step_from_before_the_first_look_that_has_ended_is_not_told() -> None:
    assert told((5, 13, snapshot(14, 14)), (5, 0, NOBODY), (5, 0, NOBODY)) == [False, False, False]


def test_without_a_step_nothing_is_told() -> None:
    assert told((0, 0, snapshot(10, 12, 10)), (0, 0, NOBODY), (0, 0, NOBODY)) == [False, False, False]


def test_steps_without_end_are_told_again_and_again_but_not_each_time() -> None:
    looks = [(step, 101 + step, snapshot(100 + step, 102 + step, 100 + step)) for step in range(1, 11)]
    assert 3 <= told(*looks).count(True) <= 6


def test_step_during_the_wait_gets_its_own_mending() -> None:
    assert told(
        (0, 0, snapshot(10, 10)),
        (6, 11, snapshot(10, 12, 10)),
        (6, 0, snapshot(10, 12, 10)),
        (7, 13, snapshot(10, 14, 10, 12)),
        (7, 0, snapshot(12, 14, 12)),
        (7, 0, snapshot(12, 14, 12)),
        (7, 0, NOBODY),
        (7, 0, NOBODY),
    ) == [False, True, False, True, False, True, False, True]


def test_gaps_without_end_are_told_apart_and_the_last_one_for_sure() -> None:
    limit = GapLimit(2)
    told_s = []
    for now_s in range(12):
        if now_s <= 5:
            limit.owe(Gap(f"the one of {now_s} s"))
        if gap := limit.take(now_s):
            told_s.append((now_s, gap.reason))
    assert told_s == [(0, "the one of 0 s"), (2, "the one of 2 s"), (4, "the one of 4 s"), (6, "the one of 5 s")]


def test_gap_that_is_owed_is_due_and_none_otherwise() -> None:
    limit = GapLimit(2)
    assert limit.due_s == float("inf")
    limit.owe(Gap(""))
    assert limit.due_s == float("-inf")
    limit.take(7)
    assert limit.due_s == float("inf")
    limit.owe(Gap(""))
    assert limit.due_s == 9
