"""WebSocket frames, and the requests in them. Does no I/O; time is an argument.

Theory: a server's text frame without an extension is a short head before the payload, so it is written here, together
with the PING that paces it. Everything that is read goes through websockets' sans-I/O `ServerProtocol`, except the one
PONG that answers that PING, which is ten bytes long.

A protocol that has been given whole frames only, holds no fragment of a message, and has no extension is as good as a
new one. So connections share one: a connection borrows it for what it has read, and keeps it only while it is in the
middle of something (`Framing.is_clean`).
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from cdc_bridge.model import frames, messages
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.messages import (
    Authenticate,
    InvalidMessage,
    Ping,
    Pong,
    ReadCollections,
    ReadItems,
    Status,
    Subscribe,
    Unsubscribe,
)

PING_PAYLOAD: Final = b"next"
"""One PING at most waits for its PONG, so all of them can be alike."""

PING: Final = b"\x89\x04" + PING_PAYLOAD
PONG_BYTES: Final = 10
FRAGMENTS_MAX = 4096
"""The most fragments of one message. Each costs more than its bytes."""

RATE_WINDOW_S = 1.0
REFUSALS_MAX = 10
"""A client may be this many times over its rate, in multiples of the rate, before it is closed."""

_PONG = struct.Struct("!HII")
_PONG_HEAD = 0x8A84
"""FIN and PONG; masked, four bytes."""

_PING_NUMBER = int.from_bytes(PING_PAYLOAD)

# websockets would log the address of each request and the text of each frame, tokens included.
_discreet = logging.getLogger(f"{__name__}.library")
_discreet.setLevel(logging.WARNING)


Received: TypeAlias = str | bytes | None
"""A message, or None for the PONG to our PING: the client has read everything before it."""


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
        """Return the messages, in their order. Answers to PING and CLOSE wait in the protocol."""
        self.protocol.receive_data(data)
        whole = [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        self._unparsed_bytes += len(data) - sum(map(_wire_bytes, whole))
        try:
            return list(self._read(whole))
        except UnicodeDecodeError as error:
            self._fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
            return []

    def text_and_ping(self, payload: bytes) -> bytes:
        """Return what `text_and_ping` does, compressed. The PING is not."""
        self.protocol.send_text(payload)
        self.protocol.send_ping(PING_PAYLOAD)
        return b"".join(self.protocol.data_to_send())

    def _read(self, whole: Iterable[Frame]) -> Iterator[Received]:
        for frame in whole:
            match frame.opcode:
                case Opcode.PONG if frame.data == PING_PAYLOAD:
                    yield None
                case Opcode.TEXT | Opcode.BINARY | Opcode.CONT if frame.fin and not self._fragments:
                    yield _message(frame.opcode, bytes(frame.data))
                case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                    self._fragments.append(frame)
                    if frame.fin:
                        parts, self._fragments = self._fragments, []
                        yield _message(parts[0].opcode, b"".join(part.data for part in parts))
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
    """Return the least length of the masked frame. A client may encode its length in more bytes than needed."""
    size = len(frame.data)
    return size + (6 if size < 126 else 8 if size < 65536 else 14)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a message that needs nothing else."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Abuse:
    """The client went on past a limit that it was told about."""

    reason: str


Request: TypeAlias = Subscribe | Unsubscribe | Status | ReadCollections | ReadItems | Authenticate
Meaning: TypeAlias = Reply | Abuse | Request | None


class MessageReader:
    """Turns text into requests.

    The rate is counted in windows of a second, or of as long as one message may take when that is longer.
    `messages_per_second_max` of 0 means no limit.
    """

    __slots__ = ("_alive", "_window_count", "_window_count_max", "_window_s", "_window_start_s")

    def __init__(self, messages_per_second_max: float = 0) -> None:
        self._window_s = max(RATE_WINDOW_S, 1 / messages_per_second_max) if messages_per_second_max else 0.0
        self._window_count_max = max(messages_per_second_max, 1) if messages_per_second_max else 0
        self._window_start_s = -math.inf
        self._window_count = 0
        self._alive = True

    def receive(self, text: str | bytes, now_s: float) -> Meaning:
        """Return what a frame means. A refused frame is answered; no frame raises."""
        if refusal := self._refuse_rate(now_s):
            return refusal
        try:
            message = messages.parse(text)
        except InvalidMessage as invalid:
            return Reply(frames.error(invalid.type, invalid.error, invalid.uid))
        if not isinstance(message, Authenticate):
            self._alive = True  # as in Directus: any valid message but `auth` is a sign of life
        match message:
            case Ping(uid):
                return Reply(frames.pong(uid))
            case Pong():
                return None
        return message

    def tick(self) -> bool:
        """Return whether the client gave a sign of life in the heartbeat period that has passed now."""
        alive, self._alive = self._alive, False
        return alive

    def _refuse_rate(self, now_s: float) -> Reply | Abuse | None:
        if not self._window_count_max:
            return None
        if now_s - self._window_start_s >= self._window_s:
            self._window_start_s = now_s
            self._window_count = 0
        self._window_count += 1
        if self._window_count <= self._window_count_max:
            return None
        if self._window_count > self._window_count_max * (1 + REFUSALS_MAX):
            return Abuse("too many messages")
        wait_ms = round((self._window_start_s + self._window_s - now_s) * 1000)
        error = RequestError("REQUESTS_EXCEEDED", f"Too many messages, retry after {wait_ms}ms.")
        return Reply(frames.error("server", error))
