"""A cursor comes back as it went out, or not at all; it says nothing, and never claims more than it was given."""

from __future__ import annotations

from base64 import urlsafe_b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.model.change import NO_ERA, NOTHING_SEEN, Era, Position, Snapshot
from cdc_bridge.model.cursor import (
    PLAIN_BYTES_MAX,
    POSITIONS_MAX,
    TEXT_CHARACTERS_MAX,
    ClientPosition,
    Cursor,
    CursorCipher,
    EventPosition,
    decode,
    encode,
    going_on,
    united,
)
from tests.core.facts import snapshot

SHAPE = b"8 bytes!"
ERA = Era(b"generation", 3)
CIPHER = CursorCipher(b"secret")

xids = st.integers(0, 2**64 - 1)
seqs = st.integers(0, 2**63 - 1)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    xmin = draw(st.integers(3, 2**64 - 2000))
    xmax = xmin + draw(st.integers(0, 1000))
    in_progress = draw(st.frozensets(st.integers(xmin, xmax - 1), max_size=20)) if xmax > xmin else frozenset()
    return Snapshot(xmin, xmax, in_progress)


@st.composite
def positions(draw: st.DrawFn, era: Era = ERA) -> Position:
    seen = draw(snapshots() | st.just(NOTHING_SEEN))
    beyond = draw(st.frozensets(st.tuples(xids, seqs), max_size=10))
    upto = draw(st.none() | snapshots())
    return Position.of(era, seen, beyond, upto, draw(seqs) if upto else 0)


@st.composite
def cursors(draw: st.DrawFn) -> Cursor:
    era = Era(draw(st.binary(max_size=40)), draw(st.integers(-5, 2**40)))
    return Cursor(
        draw(st.binary(min_size=8, max_size=8)), era, tuple(draw(st.lists(positions(era), max_size=POSITIONS_MAX)))
    )


@given(cursors())
def test_what_is_sealed_opens_as_it_was(cursor: Cursor) -> None:
    assert CIPHER.open(CIPHER.seal(cursor)) == cursor


@given(cursors(), st.data())
def test_text_that_was_touched_opens_as_nothing(cursor: Cursor, data: st.DataObject) -> None:
    text = CIPHER.seal(cursor)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[place]))
    assert CIPHER.open(text[:place] + other + text[place + 1 :]) is None
    assert CIPHER.open(text[:place]) is None
    assert CIPHER.open(text + other) is None


@given(st.text() | st.text("ABCabc-_=09", max_size=200))
def test_whatever_a_client_makes_up_opens_as_nothing(text: str) -> None:
    assert CIPHER.open(text) is None


@given(st.binary(max_size=200))
def test_bytes_that_are_no_cursor_are_refused_by_one_error(plain: bytes) -> None:
    try:
        cursor = decode(plain)
    except ValueError:
        return
    assert decode(encode(cursor)) == cursor


def test_cursor_of_another_secret_opens_as_nothing() -> None:
    cursor = Cursor(SHAPE, ERA, ())
    assert CursorCipher(b"other").open(CIPHER.seal(cursor)) is None
    assert CursorCipher().open(CursorCipher().seal(cursor)) is None
    assert CursorCipher(b"secret").open(CIPHER.seal(cursor)) == cursor


def test_text_past_the_bound_is_not_even_decoded() -> None:
    assert CIPHER.open("A" * (TEXT_CHARACTERS_MAX + 1)) is None


def test_equal_cursors_read_differently_and_show_nothing() -> None:
    cursor = Cursor(SHAPE, ERA, (Position.of(ERA, snapshot(10, 12)),))
    texts = {CIPHER.seal(cursor) for _ in range(10)}
    assert len(texts) == 10
    assert not any(SHAPE in urlsafe_b64decode(text + "==") for text in texts)


def test_usual_cursor_is_short() -> None:
    """It is in every message of those who ask for it."""
    now = snapshot(4_000_000_000, 4_000_000_050, *range(4_000_000_000, 4_000_000_050, 5))
    cursor = Cursor(SHAPE, Era(b"g" * 16, 1), (Position.of(ERA, now, frozenset({(4_000_000_051, 9_000_000_000)})),))
    assert len(CIPHER.seal(cursor)) < 160


