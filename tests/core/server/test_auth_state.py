"""Who a client is, without a socket and without a clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.access.auth_state import (
    CLOCK_CHECK_S,
    REVOKED_CHECK_S,
    AuthMode,
    AuthState,
    GoOn,
    Identity,
    Moment,
    Say,
    Step,
    Suspend,
    TurnAway,
    authentication_failed,
)
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.security_context import SELF, Principal
from cdc_bridge.model.subscription import Uid

ANN = Principal("reader", "reader", '{"sub":"ann"}')
BOB = Principal("reader", "reader", '{"sub":"bob"}')
ANON = Principal("anon", "anon", '{"role":"anon"}')

TIMEOUT_S = 10.0
DAWN = 1_800_000_000.0

HANDSHAKE_FAILED = {
    "type": "auth",
    "status": "error",
    "error": {"code": "AUTH_FAILED", "message": "Authentication handshake failed."},
}
EXPIRED = {"type": "auth", "status": "error", "error": {"code": "TOKEN_EXPIRED", "message": "Token expired."}}
TIMED_OUT = {
    "type": "auth",
    "status": "error",
    "error": {"code": "AUTH_TIMEOUT", "message": "Authentication timed out."},
}
AWAY = TurnAway("authentication failed")


def at(seconds: float, *, set_by: float = 0) -> Moment:
    """So long after the client came; meanwhile somebody has set the calendar's clock."""
    return Moment(5000 + seconds, DAWN + seconds + set_by)


def client(mode: str = "handshake", identity: Identity | None = None, nobody: Principal | None = ANON) -> AuthState:
    return AuthState(AuthMode(mode), TIMEOUT_S, lambda: nobody, at(0), identity)


def authenticated(
    auth_state: AuthState, principal: Principal = ANN, expires_s: float | None = None, uid: Uid = None
) -> Sequence[Any]:
    auth_state.announce()
    return told(auth_state.accept(Identity(principal, None if expires_s is None else DAWN + expires_s), uid))


def refused(auth_state: AuthState, uid: Uid = None) -> Sequence[Any]:
    auth_state.announce()
    return told(auth_state.refuse(authentication_failed(), uid))


def told(steps: Sequence[Step]) -> Sequence[Any]:
    """Steps, with what is said as JSON."""
    return [msgspec.json.decode(step.frame) if isinstance(step, Say) else step for step in steps]


def known(mode: str, expires_s: float | None = None) -> AuthState:
    auth_state = client(mode, Identity(ANN, None if expires_s is None else DAWN + expires_s))
    assert auth_state.principal_of("m") == ANN
    return auth_state


# --- the handshake ---


def test_good_token_ends_the_handshake() -> None:
    auth_state = client()
    assert auth_state.is_awaited
    assert authenticated(auth_state, uid=12) == [{"type": "auth", "status": "ok", "uid": 12}]
    assert auth_state.principal_of("messages") == ANN
    assert auth_state.wake_s(at(1)) is None


def test_bad_token_ends_the_handshake_without_a_uid() -> None:
    auth_state = client()
    assert refused(auth_state, uid="b") == [Suspend(), HANDSHAKE_FAILED, AWAY]
    assert auth_state.is_over


def test_anything_but_auth_ends_the_handshake() -> None:
    auth_state = client()
    assert told(auth_state.turn_away()) == [Suspend(), HANDSHAKE_FAILED, AWAY]
    assert auth_state.is_over


def test_silence_ends_the_handshake_when_time_is_over() -> None:
    auth_state = client()
    assert auth_state.wake_s(at(4)) == 6
    assert told(auth_state.due(at(9.9))) == []
    assert told(auth_state.due(at(10))) == [Suspend(), HANDSHAKE_FAILED, AWAY]


def test_auth_that_is_being_judged_is_waited_for() -> None:
    auth_state = client()
    auth_state.announce()
    assert auth_state.is_judged
    assert told(auth_state.due(at(30))) == []
    assert told(auth_state.accept(Identity(ANN), None)) == [{"type": "auth", "status": "ok"}]


def test_time_limit_of_the_handshake_does_not_care_for_the_calendar() -> None:
    auth_state = client()
    assert told(auth_state.due(at(1, set_by=86_400))) == []
    assert told(auth_state.due(at(10, set_by=-86_400))) == [Suspend(), HANDSHAKE_FAILED, AWAY]


def test_nobody_may_ask_before_the_handshake() -> None:
    with pytest.raises(RequestError, match="FORBIDDEN"):
        client().principal_of("messages")


