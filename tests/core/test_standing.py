"""Who a client is, without a socket and without a clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.errors import RequestError
from cdc_bridge.standing import (
    CLOCK_CHECK_S,
    REVOKED_CHECK_S,
    AuthMode,
    GoOn,
    Identity,
    Moment,
    Say,
    Standing,
    Step,
    Suspend,
    TurnAway,
    authentication_failed,
)
from cdc_bridge.subscription import Uid
from cdc_bridge.viewer import SELF, Viewer

ANN = Viewer("reader", "reader", '{"sub":"ann"}')
BOB = Viewer("reader", "reader", '{"sub":"bob"}')
ANON = Viewer("anon", "anon", '{"role":"anon"}')

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


def client(mode: str = "handshake", identity: Identity | None = None, nobody: Viewer | None = ANON) -> Standing:
    return Standing(AuthMode(mode), TIMEOUT_S, lambda: nobody, at(0), identity)


def authenticated(
    standing: Standing, viewer: Viewer = ANN, expires_s: float | None = None, uid: Uid = None
) -> Sequence[Any]:
    standing.announce()
    return told(standing.accept(Identity(viewer, None if expires_s is None else DAWN + expires_s), uid))


def refused(standing: Standing, uid: Uid = None) -> Sequence[Any]:
    standing.announce()
    return told(standing.refuse(authentication_failed(), uid))


def told(steps: Sequence[Step]) -> Sequence[Any]:
    """Steps, with what is said as JSON."""
    return [msgspec.json.decode(step.frame) if isinstance(step, Say) else step for step in steps]


def known(mode: str, expires_s: float | None = None) -> Standing:
    standing = client(mode, Identity(ANN, None if expires_s is None else DAWN + expires_s))
    assert standing.viewer_of("m") == ANN
    return standing


# --- the handshake ---


def test_good_token_ends_the_handshake() -> None:
    standing = client()
    assert standing.is_awaited
    assert authenticated(standing, uid=12) == [{"type": "auth", "status": "ok", "uid": 12}]
    assert standing.viewer_of("messages") == ANN
    assert standing.wake_s(at(1)) is None


def test_bad_token_ends_the_handshake_without_a_uid() -> None:
    standing = client()
    assert refused(standing, uid="b") == [Suspend(), HANDSHAKE_FAILED, AWAY]
    assert standing.is_over


def test_anything_but_auth_ends_the_handshake() -> None:
    standing = client()
    assert told(standing.turn_away()) == [Suspend(), HANDSHAKE_FAILED, AWAY]
    assert standing.is_over


def test_silence_ends_the_handshake_when_time_is_over() -> None:
    standing = client()
    assert standing.wake_s(at(4)) == 6
    assert told(standing.due(at(9.9))) == []
    assert told(standing.due(at(10))) == [Suspend(), HANDSHAKE_FAILED, AWAY]


def test_auth_that_is_being_judged_is_waited_for() -> None:
    standing = client()
    standing.announce()
    assert standing.is_judged
    assert told(standing.due(at(30))) == []
    assert told(standing.accept(Identity(ANN), None)) == [{"type": "auth", "status": "ok"}]


def test_time_limit_of_the_handshake_does_not_care_for_the_calendar() -> None:
    standing = client()
    assert told(standing.due(at(1, set_by=86_400))) == []
    assert told(standing.due(at(10, set_by=-86_400))) == [Suspend(), HANDSHAKE_FAILED, AWAY]


def test_nobody_may_ask_before_the_handshake() -> None:
    with pytest.raises(RequestError, match="FORBIDDEN"):
        client().viewer_of("messages")


@pytest.mark.parametrize("mode", AuthMode)
def test_token_in_the_url_does(mode: AuthMode) -> None:
    assert not known(mode).is_awaited


# --- the mode public ---


def test_who_has_no_token_is_nobody_in_particular() -> None:
    standing = client("public")
    assert standing.viewer_of("messages") == ANON
    assert told(standing.due(at(1e6))) == []
    assert standing.wake_s(at(1)) is None


def test_where_nothing_is_configured_everything_is_forbidden_to_nobody() -> None:
    with pytest.raises(RequestError) as refusal:
        client("public", nobody=None).viewer_of("messages")
    assert refusal.value.message == (
        'You don\'t have permission to access collection "messages" or it does not exist. Queried in root.'
    )


def test_insecure_public_is_the_bridge_itself() -> None:
    assert client("public", nobody=SELF).viewer_of("messages") is SELF


def test_auth_switches_the_viewer() -> None:
    """What was meant for the one stops before the other is told that it is the other."""
    standing = client("public")
    assert authenticated(standing) == [Suspend(), {"type": "auth", "status": "ok"}, GoOn()]
    assert authenticated(standing, BOB) == [Suspend(), {"type": "auth", "status": "ok"}, GoOn()]
    assert standing.viewer == BOB


def test_auth_as_the_same_viewer_disturbs_nothing() -> None:
    assert authenticated(known("public")) == [{"type": "auth", "status": "ok"}]


def test_bad_auth_makes_the_client_nobody() -> None:
    standing = known("public")
    failed = {
        "type": "auth",
        "status": "error",
        "error": {"code": "AUTH_FAILED", "message": "Authentication failed."},
        "uid": "bad",
    }
    assert refused(standing, uid="bad") == [Suspend(), failed, GoOn()]
    assert standing.viewer == ANON
    assert refused(standing, uid="bad") == [failed]


@pytest.mark.parametrize("mode", ["handshake", "strict"])
def test_bad_auth_later_closes(mode: str) -> None:
    standing = known(mode)
    steps = refused(standing, uid="bad")
    assert [steps[0], steps[1]["uid"], steps[2]] == [Suspend(), "bad", AWAY]
    assert standing.is_over


# --- expiry ---


@pytest.mark.parametrize("mode", AuthMode)
def test_token_expires(mode: AuthMode) -> None:
    """First nothing more is told, then that."""
    standing = known(mode, expires_s=20)
    assert standing.wake_s(at(5)) == 15
    assert told(standing.due(at(19.9))) == []
    assert told(standing.due(at(20))) == [Suspend(), EXPIRED]
    assert told(standing.due(at(20))) == []
    with pytest.raises(RequestError) as refusal:
        standing.viewer_of("messages")
    assert (refusal.value.code, refusal.value.message) == ("TOKEN_EXPIRED", "Token expired.")


@pytest.mark.parametrize("mode", AuthMode)
def test_good_auth_after_expiry_lets_everything_go_on(mode: AuthMode) -> None:
    standing = known(mode, expires_s=20)
    standing.due(at(20))
    assert authenticated(standing, ANN, uid="again") == [
        Suspend(),
        {"type": "auth", "status": "ok", "uid": "again"},
        GoOn(),
    ]
    assert standing.viewer_of("messages") == ANN
    assert told(standing.due(at(60))) == []


@pytest.mark.parametrize("mode", ["handshake", "strict"])
def test_silence_after_expiry_closes(mode: str) -> None:
    standing = known(mode, expires_s=20)
    standing.due(at(21))
    assert standing.wake_s(at(22)) == 9
    assert told(standing.due(at(30.9))) == []
    assert told(standing.due(at(31))) == [Suspend(), TIMED_OUT, AWAY]


def test_silence_after_expiry_makes_the_client_nobody_in_public() -> None:
    standing = known("public", expires_s=20)
    standing.due(at(20))
    assert told(standing.due(at(30))) == [Suspend(), TIMED_OUT, GoOn()]
    assert standing.viewer == ANON
    assert standing.wake_s(at(31)) is None
    assert told(standing.due(at(1e6))) == []


def test_silence_after_expiry_ends_subscriptions_where_nobody_may_see_anything() -> None:
    standing = client("public", Identity(ANN, DAWN + 20), nobody=None)
    standing.due(at(20))
    assert told(standing.due(at(30))) == [Suspend(), TIMED_OUT, GoOn()]
    assert standing.is_known
    assert standing.viewer is None


@pytest.mark.parametrize("mode", ["handshake", "strict"])
def test_bad_auth_after_expiry_closes(mode: str) -> None:
    standing = known(mode, expires_s=20)
    standing.due(at(20))
    assert refused(standing)[-1] == AWAY


def test_expiry_that_is_over_already_comes_at_once() -> None:
    standing = client()
    authenticated(standing, expires_s=-1)
    assert standing.wake_s(at(0)) == 0
    assert told(standing.due(at(0))) == [Suspend(), EXPIRED]


def test_expiry_far_away_is_waited_for_in_pieces() -> None:
    """So nobody is asked to wait for longer than an event loop can, and a clock that is set is noticed."""
    standing = known("strict", expires_s=1e12)
    assert standing.wake_s(at(0)) == CLOCK_CHECK_S


def test_calendar_that_is_set_counts() -> None:
    standing = known("strict", expires_s=3600)
    assert told(standing.due(at(1, set_by=-7200))) == []
    assert told(standing.due(at(2, set_by=3600))) == [Suspend(), EXPIRED]


def test_next_token_has_its_own_expiry() -> None:
    standing = known("strict", expires_s=20)
    authenticated(standing, ANN, expires_s=40)
    assert told(standing.due(at(20))) == []
    assert told(standing.due(at(40))) == [Suspend(), EXPIRED]
    authenticated(standing, ANN)
    assert standing.wake_s(at(41)) is None


def test_token_that_is_revoked_is_like_one_that_has_expired() -> None:
    revoked: list[str] = []
    standing = client("strict", Identity(ANN, is_revoked=lambda: bool(revoked)))
    assert standing.wake_s(at(1)) == REVOKED_CHECK_S
    assert told(standing.due(at(1))) == []
    revoked.append("by the operator")
    assert told(standing.due(at(3))) == [Suspend(), EXPIRED]
    assert authenticated(standing)[-1] == GoOn()
    assert told(standing.due(at(60))) == []


def test_token_expires_while_the_next_one_is_judged() -> None:
    standing = known("strict", expires_s=20)
    standing.announce()
    assert told(standing.due(at(20))) == [Suspend(), EXPIRED]
    assert told(standing.due(at(60))) == []
    assert told(standing.accept(Identity(BOB), None))[-1] == GoOn()


def test_answer_that_comes_after_the_end_is_not_given() -> None:
    standing = client()
    standing.announce()
    standing.announce()
    standing.refuse(authentication_failed(), None)
    assert standing.accept(Identity(ANN), None) == ()
    assert standing.is_over


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
    standing = client(mode, Identity(ANN, DAWN + 7) if begins_known or mode is AuthMode.STRICT else None)
    goes_on = standing.is_known
    passed_s = 0.0
    for (kind, value), viewer in zip(events, itertools.cycle([ANN, BOB]), strict=False):
        before = standing.viewer
        passed_s += value if kind == "pass" else 0
        steps = happens(standing, kind, viewer, passed_s, value)
        if goes_on and standing.viewer != before:
            assert steps[0] == Suspend()
        began = before is None and steps == [{"type": "auth", "status": "ok"}]  # the handshake: nothing to go on with
        goes_on = began or (GoOn() in steps) or (goes_on and Suspend() not in steps)
        assert goes_on == standing.is_known
        assert not steps or standing.is_over == (steps[-1] == AWAY)


def happens(
    standing: Standing, kind: str, viewer: Viewer, passed_s: float, expires_in_s: float | None
) -> Sequence[Any]:
    match kind:
        case "pass":
            return told(standing.due(at(passed_s)))
        case "good":
            return authenticated(standing, viewer, None if expires_in_s is None else passed_s + expires_in_s)
    return refused(standing)
