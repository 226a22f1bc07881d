"""Payloads, whole and in parts, become changes; what is broken is refused, never guessed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.capture.log_pages import changes_of
from cdc_bridge.capture.payload import Decoder, Inline, Wake, heartbeat, log_sequence
from cdc_bridge.model.change import Change, Heartbeat, Operation, Snapshot
from cdc_bridge.model.errors import PayloadError

HEAD = "1 {} 7 812 16390 16395 "


def whole(operation: str, body: str) -> str:
    return HEAD.format(operation) + "0 .\n" + body


def images(rows: object) -> list[dict[str, bytes]]:
    return [{name: bytes(value) for name, value in row.items()} for row in rows]  # type: ignore[attr-defined]


def test_insert_has_new_rows() -> None:
    change = Decoder().receive(whole("I", '[{"id":1,"n":1.50},{"id":2,"n":null}]'))
    assert isinstance(change, Change)
    assert (change.operation, change.seq, change.xid) == (Operation.INSERT, 7, 812)
    assert (change.relation_id, change.filenode) == (16390, 16395)
    assert images(change.new) == [{"id": b"1", "n": b"1.50"}, {"id": b"2", "n": b"null"}]
    assert change.old == ()


def test_update_pairs_old_and_new_rows() -> None:
    change = Decoder().receive(whole("U", '[{"id":1},{"id":10},{"id":2},{"id":20}]'))
    assert isinstance(change, Change)
    assert images(change.old) == [{"id": b"1"}, {"id": b"2"}]
    assert images(change.new) == [{"id": b"10"}, {"id": b"20"}]


def test_truncate_has_no_rows() -> None:
    change = Decoder().receive(whole("T", ""))
    assert isinstance(change, Change)
    assert (change.operation, change.old, change.new) == (Operation.TRUNCATE, (), ())


def test_heartbeat_carries_its_snapshot() -> None:
    assert Decoder().receive(heartbeat("ab12", 3) + "5:9:6") == Heartbeat("ab12", 3, Snapshot.parse("5:9:6"))


LOGGED = "2 U 1/1E148C0 812 16390 16395 1795549779072419 3\n"


def test_change_that_is_in_the_log_says_where_and_when_and_which_gate_its_writer_found() -> None:
    told = Decoder().receive(LOGGED + '[[{"id":1}],[{"id":2}]]')
    assert isinstance(told, Inline)
    assert told.gate == 3
    change = told.change
    assert (change.operation, change.xid, change.at) == (Operation.UPDATE, 812, 1795549779072419)
    assert (change.relation_id, change.filenode) == (16390, 16395)
    assert change.seq == log_sequence(0x1_01E1_48C0, 812)
    assert images(change.old) + images(change.new) == [{"id": b"1"}, {"id": b"2"}]


@pytest.mark.parametrize("payload", [LOGGED, LOGGED + "[[", LOGGED + "[" * 5000])
def test_what_does_not_fit_or_cannot_be_read_is_to_be_read_from_the_log(payload: str) -> None:
    assert Decoder().receive(payload) == Wake()
    assert Decoder().receive("2 S\n") == Wake(is_shut=True)


@given(st.lists(st.text(max_size=20), max_size=5), st.lists(st.integers(0, 200), max_size=6))
def test_parts_join_to_what_was_cut(texts: list[str], cuts: list[int]) -> None:
    import msgspec

    body = msgspec.json.encode([{"t": text} for text in texts]).decode()
    edges = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)] or [body]
    decoder = Decoder()
    for number, piece in enumerate(pieces[:-1]):
        assert decoder.receive(HEAD.format("I") + f"{number} +\n" + piece) is None
    change = decoder.receive(HEAD.format("I") + f"{len(pieces) - 1} .\n" + pieces[-1])
    assert isinstance(change, Change)
    assert [msgspec.json.decode(bytes(row["t"])) for row in change.new] == texts


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "hello",
        "3 I 7 812 16390 16395 0 .\n[]",
        "1 X 7 812 16390 16395 0 .\n[]",
        "1 I 7 812 16390 16395 0 .",
        "1 I 7 812 16390 0 .\n[]",
        "1 I seven 812 16390 16395 0 .\n[]",
        whole("I", "[1]"),
        whole("I", "not json"),
        whole("U", '[{"id":1}]'),
        "1 I 7 812 16390 16395 1 .\n[]",
        "1 H ab x\n5:9:6",
        "1 H ab 3\nnonsense",
    ],
)
def test_what_cannot_be_read_is_refused(payload: str) -> None:
    with pytest.raises(PayloadError):
        Decoder().receive(payload)


def test_missing_part_is_noticed_and_the_next_payload_is_read() -> None:
    decoder = Decoder()
    assert decoder.receive(HEAD.format("I") + "0 +\n[") is None
    with pytest.raises(PayloadError):
        decoder.receive(HEAD.format("I") + "2 .\n]")
    assert isinstance(decoder.receive(whole("I", '[{"id":1}]')), Change)


def test_stranger_between_parts_is_noticed() -> None:
    decoder = Decoder()
    decoder.receive(HEAD.format("I") + "0 +\n[")
    with pytest.raises(PayloadError):
        decoder.receive(heartbeat("ab12", 3) + "5:9:6")
    assert isinstance(decoder.receive(heartbeat("ab12", 4) + "5:9:6"), Heartbeat)
    assert isinstance(decoder.receive(whole("I", "[]")), Change)


@pytest.mark.parametrize("letter", "IUD")
@pytest.mark.parametrize("text", ["{oops", "oops", "[1]", "[{oops]"])
def test_row_of_the_log_that_cannot_be_read_is_refused_before_the_stream_has_it(letter: str, text: str) -> None:
    written = (1, 812, 16390, 16395, letter, 0, text if letter != "I" else None, text if letter != "D" else None)
    with pytest.raises(PayloadError):
        list(changes_of([written]))
