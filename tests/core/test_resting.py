"""What took too long is left alone, longer and longer, but not for ever."""

from __future__ import annotations

from cdc_bridge.database.resting import REST_MAX_S, REST_S, RESTING_MAX, Resting


def test_it_rests_longer_each_time_and_not_for_ever() -> None:
    resting, now_s, rests = Resting(), 0.0, []
    for _ in range(9):
        assert not resting.is_resting("a", now_s)
        resting.took_too_long("a", now_s)
        begun_s = now_s
        while resting.is_resting("a", now_s):
            now_s += REST_S
        rests.append(now_s - begun_s)
    assert rests[:3] == [REST_S, 2 * REST_S, 4 * REST_S]
    assert rests[-1] == REST_MAX_S


def test_answer_in_time_makes_up_for_everything() -> None:
    resting = Resting()
    resting.took_too_long("a", 0)
    resting.took_too_long("a", REST_S)
    resting.answered("a")
    resting.took_too_long("a", 1000)
    assert not resting.is_resting("a", 1000 + REST_S)


def test_those_that_have_rested_first_are_forgotten() -> None:
    resting = Resting()
    for number in range(RESTING_MAX + 1):
        resting.took_too_long(number, 0)
    assert [resting.is_resting(number, 1) for number in (0, 1, RESTING_MAX)] == [False, True, True]
