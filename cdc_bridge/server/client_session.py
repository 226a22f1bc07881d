"""One client: its messages, its rights, and the request that is being carried out for it.

Rule: `AuthState` decides what a client may see, and returns the steps that are taken here. Requests are carried out in
their order, one at a time, `auth` among them, so a request behind an `auth` has the new rights. There is one task while
a request waits, and none otherwise. A request is broken off when the client may see no more.

Bound: `REQUESTS_MAX` requests, and as many bytes as `WAITING_BYTES_MAX` says. Policy: past either nothing more is read
from the client; what has been read by then is taken still.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, assert_never

from cdc_bridge.access.auth_state import (
    AuthState,
    GoOn,
    Say,
    Step,
    Suspend,
    TurnAway,
    no_users,
    token_expired,
)
from cdc_bridge.engine.state import SENT
from cdc_bridge.engine.subscriber import Outlet, Subscriber
from cdc_bridge.logs import facts
from cdc_bridge.model import frames
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.errors import RequestError, forbidden_collection
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.messages import (
    Authenticate,
    ReadCollections,
    ReadItems,
    Status,
    Subscribe,
    Unsubscribe,
)
from cdc_bridge.model.security_context import Principal
from cdc_bridge.model.subscription import Uid, uid_text
from cdc_bridge.ports import InitialData
from cdc_bridge.server.framing import Abuse, Meaning, MessageReader, Reply, Request

if TYPE_CHECKING:
    from cdc_bridge.server.websocket_server import WebSocketServer

log = logging.getLogger(__name__)

_T = TypeVar("_T")

REQUESTS_MAX = 100

WAITING_BYTES_MAX = 4 * 1024 * 1024
"""The bytes of requests that wait for their turn."""

UNPROVED_BYTES_MAX = 64 * 1024
"""The same for a client that has not authenticated yet."""

FAREWELL_S = 5.0
"""The time in which a client that is turned away can read the reason."""


class Engine(Protocol):
    """Serves requests. It raises `RequestError`; anything else is a fault of ours."""

    async def subscribe(self, outlet: Outlet, request: Subscribe, principal: Principal) -> Subscriber: ...
    async def read_items(self, request: ReadItems, principal: Principal) -> InitialData: ...
    async def read_collections(self, principal: Principal) -> Catalog: ...
    async def see_as(self, outlet: Outlet, principal: Principal) -> None: ...
    def suspend(self, outlet: Outlet) -> None: ...
    def catch_up(self, outlet: Outlet) -> None: ...
    def unsubscribe(self, subscriber: Subscriber) -> None: ...


class Client(Outlet, Protocol):
    """The connection of a session."""

    def reply(self, frame: bytes) -> None: ...
    def drain(self, code: CloseCode, reason: str, within_s: float | None = None) -> None: ...
    def fail(self) -> None: ...
    def read_on(self) -> None: ...
    def plan(self) -> None: ...


class ClientSession:
    """See the module's docstring."""

    __slots__ = (
        "_auth_state",
        "_client",
        "_goes_on",
        "_is_at_engine",
        "_is_broken_off",
        "_is_ended",
        "_messages",
        "_ping_s",
        "_queue",
        "_server",
        "_task",
        "_waiting_bytes",
    )

    def __init__(self, server: WebSocketServer, client: Client, auth_state: AuthState) -> None:
        self._server = server
        self._client = client
        self._auth_state = auth_state
        self._messages = MessageReader(server.options.messages_per_second_max)
        self._ping_s = server.now().steady_s + server.options.ping_interval_s
        self._queue: deque[tuple[Request | Reply, int]] | None = None
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._goes_on = False
        self._is_at_engine = False
        self._is_broken_off = False
        self._is_ended = False

    # --- what comes in ---

    def receive(self, text: str | bytes) -> None:
        """Answer a message at once, or have it wait for its turn."""
        received = self._messages.receive(text, self._server.now().steady_s)
        if not self._auth_state.is_over:
            self._sort(received, len(text))

    @property
    def is_congested(self) -> bool:
        """Whether no more should be read."""
        if self._queue is None:
            return False
        waiting_bytes_max = UNPROVED_BYTES_MAX if self._auth_state.is_awaited else WAITING_BYTES_MAX
        return len(self._queue) >= REQUESTS_MAX or self._waiting_bytes > waiting_bytes_max

    def _sort(self, received: Meaning, size_bytes: int) -> None:
        """Handle a message, or queue it while an `auth` is pending, since its principal is not known yet."""
        match received:
            case Abuse(reason):
                self._client.close(CloseCode.POLICY_VIOLATION, reason)
            case Authenticate():
                self._auth_state.announce()
                self._enqueue(received, size_bytes)
            case _ if self._auth_state.is_awaited and not self._auth_state.is_judged:
                self._take(self._auth_state.turn_away())
            case None:
                pass
            case Reply(frame) if not self._auth_state.is_judged:
                self._client.reply(frame)
            case _:
                self._enqueue(received, size_bytes)

    def _enqueue(self, request: Request | Reply, size_bytes: int) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append((request, size_bytes))
        self._waiting_bytes += size_bytes
        self._work()

    # --- what is done ---

    def _work(self) -> None:
        if self._task is None and not self._is_ended:
            self._task = self._server.start(self._serve())

    async def _serve(self) -> None:
        """Carry out what there is to do, away from the reader, so that a slow request stops no ping."""
        try:
            while not self._is_ended and (self._goes_on or self._queue):
                await self._do_next()
                await asyncio.sleep(0)  # however much has come at once, the others have their turn
        except Exception:
            log.exception("a request has failed")
            self._client.fail()
        finally:
            self._task = None
            self._queue = None
            self._waiting_bytes = 0
            if self._is_ended:
                self._end_all()

    async def _do_next(self) -> None:
        self._take(self._auth_state.due(self._server.now()))
        if self._goes_on:
            self._goes_on = False
            await self._go_on()
        elif self._queue:
            request, size_bytes = self._queue[0]
            if not self._auth_state.is_over:
                await self._carry_out(request)
            self._queue.popleft()
            self._waiting_bytes -= size_bytes
            self._client.read_on()

    async def _carry_out(self, request: Request | Reply) -> None:
        match request:
            case Subscribe():
                await self._subscribe(request)
            case Unsubscribe():
                self._unsubscribe(request)
            case Status(uid):
                now_us = int(self._server.now().unix_s * 1e6)
                shown = [_status(subscriber, now_us) for subscriber in self._client.subscribers()]
                self._client.reply(frames.status(shown, uid))
            case ReadCollections(uid):
                await self._read_collections(uid)
            case ReadItems():
                await self._read_items(request)
            case Authenticate():
                await self._authenticate(request)
            case Reply(frame):
                self._client.reply(frame)
            case _:
                assert_never(request)

    async def _authenticate(self, request: Authenticate) -> None:
        try:
            if request.access_token is None:
                raise no_users()
            identity = await self._server.authenticator.identify(request.access_token)
        except RequestError as error:
            steps = self._auth_state.refuse(error, request.uid)
        else:
            steps = self._auth_state.accept(identity, request.uid)
        self._take(steps)
        self._client.plan()

    async def _subscribe(self, request: Subscribe) -> None:
        self._end_uid(request.uid)  # even when the new one fails, as in Directus
        before = self._client.subscribers()
        try:
            principal = self._auth_state.principal_of(request.collection)
            await self._unless_broken_off(self._server.engine.subscribe(self._client, request, principal))
        except RequestError as error:
            for subscriber in self._client.subscribers():
                if subscriber not in before:
                    self._end(subscriber)
            self._note(error)
            self._client.reply(frames.error("subscribe", error, request.uid))

    def _unsubscribe(self, request: Unsubscribe) -> None:
        if request.uid is None:
            self._end_all()
        self._end_uid(request.uid)
        self._client.reply(frames.unsubscribed(request.uid))

    async def _read_collections(self, uid: Uid) -> None:
        """Send the names of collections. An anonymous client without a role is refused, as for each collection."""
        try:
            principal = self._auth_state.principal_of("*")
            catalog = await self._unless_broken_off(self._server.engine.read_collections(principal))
        except RequestError as error:
            self._client.reply(frames.error("collections", error, uid))
        else:
            self._client.reply(frames.collections(catalog, uid))

    async def _read_items(self, request: ReadItems) -> None:
        try:
            principal = self._auth_state.principal_of(request.collection)
            data = await self._unless_broken_off(self._server.engine.read_items(request, principal))
        except RequestError as error:
            self._note(error)
            self._client.reply(frames.error("items", error, request.uid))
        else:
            one = request.item is not None
            self._client.reply(frames.items(data.rows, request.uid, one=one, more=data.more, meta=data.meta))

    def _note(self, error: RequestError) -> None:
        """Log the role of a refused request. The client is not told whether something is missing or forbidden."""
        if error.code == "FORBIDDEN":
            principal = self._auth_state.principal
            found = facts(
                role=principal.name if principal else "",
                as_role=principal.role if principal else None,
                reason=error.message,
            )
            log.debug("a request was refused", extra=found)

    async def _unless_broken_off(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Raises `RequestError` when the client may see no more before it is done."""
        self._is_at_engine, self._is_broken_off = True, False
        try:
            found = await work
            if not self._is_broken_off:
                return found
        except (asyncio.CancelledError, RequestError):
            if not self._is_broken_off or self._is_ended:
                raise
        finally:
            self._is_at_engine = False
            if self._is_broken_off and (task := asyncio.current_task()) is not None:
                task.uncancel()
        raise token_expired()

    # --- what the auth state says ---

    def _take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Suspend():
                    self._break_off()
                    self._server.engine.suspend(self._client)
                case Say(frame):
                    self._client.reply(frame)
                case GoOn():
                    self._goes_on = True
                    self._work()
                case TurnAway(reason):
                    self._end_all()
                    self._client.drain(CloseCode.UNAUTHENTICATED, reason, FAREWELL_S)
                case _:
                    assert_never(step)

    def _break_off(self) -> None:
        if self._is_at_engine and not self._is_broken_off and self._task is not None:
            self._is_broken_off = True
            self._task.cancel()

    async def _go_on(self) -> None:
        if not self._auth_state.is_known:
            pass  # the token has expired again
        elif (principal := self._auth_state.principal) is None:
            for subscriber in self._client.subscribers():
                self._end(subscriber)
                self._client.refuse(subscriber, forbidden_collection(subscriber.subscription.collection.name))
        else:
            with suppress(RequestError):  # broken off; the step that did so says how it goes on
                await self._unless_broken_off(self._server.engine.see_as(self._client, principal))

    # --- what time brings ---

    @property
    def due_s(self) -> float:
        """Return the time, by the loop's clock, when `pass_time` has something to do."""
        now = self._server.now()
        wake_s = self._auth_state.wake_s(now)
        return self._ping_s if wake_s is None else min(self._ping_s, now.steady_s + wake_s)

    def pass_time(self) -> None:
        """Do what is due: expire a token, close a client that takes too long, or send a ping."""
        now = self._server.now()
        self._take(self._auth_state.due(now))
        if now.steady_s >= self._ping_s:
            self._ping_s = now.steady_s + self._server.options.ping_interval_s
            self._ping()

    def _ping(self) -> None:
        """Ping, or close a client that has sent nothing since the last ping."""
        if self._auth_state.is_over:
            return  # nothing comes after the error
        if self._auth_state.is_awaited or self._auth_state.is_judged:
            return  # the first frame that it gets has to be the answer to its `auth`
        if self._messages.tick():
            self._client.reply(frames.ping())
        else:
            self._client.close(CloseCode.POLICY_VIOLATION, "no answer to a ping")

    # --- the end ---

    def end(self) -> None:
        """Stop everything: the client is gone, or will be."""
        self._is_ended = True
        if self._task is not None:
            self._task.cancel()
        self._end_all()

    def _end_uid(self, uid: Uid) -> None:
        """End the subscription of that uid, if there is one."""
        text = uid_text(uid)
        if text is not None:
            for subscriber in self._client.subscribers():
                if subscriber.subscription.stream_uid == text:
                    self._end(subscriber)

    def _end_all(self) -> None:
        for subscriber in self._client.subscribers():
            self._end(subscriber)

    def _end(self, subscriber: Subscriber) -> None:
        self._server.engine.unsubscribe(subscriber)


def _status(subscriber: Subscriber, now_us: int) -> dict[str, Any]:
    """Return how far behind a subscription is. While it waits for its data, that is not known."""
    size_bytes, events, seconds = subscriber.lag(now_us)
    lag: dict[str, Any] = {"bytes": size_bytes, "events": events, "seconds": seconds}
    if subscriber.state not in SENT:
        lag |= {"seconds": None, "awaits": "init"}
    uid = subscriber.subscription.stream_uid
    return lag if uid is None else {"uid": uid} | lag
