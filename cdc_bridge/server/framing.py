"""WebSocket frames: the bytes that a client gets, and the messages in the bytes that it sends.

Theory: a server's text frame without an extension is a short head before the payload, so it is written here, together
with the PING that paces it. Everything that is read goes through websockets' sans-I/O `ServerProtocol`, except the one
PONG that answers that PING, which is ten bytes long.

A protocol that has been given whole frames only, holds no fragment of a message, and has no extension is as good as a
new one. So connections share one: a connection borrows it for what it has read, and keeps it only while it is in the
middle of something (`Framing.is_clean`).
"""

from __future__ import annotations

import enum
import logging
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

PING_PAYLOAD: Final = b"next"
"""One PING at most waits for its PONG, so all of them can be alike."""

PING: Final = b"\x89\x04" + PING_PAYLOAD
PONG_BYTES: Final = 10
FRAGMENTS_MAX = 4096
"""Of one message. Each costs more than its bytes."""

_PONG = struct.Struct("!HII")
_PONG_HEAD = 0x8A84
"""FIN and PONG; masked, four bytes."""

_PING_NUMBER = int.from_bytes(PING_PAYLOAD)

# websockets would log the address of each request and the text of each frame, and there the tokens are.
_discreet = logging.getLogger(f"{__name__}.library")
_discreet.setLevel(logging.WARNING)


class Signal(enum.Enum):
    """What a client says besides messages."""

    PONG = enum.auto()
    """It has read what came before the PING."""


Received = str | bytes | Signal


def text_and_ping(payload: bytes) -> bytes:
    """Return a text frame with this payload, and a PING behind it."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b%b" % (size, payload, PING)
    if size < 65536:
        return b"".join((b"\x81\x7e", size.to_bytes(2), payload, PING))
    return b"".join((b"\x81\x7f", size.to_bytes(8), payload, PING))


def is_pong(buffer: bytearray) -> bool:
    """Whether the first `PONG_BYTES` of the buffer, which begin a frame, are the PONG to our PING."""
    head, mask, masked = _PONG.unpack_from(buffer)
    return bool(head == _PONG_HEAD and mask ^ masked == _PING_NUMBER)


def new_protocol(frame_bytes_max: int, **options: Any) -> ServerProtocol:
    """Options are those of `ServerProtocol`."""
    return ServerProtocol(max_size=frame_bytes_max, logger=_discreet, **options)


class Framing:
    """Turns what a client sends into messages. The protocol is OPEN."""

    __slots__ = ("_fragments", "_unparsed_bytes", "protocol")

    def __init__(self, protocol: ServerProtocol) -> None:
        self.protocol = protocol
        self._fragments: list[Frame] = []
        self._unparsed_bytes = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing of this connection is in here, so that another one can use it."""
        return (
            not self._unparsed_bytes
            and not self._fragments
            and self.protocol.state is OPEN
            and not self.protocol.extensions
        )

    @property
    def is_compressed(self) -> bool:
        return bool(self.protocol.extensions)

    def receive(self, data: bytes | bytearray) -> list[Received]:
        """Return what was said, in its order. What there is to answer waits in the protocol."""
        self.protocol.receive_data(data)
        frames = self.protocol.events_received()
        self._unparsed_bytes += len(data) - sum(_wire_bytes(frame) for frame in frames if isinstance(frame, Frame))
        try:
            return list(self._read(frame for frame in frames if isinstance(frame, Frame)))
        except UnicodeDecodeError as error:
            self._fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
            return []

    def text_and_ping(self, payload: bytes) -> bytes:
        """Return what `text_and_ping` does, compressed."""
        self.protocol.send_text(payload)
        self.protocol.send_ping(PING_PAYLOAD)
        return b"".join(self.protocol.data_to_send())

    def _read(self, frames: Iterable[Frame]) -> Iterator[Received]:
        for frame in frames:
            match frame.opcode:
                case Opcode.PONG if frame.data == PING_PAYLOAD:
                    yield Signal.PONG
                case Opcode.TEXT | Opcode.BINARY | Opcode.CONT if frame.fin and not self._fragments:
                    yield _message(frame.opcode, bytes(frame.data))
                case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                    self._fragments.append(frame)
                    if frame.fin:
                        whole, self._fragments = self._fragments, []
                        yield _message(whole[0].opcode, b"".join(part.data for part in whole))
                    elif len(self._fragments) > FRAGMENTS_MAX:
                        self._fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
                        return

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._fragments = []
        self.protocol.fail(code, reason)


def _message(opcode: Opcode, data: bytes) -> str | bytes:
    """Raises `UnicodeDecodeError`."""
    return data.decode() if opcode is Opcode.TEXT else data


def _wire_bytes(frame: Frame) -> int:
    """How long the frame was at least, masked. A client may spell a length with more bytes than it needs."""
    size = len(frame.data)
    return size + (6 if size < 126 else 8 if size < 65536 else 14)