@pytest.mark.parametrize("mode", AuthMode)
def test_token_in_the_url_does(mode: AuthMode) -> None:
    assert not known(mode).is_awaited


# --- the mode public ---


def test_who_has_no_token_is_nobody_in_particular() -> None:
    auth_state = client("public")
    assert auth_state.principal_of("messages") == ANON
    assert told(auth_state.due(at(1e6))) == []
    assert auth_state.wake_s(at(1)) is None


def test_where_nothing_is_configured_everything_is_forbidden_to_nobody() -> None:
    with pytest.raises(RequestError) as refusal:
        client("public", nobody=None).principal_of("messages")
    assert refusal.value.message == (
        'You don\'t have permission to access collection "messages" or it does not exist. Queried in root.'
    )


def test_insecure_public_is_the_bridge_itself() -> None:
    assert client("public", nobody=SELF).principal_of("messages") is SELF


def test_auth_switches_the_viewer() -> None:
    """What was meant for the one stops before the other is told that it is the other."""
    auth_state = client("public")
    assert authenticated(auth_state) == [Suspend(), {"type": "auth", "status": "ok"}, GoOn()]
    assert authenticated(auth_state, BOB) == [Suspend(), {"type": "auth", "status": "ok"}, GoOn()]
    assert auth_state.principal == BOB


def test_auth_as_the_same_viewer_disturbs_nothing() -> None:
    assert authenticated(known("public")) == [{"type": "auth", "status": "ok"}]


def test_bad_auth_makes_the_client_nobody() -> None:
    auth_state = known("public")
    failed = {
        "type": "auth",
        "status": "error",
        "error": {"code": "AUTH_FAILED", "message": "Authentication failed."},
        "uid": "bad",
    }
    assert refused(auth_state, uid="bad") == [Suspend(), failed, GoOn()]
    assert auth_state.principal == ANON
    assert refused(auth_state, uid="bad") == [failed]


@pytest.mark.parametrize("mode", ["handshake", "strict"])
def test_bad_auth_later_closes(mode: str) -> None:
    auth_state = known(mode)
    steps = refused(auth_state, uid="bad")
    assert [steps[0], steps[1]["uid"], steps[2]] == [Suspend(), "bad", AWAY]
    assert auth_state.is_over


# --- expiry ---


@pytest.mark.parametrize("mode", AuthMode)
def test_token_expires(mode: AuthMode) -> None:
    """First nothing more is told, then that."""
    auth_state = known(mode, expires_s=20)
    assert auth_state.wake_s(at(5)) == 15
    assert told(auth_state.due(at(19.9))) == []
    assert told(auth_state.due(at(20))) == [Suspend(), EXPIRED]
    assert told(auth_state.due(at(20))) == []
    with pytest.raises(RequestError) as refusal:
        auth_state.principal_of("messages")
    assert (refusal.value.code, refusal.value.message) == ("TOKEN_EXPIRED", "Token expired.")


@pytest.mark.parametrize("mode", AuthMode)
def test_good_auth_after_expiry_lets_everything_go_on(mode: AuthMode) -> None:
    auth_state = known(mode, expires_s=20)
    auth_state.due(at(20))
    assert authenticated(auth_state, ANN, uid="again") == [
        Suspend(),
        {"type": "auth", "status": "ok", "uid": "again"},
        GoOn(),
    ]
    assert auth_state.principal_of("messages") == ANN
    assert told(auth_state.due(at(60))) == []


@pytest.mark.parametrize("mode", ["handshake", "strict"])
def test_silence_after_expiry_closes(mode: str) -> None:
    auth_state = known(mode, expires_s=20)
    auth_state.due(at(21))
    assert auth_state.wake_s(at(22)) == 9
    assert told(auth_state.due(at(30.9))) == []
    assert told(auth_state.due(at(31))) == [Suspend(), TIMED_OUT, AWAY]


def test_silence_after_expiry_makes_the_client_nobody_in_public() -> None:
    auth_state = known("public", expires_s=20)
    auth_state.due(at(20))
    assert told(auth_state.due(at(30))) == [Suspend(), TIMED_OUT, GoOn()]
    assert auth_state.principal == ANON
    assert auth_state.wake_s(at(31)) is None
    assert told(auth_state.due(at(1e6))) == []


def test_silence_after_expiry_ends_subscriptions_where_nobody_may_see_anything() -> None:
    auth_state = client("public", Identity(ANN, DAWN + 20), nobody=None)
    auth_state.due(at(20))
    assert told(auth_state.due(at(30))) == [Suspend(), TIMED_OUT, GoOn()]
    assert auth_state.is_known
    assert auth_state.principal is None


