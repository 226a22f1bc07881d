"""One client's socket after the upgrade: frames go out, one at a time, and messages come in.

Rule: a connection is OPEN, CLOSING once either side has said so, and lost. It sends a frame when nothing holds it
(`_holds`): no PONG is awaited, the transport takes more, and it is OPEN. It has no task and no timer of its own.

Pacing: behind each frame goes a WebSocket PING, in the same write, and the next frame waits for its PONG. Every client
answers PINGs by itself. It is needed because the Directus SDK reads one frame per turn of its event loop and loses the
others that came in the same turn; and it costs little, since what gathers meanwhile leaves in one frame. A client that
takes every frame can do without it (`?pace=off`): then the next frame goes in the next turn of the loop in which the
transport takes more.

Bound: what waits to be sent is bounded by the outbox. Policy: past it each subscription's `overflow` decides; an answer
for which there is no room closes the client as too slow (1013).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.frames import CloseCode as LibraryCode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from cdc_bridge.engine.outbox import Outbox
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model import frames
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.server import limits
from cdc_bridge.server.client_session import ClientSession
from cdc_bridge.server.framing import PING, PONG_BYTES, Framing, is_pong
from cdc_bridge.server.limits import BoundedReader
from cdc_bridge.server.traffic import SAMPLED

if TYPE_CHECKING:
    from cdc_bridge.server.websocket_server import WebSocketServer

log = logging.getLogger(__name__)


# Why nothing is sent, as bits of `Connection._holds`.
PONG = 1
"""The last frame has not been read, or, without pacing, was written in this turn of the loop."""
FULL = 2
"""The transport takes no more."""
CLOSING = 4


class Connection(BoundedReader):
    """Implements `engine.subscriber.Outlet`. Nothing here waits, but for `room`.

    `framing` is None while no byte of a frame and no fragment of a message is held. `room_timeout_s`: a replay
    leaves half of the outbox empty, and waits for that (`room`). A client that has not made room by then is too slow.
    """

    __slots__ = (
        "_address",
        "_farewell",
        "_farewell_bytes",
        "_framing",
        "_holds",
        "_room",
        "_server",
        "_session",
        "_subscribers",
        "_unread_bytes",
        "is_paced",
        "outbox",
        "tick",
    )

    def __init__(
        self,
        server: WebSocketServer,
        transport: asyncio.Transport,
        address: str,
        framing: Framing | None,
        *,
        is_paced: bool,
    ) -> None:
        super().__init__(server.shared_buffer)
        self.transport = transport
        self.tick = 0
        self._server = server
        self._address = address
        self._framing = framing
        self.is_paced = is_paced
        self._session: ClientSession
        self.outbox = Outbox(server.options.backlog_bytes_max)
        self._subscribers: list[Subscriber] = []
        self._holds = 0
        self._unread_bytes = 0
        self._farewell: tuple[CloseCode, str] | None = None
        self._farewell_bytes = 0
        self._room: asyncio.Event | None = None

    def begin(self, session: ClientSession, behind: bytearray | None) -> None:
        """Take over the transport. `behind` came right behind the request."""
        self._session = session
        self.transport.set_protocol(self)
        self.plan()
        if behind:
            self.in_turn(self.received, behind)
        self.read_on()

    # --- what is sent ---

    def wake(self) -> None:  # noqa: C901 - each part of it called would cost every frame
        """Send the next frame, if there is one and nothing holds it."""
        outbox = self.outbox
        if self._holds or self.transport.is_closing():
            if (traffic := self._server.traffic).measured is self:
                traffic.wait()
            return
        if not (outbox.turns or outbox.replies):
            if outbox.behind:
                self._server.engine.catch_up(self)
            return
        try:
            waiting_bytes = outbox.size_bytes
            traffic = self._server.traffic
            traffic.deliveries += not outbox.replies
            frame = outbox.next_frame()
            if self._farewell is not None:
                self._farewell_bytes -= waiting_bytes - outbox.size_bytes
            self._holds = PONG
            if self._framing is not None and self._framing.is_compressed:
                frame = self._framing.text_and_ping(frame)
            else:
                frame = self._server.text_and_ping(frame)
            if self.is_paced:
                self.transport.write(frame)
            else:
                self.transport.write(memoryview(frame)[: -len(PING)])
                asyncio.get_running_loop().call_soon(self._go_on)
            traffic.sent_bytes += len(frame)
            traffic.frames += 1
            if not traffic.frames % SAMPLED:
                traffic.measure(self)
        except Exception:
            self._fail_alone()
        if self._room is not None:
            self._tell_of_room()

    def reply(self, frame: bytes) -> None:
        """Send an answer before any event."""
        if self._holds & CLOSING:
            return
        if self.outbox.reply(frame):
            self.wake()
        else:
            self.close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _go_on(self) -> None:
        """The client has read the last frame; without pacing it was written in the last turn of the loop."""
        self._holds &= ~PONG
        if (traffic := self._server.traffic).measured is self:
            traffic.has_read()
        outbox = self.outbox
        if self._farewell is not None and (self._farewell_bytes <= 0 or not outbox):
            self.close(*self._farewell)
            return
        if outbox.behind and self.has_room and not self._holds:
            self._server.engine.catch_up(self)
        if outbox:
            self.wake()

    # --- engine.subscriber.Outlet ---

    @property
    def count(self) -> int:
        return len(self._subscribers)

    def subscribers(self) -> list[Subscriber]:
        return list(self._subscribers)

    def open(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    def drop(self, subscriber: Subscriber) -> None:
        self._tell_of_room()
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        self.reply(frames.error("subscribe", error, subscriber.subscription.uid))

    @property
    def has_room(self) -> bool:
        return self.outbox.size_bytes <= self._server.options.backlog_bytes_max // 2 and not self._holds & CLOSING

    async def room(self, size_bytes: int) -> bool:
        if not self._has_room_for(size_bytes):
            try:
                async with asyncio.timeout(self._server.options.room_timeout_s):
                    while not self._has_room_for(size_bytes) and not self._holds & CLOSING:
                        self._room = self._room or asyncio.Event()
                        await self._room.wait()
            except TimeoutError:
                self.close(CloseCode.TRY_AGAIN_LATER, "too slow")
        return not self._holds & CLOSING

    def _has_room_for(self, size_bytes: int) -> bool:
        return not self.outbox or self.outbox.size_bytes + size_bytes <= self._server.options.backlog_bytes_max // 2

    def _tell_of_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    # --- what is received ---

    def buffer_updated(self, nbytes: int) -> None:
        if nbytes == PONG_BYTES and self._framing is None and is_pong(self._shared_buffer):
            self._go_on()
        else:
            super().buffer_updated(nbytes)

    def received(self, data: bytearray) -> None:
        framing = self._framing or self._server.borrow_framing()
        received = framing.receive(data)
        if framing.protocol.writes:
            self._answer(framing)
        self._keep(framing)
        for message in received:
            if self._holds & CLOSING:
                return
            if message is None:
                self._go_on()
            else:
                self._session.receive(message)

    @property
    def may_read(self) -> bool:
        return bool(self._holds & CLOSING) or not self._session.is_congested

    def _keep(self, framing: Framing) -> None:
        """Keep a framing while it has to do with this connection, else give it back."""
        if framing.is_clean:
            self._framing = None
            self._server.give_back(framing)
        else:
            self._framing = framing

    def _answer(self, framing: Framing) -> None:
        """Write PONGs and the answer to a CLOSE. They are not kept for ever; a client that has read all begins anew."""
        if not self.transport.get_write_buffer_size():
            self._unread_bytes = 0
        self._unread_bytes += self._write(framing)
        if self._unread_bytes > limits.UNREAD_BYTES_MAX and not self._holds & CLOSING:
            framing.protocol.fail(LibraryCode.POLICY_VIOLATION, "read what you are answered")
            self._write(framing)

    def _write(self, framing: Framing) -> int:
        written_bytes = self.write_out(framing.protocol)
        if framing.protocol.state is not OPEN:
            self._begin_closing(framing.protocol)
        return written_bytes

    # --- the end ---

    def close(self, code: CloseCode, reason: str) -> None:
        """Close at once and forget what waits. The first call gives the reason."""
        self._end(lambda protocol: protocol.send_close(code, reason))

    def fail(self) -> None:
        """Close because of a fault of ours."""
        self._end(lambda protocol: protocol.fail(LibraryCode.INTERNAL_ERROR))

    def _end(self, say: Callable[[ServerProtocol], None]) -> None:
        if not self._holds & CLOSING:
            framing = self._framing or self._server.borrow_framing()
            say(framing.protocol)
            self._write(framing)
            self._keep(framing)

    def drain(self, code: CloseCode, reason: str, within_s: float | None = None) -> None:
        """Send as much as waits now, then close; close within this time in any case. The first call gives the reason.

        While much is written something always waits, so it is no use to send until nothing does.
        """
        if self._farewell is None:
            self._farewell = code, reason
            self._farewell_bytes = self.outbox.size_bytes
        if not self.outbox and not self._holds & PONG:
            self.close(*self._farewell)
        elif within_s is not None:
            asyncio.get_running_loop().call_later(within_s, self.close, *self._farewell)

    def _fail_alone(self) -> None:
        """End this connection only: others are served in the same turn."""
        log.exception("a connection has failed")
        self.turn_away()

    def _begin_closing(self, protocol: ServerProtocol) -> None:
        if self._holds & CLOSING:
            return
        self._server.traffic.close(protocol)
        self._holds |= CLOSING
        self.outbox.is_closed = True
        self._tell_of_room()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._session.end)  # not now: a topic may be going through its subscribers
        self._server.timer.set(self, loop.time() + limits.CLOSE_TIMEOUT_S)
        self.read_on()

    # --- asyncio.BufferedProtocol ---

    def pause_writing(self) -> None:
        self._holds |= FULL

    def resume_writing(self) -> None:
        self._holds &= ~FULL
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.traffic.lose(self, is_announced=bool(self._holds & CLOSING))
        self._holds |= CLOSING
        self.outbox.is_closed = True
        self._tell_of_room()
        self._session.end()
        self._server.forget(self, self._address)
        del self._session  # it refers to this connection

    # --- what time brings ---

    def time_is_up(self) -> None:
        """Do what is due. The timer calls this when `plan` has asked for it, and when closing has taken too long."""
        if self._holds & CLOSING:
            self.transport.abort()
            return
        try:
            self._session.pass_time()
            self.plan()
        except Exception:
            self._fail_alone()

    def plan(self) -> None:
        """Ask to be called when something will be due."""
        if not self._holds & CLOSING:
            self._server.timer.set(self, self._session.due_s)