@pytest.mark.parametrize(
    "position",
    [
        Position.of(ERA, snapshot(100, 101), frozenset((100 + n, n * n) for n in range(5000))),
        Position.of(ERA, snapshot(100, 9_000_000, *range(100, 9_000_000, 1000))),
        Position.of(ERA, NOTHING_SEEN, upto=snapshot(100, 9_000_000, *range(100, 9_000_000, 1000)), seq=7),
    ],
)
def test_cursor_that_would_be_too_long_claims_less(position: Position) -> None:
    text = CIPHER.seal(Cursor(SHAPE, ERA, (position,)))
    assert len(text) < TEXT_CHARACTERS_MAX
    opened = CIPHER.open(text)
    assert opened is not None
    assert len(encode(opened)) <= PLAIN_BYTES_MAX
    (claimed,) = opened.positions
    told = [(xid, seq) for xid in range(90, 200) for seq in range(20) if claimed.has(xid, seq)]
    assert told
    assert all(position.has(xid, seq) for xid, seq in told)


@given(st.lists(st.tuples(snapshots(), seqs), max_size=2 * POSITIONS_MAX), snapshots())
def test_rounds_that_were_cut_short_add_up_and_stay_few(rounds: list[tuple[Snapshot, int]], first: Snapshot) -> None:
    told: tuple[Position, ...] = (Position.of(ERA, first),)
    every = told
    for upto, seq in rounds:
        before = told
        told = going_on(told, upto, seq)
        every = (*every, Position.of(ERA, NOTHING_SEEN, upto=upto, seq=seq))
        assert len(told) <= POSITIONS_MAX
        for xid, number in [(first.xmin, 0), (upto.xmin - 1, seq), (upto.xmin - 1, seq + 1)]:
            has = any(position.has(xid, number) for position in told)
            assert has or not any(position.has(xid, number) for position in before)
            assert not has or any(position.has(xid, number) for position in every)


def test_round_that_goes_on_needs_one_position() -> None:
    told: tuple[Position, ...] = (Position.of(ERA, snapshot(10, 10)),)
    for seq in range(100):
        told = going_on(told, snapshot(50, 50), seq)
    assert told == (Position.of(ERA, snapshot(10, 10)), Position.of(ERA, NOTHING_SEEN, upto=snapshot(50, 50), seq=99))


def test_positions_of_different_eras_add_up_to_nothing_that_lasts() -> None:
    other = Position.of(Era(b"generation", 4), snapshot(20, 20))
    assert united(SHAPE, (Position.of(ERA, snapshot(10, 10)), other)) == Cursor(SHAPE, NO_ERA, ())
    assert united(SHAPE, (Position.of(Era(b"generation"), snapshot(10, 10)),)) == Cursor(SHAPE, NO_ERA, ())


def test_claim_is_sealed_once() -> None:
    client_position = ClientPosition(CIPHER, Cursor(SHAPE, ERA, ()))
    assert client_position.text == client_position.text


def test_followers_whose_data_make_no_difference_share_one_claim() -> None:
    event_position = EventPosition(SHAPE, Position.of(ERA, snapshot(10, 10)))
    assert event_position.client_position(CIPHER, None) is event_position.client_position(CIPHER, None)


@given(snapshots(), snapshots(), xids)
def test_snapshot_that_covers_another_sees_what_it_sees(one: Snapshot, other: Snapshot, xid: int) -> None:
    """It may deny it where the other one's youngest id has not ended, as on a standby; to claim less does no harm."""
    near = [xid, one.xmin, other.xmin, one.xmax, other.xmax, *one.in_progress, *other.in_progress]
    if one.covers(other):
        assert all(one.sees(each) for each in near if other.sees(each))
    elif other.xmax - 1 not in other.in_progress:
        assert any(other.sees(each) and not one.sees(each) for each in [*near, other.xmax - 1])
