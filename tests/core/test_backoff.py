"""What took too long is left alone, longer and longer, but not for ever."""

from __future__ import annotations

from cdc_bridge.database.row_evaluator import BACKOFF_MAX_S, BACKOFF_S, SUBJECTS_MAX, Backoff


def test_it_rests_longer_each_time_and_not_for_ever() -> None:
    backoff, now_s, rests = Backoff(), 0.0, []
    for _ in range(9):
        assert not backoff.is_backed_off("a", now_s)
        backoff.took_too_long("a", now_s)
        begun_s = now_s
        while backoff.is_backed_off("a", now_s):
            now_s += BACKOFF_S
        rests.append(now_s - begun_s)
    assert rests[:3] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S]
    assert rests[-1] == BACKOFF_MAX_S


def test_answer_in_time_makes_up_for_everything() -> None:
    backoff = Backoff()
    backoff.took_too_long("a", 0)
    backoff.took_too_long("a", BACKOFF_S)
    backoff.answered("a")
    backoff.took_too_long("a", 1000)
    assert not backoff.is_backed_off("a", 1000 + BACKOFF_S)


def test_those_that_have_rested_first_are_forgotten() -> None:
    backoff = Backoff()
    for number in range(SUBJECTS_MAX + 1):
        backoff.took_too_long(number, 0)
    assert [backoff.is_backed_off(number, 1) for number in (0, 1, SUBJECTS_MAX)] == [False, True, True]
