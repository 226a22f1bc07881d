"""Frames: what is written, and what is read out of any pieces, also when connections share a protocol."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.protocol import OPEN, Side
from websockets.server import ServerProtocol

from cdc_bridge.server.framing import (
    PING_PAYLOAD,
    PONG_BYTES,
    Framing,
    Received,
    is_pong,
    new_protocol,
    text_and_ping,
)
from tests.support.rawclient import BINARY, CONTINUATION, PING, PONG, TEXT, frame

BYTES_MAX = 100_000


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70_000])
def test_frame_and_ping_are_what_the_library_would_write(size: int) -> None:
    payload = os.urandom(size)
    library = ServerProtocol(state=OPEN)
    library.send_text(payload)
    library.send_ping(PING_PAYLOAD)
    assert text_and_ping(payload) == b"".join(library.data_to_send())


@given(mask=st.binary(min_size=4, max_size=4), payload=st.binary(min_size=4, max_size=4) | st.just(PING_PAYLOAD))
def test_pong_is_known_by_its_bytes_whatever_its_mask(mask: bytes, payload: bytes) -> None:
    masked = bytes(left ^ right for left, right in zip(payload, mask, strict=True))
    wire = b"\x8a\x84" + mask + masked
    assert len(wire) == PONG_BYTES
    assert is_pong(bytearray(wire)) == (payload == PING_PAYLOAD)


@pytest.mark.parametrize("head", [b"\x8a\x04", b"\x0a\x84", b"\x89\x84", b"\xca\x84", b"\x8a\x85", b"\x81\x84"])
def test_no_other_frame_is_taken_for_a_pong(head: bytes) -> None:
    assert not is_pong(bytearray(head + bytes(4) + PING_PAYLOAD))


def _text(text: str, cuts: list[int]) -> bytes:
    """One message, in as many fragments as there are cuts, with pings between them."""
    data = text.encode()
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    pieces = [data[begun:end] for begun, end in zip([0, *places], [*places, len(data)], strict=True)]
    wire = frame(TEXT, pieces[0], fin=len(pieces) == 1)
    for number, piece in enumerate(pieces[1:], 2):
        wire += frame(PING, b"?") + frame(CONTINUATION, piece, fin=number == len(pieces))
    return wire


_texts = st.text(max_size=300)
_said: st.SearchStrategy[tuple[list[Received], bytes]] = st.one_of(
    st.tuples(_texts, st.lists(st.integers(0, 300), max_size=3)).map(lambda one: ([one[0]], _text(*one))),
    st.binary(max_size=200).map(lambda data: ([data], frame(BINARY, data))),
    st.just(([None], frame(PONG, PING_PAYLOAD))),
    st.binary(max_size=5).filter(lambda data: data != PING_PAYLOAD).map(lambda data: ([], frame(PONG, data))),
    # longer than need be, which websockets takes
    st.text(max_size=20).map(
        lambda text: ([text], b"\x81\xfe" + len(text.encode()).to_bytes(2) + bytes(4) + text.encode())
    ),
)


@given(clients=st.lists(st.lists(_said, max_size=5), min_size=2, max_size=3), data=st.data())
def test_clients_that_share_a_protocol_are_understood_as_if_they_were_alone(
    clients: list[list[tuple[list[Received], bytes]]], data: st.DataObject
) -> None:
    """The law of `is_clean`. What they send comes in any pieces, now of one and now of another."""
    wires = [b"".join(wire for _, wire in client) for client in clients]
    heard: list[list[Received]] = [[] for _ in clients]
    kept: dict[int, Framing] = {}
    spare: list[Framing] = []
    while any(wires):
        number = data.draw(st.sampled_from([number for number, wire in enumerate(wires) if wire]))
        piece = data.draw(st.integers(1, len(wires[number])))
        framing = kept.pop(number, None) or (spare.pop() if spare else Framing(new_protocol(BYTES_MAX, state=OPEN)))
        heard[number] += framing.receive(wires[number][:piece])
        framing.protocol.data_to_send()
        wires[number] = wires[number][piece:]
        if framing.is_clean:
            spare.append(framing)
        else:
            kept[number] = framing
        assert framing.protocol.state is OPEN
        assert framing.protocol.side is Side.SERVER
    assert heard == [[said for client_said, _ in client for said in client_said] for client in clients]


def test_protocol_is_shared_again_once_a_frame_is_whole() -> None:
    framing = Framing(new_protocol(BYTES_MAX, state=OPEN))
    wire = frame(TEXT, b"ab", fin=False) + frame(CONTINUATION, b"c")
    for byte in wire[:-1]:
        framing.receive(bytes([byte]))
        assert not framing.is_clean
    assert framing.receive(wire[-1:]) == ["abc"]
    assert framing.is_clean
