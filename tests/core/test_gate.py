"""When the gate is opened and shut, and how long what comes inline is trusted."""

from __future__ import annotations

from cdc_bridge.capture.gate import Gate, GateState
from tests.core.facts import snapshot


def opened(value: int = 7, at_s: float = 0) -> Gate:
    gate = Gate()
    gate.open(value, 100, at_s)
    gate.read(snapshot(101, 101))
    assert gate.state is GateState.OPEN
    return gate


def test_gate_is_open_once_all_have_ended_that_may_have_found_it_shut() -> None:
    gate = Gate()
    gate.open(7, 100, 0)
    assert not gate.is_trusted(0)
    gate.read(snapshot(98, 103, 98))
    assert gate.state is GateState.OPENING
    gate.read(snapshot(101, 103, 101))  # a younger one is none of them
    assert gate.is_trusted(0)


def test_reading_opens_no_gate_that_is_shut() -> None:
    gate = Gate()
    gate.read(snapshot(101, 101))
    assert gate.state is GateState.SHUT


def test_inline_is_trusted_until_the_lease_that_was_asked_for_may_have_run_out() -> None:
    gate = opened(at_s=5)
    assert gate.is_trusted(15)
    assert not gate.is_trusted(15.01)
    assert gate.state is GateState.SHUT


def test_renewing_extends_the_lease_from_when_it_was_asked_for() -> None:
    gate = opened()
    assert gate.renew(7, 9)
    assert gate.is_trusted(19)
    assert not gate.is_trusted(19.01)


def test_lease_that_has_run_out_is_not_renewed() -> None:
    gate = opened()
    assert not gate.is_trusted(11)
    assert not gate.renew(7, 11)


def test_another_value_means_that_it_was_shut_meanwhile() -> None:
    gate = opened(value=7)
    assert not gate.renew(9, 1)
    assert gate.state is GateState.SHUT


def test_notify_off_shuts_it() -> None:
    gate = opened()
    assert not gate.renew(None, 1)


def test_change_from_a_later_opening_is_not_taken() -> None:
    gate = opened(value=7)
    assert gate.takes(5, 1)
    assert gate.takes(7, 1)
    assert not gate.takes(9, 1)
    assert gate.state is GateState.SHUT


def is_busy(gate: Gate) -> bool:
    return gate.is_busy


def test_many_changes_at_once_are_busy_before_the_window_ends() -> None:
    gate = Gate()
    gate.count(1, 10.0)
    assert not is_busy(gate)
    gate.count(40, 10.1)
    assert is_busy(gate)


def test_it_is_quiet_when_little_has_come_for_a_while() -> None:
    gate = Gate()
    gate.count(100, 10.0)
    gate.count(0, 10.3)
    assert is_busy(gate)
    gate.count(0, 10.6)
    assert not is_busy(gate)
    assert not gate.is_quiet(11.2)
    assert gate.is_quiet(11.4)


def test_steady_trickle_is_neither_busy_nor_unquiet() -> None:
    """Forty changes a second, for five seconds."""
    gate = Gate()
    for number in range(200):
        gate.count(1, 10 + number / 40)
        assert not is_busy(gate)
    assert gate.is_quiet(15)


def test_rate_between_the_two_bounds_leaves_things_as_they_are() -> None:
    """A hundred changes a second: not so many that the gate is shut, not so few that it is opened."""
    gate = Gate()
    for number in range(500):
        gate.count(1, 10 + number / 100)
        assert not is_busy(gate)
    assert not gate.is_quiet(15)
