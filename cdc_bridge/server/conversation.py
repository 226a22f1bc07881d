"""One client over WebSocket: a task group with a reader, a sender, a server of requests, a pulse and a timekeeper.

What a client may see is decided by its `AuthState`; here is done what that says. Requests are carried out in their
order, `auth` among them, so what comes right behind an `auth` is done with the new eyes. The broker does one thing at
a time for a client. Whatever it is doing is broken off when the client may see no more: it would end in telling.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar, assert_never

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from cdc_bridge.access.auth_state import (
    AuthState,
    GoOn,
    Identity,
    Moment,
    Say,
    Step,
    Suspend,
    TurnAway,
    no_users,
    token_expired,
)
from cdc_bridge.engine.broker import Broker
from cdc_bridge.logs import facts
from cdc_bridge.model import frames
from cdc_bridge.model.errors import RequestError, forbidden_collection
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.messages import Authenticate, ReadItems, Subscribe, Unsubscribe
from cdc_bridge.model.subscription import Uid, uid_text
from cdc_bridge.server.line import Line
from cdc_bridge.server.outlet import SocketOutlet
from cdc_bridge.server.session import Abuse, Received, Reply, Request, Session
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

_T = TypeVar("_T")

WAITING_BYTES_MAX = 4 * 1024 * 1024
"""Of requests that wait for their turn."""

UNPROVED_BYTES_MAX = 64 * 1024
"""The same of a client of which nothing is known yet."""

FAREWELL_S = 5.0
"""What a client that is turned away has to read why."""


def now() -> Moment:
    return Moment(asyncio.get_running_loop().time(), time.time())


class Conversation:
    """One client, from its first frame to its last. `identify` raises `RequestError`."""

    def __init__(
        self,
        broker: Broker,
        socket: ServerConnection,
        outlet: SocketOutlet,
        *,
        session: Session,
        auth_state: AuthState,
        identify: Callable[[str], Awaitable[Identity]],
        ping_interval_s: float,
    ) -> None:
        self._broker = broker
        self._socket = socket
        self._outlet = outlet
        self._session = session
        self._auth_state = auth_state
        self._identify = identify
        self._ping_interval_s = ping_interval_s
        self._line = Line(self._waiting_bytes_max)
        self._at_the_broker = asyncio.Lock()
        self._work: asyncio.Task[Any] | None = None
        self._other_times = asyncio.Event()

    async def run(self) -> None:
        """Ends when the socket is closed, by whomever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive())
                tasks.create_task(self._outlet.send())
                tasks.create_task(self._outlet.close_when_asked())
                tasks.create_task(self._serve())
                tasks.create_task(self._pulse())
                tasks.create_task(self._keep_time())
        except* ConnectionClosed:
            log.debug("a client has gone")
        finally:
            self._end_all()

    # --- what comes in ---

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await self._socket.recv(decode=None)
            await asyncio.sleep(0)  # however much has come at once, the others have their turn
            received = self._session.receive(frame, loop.time())
            if not self._auth_state.is_over:
                await self._sort(received, len(frame))

    async def _sort(self, received: Received, size_bytes: int) -> None:
        """What is answered at once, and what waits for its turn: everything, while nobody knows who it comes from."""
        match received:
            case Abuse(reason):
                self._outlet.close(CloseCode.POLICY_VIOLATION, reason)
            case Authenticate():
                self._auth_state.announce()
                await self._line.join(received, size_bytes)
            case _ if self._auth_state.is_awaited and not self._auth_state.is_judged:
                await self._take(self._auth_state.turn_away())
            case None:
                pass
            case Reply(frame) if not self._auth_state.is_judged:
                self._outlet.reply(frame)
            case _:
                await self._line.join(received, size_bytes)

    def _waiting_bytes_max(self) -> int:
        return UNPROVED_BYTES_MAX if self._auth_state.is_awaited else WAITING_BYTES_MAX

    # --- what is done ---

    async def _serve(self) -> None:
        """Carry out requests in their order, away from the reader, so that a slow one stops no ping."""
        while True:
            check_still_wanted()
            async with self._line.first() as request:
                await asyncio.sleep(0)  # as above
                await self._take(self._auth_state.due(now()))
                if not self._auth_state.is_over:
                    await self._carry_out(request)

    async def _carry_out(self, request: Request | Reply) -> None:
        match request:
            case Subscribe():
                await self._subscribe(request)
            case Unsubscribe():
                self._unsubscribe(request)
            case ReadItems():
                await self._read_items(request)
            case Authenticate():
                await self._authenticate(request)
            case Reply(frame):
                self._outlet.reply(frame)
            case _:
                assert_never(request)

    async def _authenticate(self, request: Authenticate) -> None:
        try:
            if request.access_token is None:
                raise no_users()
            identity = await self._identify(request.access_token)
        except RequestError as error:
            steps = self._auth_state.refuse(error, request.uid)
        else:
            steps = self._auth_state.accept(identity, request.uid)
        self._other_times.set()
        await self._take(steps)

    async def _subscribe(self, request: Subscribe) -> None:
        self._end(request.uid)  # even when the new one fails, as in Directus
        before = self._outlet.subscribers()
        try:
            async with self._at_the_broker:
                principal = self._auth_state.principal_of(request.collection)
                await self._unless_broken_off(self._broker.subscribe(self._outlet, request, principal))
        except RequestError as error:
            for subscriber in self._outlet.subscribers():
                if subscriber not in before:
                    self._broker.unsubscribe(subscriber)
            self._note(error)
            self._outlet.reply(frames.error("subscribe", error, request.uid))

    def _unsubscribe(self, request: Unsubscribe) -> None:
        if request.uid is None:
            self._end_all()
        self._end(request.uid)
        self._outlet.reply(frames.unsubscribed(request.uid))

    def _end(self, uid: Uid) -> None:
        """End the subscription of that uid, if there is one."""
        text = uid_text(uid)
        if text is not None and (subscriber := self._outlet.subscriber(text)):
            self._broker.unsubscribe(subscriber)

    def _end_all(self) -> None:
        for subscriber in self._outlet.subscribers():
            self._broker.unsubscribe(subscriber)

    async def _read_items(self, request: ReadItems) -> None:
        try:
            async with self._at_the_broker:
                principal = self._auth_state.principal_of(request.collection)
                data = await self._unless_broken_off(self._broker.read_items(request, principal))
        except RequestError as error:
            self._note(error)
            self._outlet.reply(frames.error("items", error, request.uid))
        else:
            one = request.item is not None
            self._outlet.reply(frames.items(data.rows, request.uid, one=one, more=data.more, meta=data.meta))

    def _note(self, error: RequestError) -> None:
        """Clients are not told whether something is not there or not theirs; who wonders finds their role here."""
        if error.code == "FORBIDDEN":
            principal = self._auth_state.principal
            said = facts(
                role=principal.name if principal else "",
                as_role=principal.role if principal else None,
                reason=error.message,
            )
            log.debug("a request was refused", extra=said)

    async def _unless_broken_off(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Raises `RequestError` when the client's token expires before it is done."""
        task: asyncio.Task[_T] = asyncio.create_task(work)
        self._work = task
        try:
            found = await task
            if self._work is None:  # broken off when it was just done
                raise token_expired()
            return found
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this is None or this.cancelling():
                raise
            raise token_expired() from None
        finally:
            self._work = None

    # --- what the auth_state says ---

    async def _take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Suspend():
                    self._break_off()
                    self._broker.suspend(self._outlet)
                case Say(frame):
                    self._outlet.reply(frame)
                case GoOn():
                    await self._go_on()
                case TurnAway(reason):
                    self._end_all()
                    self._outlet.see_off(CloseCode.UNAUTHENTICATED, reason, FAREWELL_S)
                case _:
                    assert_never(step)

    def _break_off(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def _go_on(self) -> None:
        async with self._at_the_broker:
            if not self._auth_state.is_known:
                pass  # the token has expired again
            elif (principal := self._auth_state.principal) is None:
                self._refuse_all()
            else:
                with suppress(RequestError):  # broken off: what broke it off says how it goes on
                    await self._unless_broken_off(self._broker.see_as(self._outlet, principal))

    def _refuse_all(self) -> None:
        for subscriber in self._outlet.subscribers():
            self._broker.unsubscribe(subscriber)
            self._outlet.refuse(subscriber, forbidden_collection(subscriber.subscription.collection.name))

    # --- what time brings ---

    async def _keep_time(self) -> None:
        """Tokens expire, and nobody is waited for for ever."""
        while True:
            await self._take(self._auth_state.due(now()))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._auth_state.wake_s(now())):
                    await self._other_times.wait()
            self._other_times.clear()

    async def _pulse(self) -> None:
        """Ping every period; close a client of which nothing was heard since the last ping."""
        while True:
            await asyncio.sleep(self._ping_interval_s)
            if self._auth_state.is_over:
                return  # nothing comes after the error
            if self._auth_state.is_awaited or self._auth_state.is_judged:
                continue  # the answer to its `auth` has to be the first that it hears
            if not self._session.tick():
                self._outlet.close(CloseCode.POLICY_VIOLATION, "no answer to a ping")
                return
            self._outlet.reply(frames.ping())