@pytest.mark.parametrize("mode", ["handshake", "strict"])
def test_bad_auth_after_expiry_closes(mode: str) -> None:
    auth_state = known(mode, expires_s=20)
    auth_state.due(at(20))
    assert refused(auth_state)[-1] == AWAY


def test_expiry_that_is_over_already_comes_at_once() -> None:
    auth_state = client()
    authenticated(auth_state, expires_s=-1)
    assert auth_state.wake_s(at(0)) == 0
    assert told(auth_state.due(at(0))) == [Suspend(), EXPIRED]


def test_expiry_far_away_is_waited_for_in_pieces() -> None:
    """So nobody is asked to wait for longer than an event loop can, and a clock that is set is noticed."""
    auth_state = known("strict", expires_s=1e12)
    assert auth_state.wake_s(at(0)) == CLOCK_CHECK_S


def test_calendar_that_is_set_counts() -> None:
    auth_state = known("strict", expires_s=3600)
    assert told(auth_state.due(at(1, set_by=-7200))) == []
    assert told(auth_state.due(at(2, set_by=3600))) == [Suspend(), EXPIRED]


def test_next_token_has_its_own_expiry() -> None:
    auth_state = known("strict", expires_s=20)
    authenticated(auth_state, ANN, expires_s=40)
    assert told(auth_state.due(at(20))) == []
    assert told(auth_state.due(at(40))) == [Suspend(), EXPIRED]
    authenticated(auth_state, ANN)
    assert auth_state.wake_s(at(41)) is None


def test_token_that_is_revoked_is_like_one_that_has_expired() -> None:
    revoked: list[str] = []
    auth_state = client("strict", Identity(ANN, is_revoked=lambda: bool(revoked)))
    assert auth_state.wake_s(at(1)) == REVOKED_CHECK_S
    assert told(auth_state.due(at(1))) == []
    revoked.append("by the operator")
    assert told(auth_state.due(at(3))) == [Suspend(), EXPIRED]
    assert authenticated(auth_state)[-1] == GoOn()
    assert told(auth_state.due(at(60))) == []


def test_token_expires_while_the_next_one_is_judged() -> None:
    auth_state = known("strict", expires_s=20)
    auth_state.announce()
    assert told(auth_state.due(at(20))) == [Suspend(), EXPIRED]
    assert told(auth_state.due(at(60))) == []
    assert told(auth_state.accept(Identity(BOB), None))[-1] == GoOn()


def test_answer_that_comes_after_the_end_is_not_given() -> None:
    auth_state = client()
    auth_state.announce()
    auth_state.announce()
    auth_state.refuse(authentication_failed(), None)
    assert auth_state.accept(Identity(ANN), None) == ()
    assert auth_state.is_over


# --- laws ---

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, 15)),
        st.tuples(st.just("good"), st.one_of(st.none(), st.floats(-5, 30))),
        st.tuples(st.just("bad"), st.none()),
    ),
    max_size=30,
)


@given(mode=st.sampled_from(AuthMode), events=EVENTS, begins_known=st.booleans())
def test_nothing_is_told_between_expiry_and_the_next_answer(
    mode: AuthMode, events: list[tuple[str, Any]], begins_known: bool
) -> None:
    """And who may see otherwise than before was suspended before it was told so."""
    auth_state = client(mode, Identity(ANN, DAWN + 7) if begins_known or mode is AuthMode.STRICT else None)
    goes_on = auth_state.is_known
    passed_s = 0.0
    for (kind, value), principal in zip(events, itertools.cycle([ANN, BOB]), strict=False):
        before = auth_state.principal
        passed_s += value if kind == "pass" else 0
        steps = happens(auth_state, kind, principal, passed_s, value)
        if goes_on and auth_state.principal != before:
            assert steps[0] == Suspend()
        began = before is None and steps == [{"type": "auth", "status": "ok"}]  # the handshake: nothing to go on with
        goes_on = began or (GoOn() in steps) or (goes_on and Suspend() not in steps)
        assert goes_on == auth_state.is_known
        assert not steps or auth_state.is_over == (steps[-1] == AWAY)


def happens(
    auth_state: AuthState, kind: str, principal: Principal, passed_s: float, expires_in_s: float | None
) -> Sequence[Any]:
    match kind:
        case "pass":
            return told(auth_state.due(at(passed_s)))
        case "good":
            return authenticated(auth_state, principal, None if expires_in_s is None else passed_s + expires_in_s)
    return refused(auth_state)
