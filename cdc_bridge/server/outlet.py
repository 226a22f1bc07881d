"""The sending half of one WebSocket: a backlog, and the task that empties it frame by frame."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection

from cdc_bridge.engine.backlog import Backlog
from cdc_bridge.engine.subscriber import Subscriber
from cdc_bridge.model import frames
from cdc_bridge.model.cursor import Receipt
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.subscription import Event


class SocketOutlet:
    """Implements `engine.subscriber.Outlet`. Pushing never waits; past the backlog's bound the client is too slow.

    Pacing: after each frame goes a WebSocket PING, and the next frame waits for its PONG. Every client answers
    PINGs by itself. It is needed because the Directus SDK reads one frame per turn of its event loop and loses
    the others that came in the same turn; and it costs little, since what gathers meanwhile leaves in one frame.

    `room_timeout_s`: who has more to push than may wait leaves half of the backlog empty, and waits for that. A client
    that has not made room by then is too slow as well.
    """

    def __init__(self, socket: ServerConnection, backlog_bytes_max: int, room_timeout_s: float = 30) -> None:
        self._socket = socket
        self._backlog = Backlog(backlog_bytes_max)
        self._half_bytes = backlog_bytes_max // 2
        self._room_timeout_s = room_timeout_s
        self._less_waits = asyncio.Event()
        self._wake = asyncio.Event()
        self._asked_to_close = asyncio.Event()
        self._close_code = CloseCode.GOING_AWAY
        self._close_reason = ""
        self._farewell: tuple[CloseCode, str] | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._subscribers: dict[str | Subscriber, Subscriber] = {}

    # --- hub.subscriber.Outlet ---

    @property
    def count(self) -> int:
        return len(self._subscribers)

    def open(self, subscriber: Subscriber) -> None:
        subscription = subscriber.subscription
        self._subscribers[key_of(subscriber)] = subscriber
        self._backlog.open(subscriber, subscription.stream_uid, one=subscription.item is not None)

    def push(self, subscriber: Subscriber, event: Event, receipt: Receipt | None) -> None:
        if not self._asked_to_close.is_set() and not self._backlog.push(subscriber, event, receipt):
            self.close(CloseCode.TRY_AGAIN_LATER, "too slow")
        self._wake.set()

    def silence(self, subscriber: Subscriber) -> None:
        self._backlog.drop(subscriber)
        self._less_waits.set()
        self._backlog.open(subscriber, subscriber.subscription.stream_uid, one=subscriber.subscription.item is not None)

    def drop(self, subscriber: Subscriber) -> None:
        self._backlog.drop(subscriber)
        self._less_waits.set()
        self._subscribers.pop(key_of(subscriber), None)

    def refuse(self, subscriber: Subscriber, error: RequestError) -> None:
        self.reply(frames.error("subscribe", error, subscriber.subscription.uid))

    @property
    def has_room(self) -> bool:
        return self._backlog.size_bytes <= self._half_bytes and not self._asked_to_close.is_set()

    async def room(self, size_bytes: int) -> bool:
        if not self._has_room_for(size_bytes):
            try:
                async with asyncio.timeout(self._room_timeout_s):
                    await self._less_than(size_bytes)
            except TimeoutError:
                self.close(CloseCode.TRY_AGAIN_LATER, "too slow")
        return not self._asked_to_close.is_set()

    async def _less_than(self, size_bytes: int) -> None:
        """Until so much has room."""
        while not self._has_room_for(size_bytes) and not self._asked_to_close.is_set():
            self._less_waits.clear()
            await self._less_waits.wait()

    def _has_room_for(self, size_bytes: int) -> bool:
        return not self._backlog or self._backlog.size_bytes + size_bytes <= self._half_bytes

    # --- the connection's own ---

    def subscriber(self, uid: str) -> Subscriber | None:
        """The subscription of that uid."""
        return self._subscribers.get(uid)

    def subscribers(self) -> list[Subscriber]:
        return list(self._subscribers.values())

    def reply(self, frame: bytes) -> None:
        if not self._asked_to_close.is_set() and not self._backlog.reply(frame):
            self.close(CloseCode.TRY_AGAIN_LATER, "too slow")
        self._wake.set()

    def close(self, code: CloseCode, reason: str) -> None:
        """Close at once; what still waits is forgotten. The first one who asks gives the reason."""
        if not self._asked_to_close.is_set():
            self._close_code, self._close_reason = code, reason
            self._asked_to_close.set()
            self._less_waits.set()

    def drain(self, code: CloseCode = CloseCode.GOING_AWAY, reason: str = "shutting down") -> None:
        """Send what waits, then close. The first one who asks gives the reason."""
        self._farewell = self._farewell or (code, reason)
        self._wake.set()

    def see_off(self, code: CloseCode, reason: str, within_s: float) -> None:
        """Send what waits, then close, and close then in any case: a client may read nothing any more."""
        self.drain(code, reason)
        asyncio.get_running_loop().call_later(within_s, self.close, code, reason)

    def abort(self) -> None:
        """Close without a word."""
        self._socket.transport.abort()

    async def send(self) -> None:
        """Send what is pushed, frame by frame, until the socket is closed."""
        while True:
            while self._backlog:
                frame = self._backlog.next_frame()
                self._less_waits.set()
                await self._socket.send(frame, text=True)
                await (await self._socket.ping())
            if self._farewell:
                self.close(*self._farewell)
            self._wake.clear()
            await self._wake.wait()

    async def close_when_asked(self) -> None:
        """Beside `send`, which may be stuck in a socket that nobody reads."""
        await self._asked_to_close.wait()
        await self._socket.close(self._close_code, self._close_reason)


def key_of(subscriber: Subscriber) -> str | Subscriber:
    """Under what a client's subscription is found again: its uid, or itself when it has none."""
    uid = subscriber.subscription.stream_uid
    return subscriber if uid is None else uid
