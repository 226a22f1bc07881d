"""The server alone, at a free port, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cdc_bridge.access.auth_state import Identity, authentication_failed
from cdc_bridge.access.authenticator import Authenticator, Roles, Verifier
from cdc_bridge.engine.subscriber import CursorCiphers, Outlet, Subscriber
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.change import NOTHING_SEEN
from cdc_bridge.model.messages import ReadItems, Subscribe
from cdc_bridge.model.security_context import Principal
from cdc_bridge.model.subscription import Event, EventKind
from cdc_bridge.ports import InitialData
from cdc_bridge.server.connection import Connection
from cdc_bridge.server.http import RequestPolicy
from cdc_bridge.server.limits import ConnectionLimits
from cdc_bridge.server.websocket_server import ServerOptions, WebSocketServer
from tests.core.facts import subscription


async def at_once() -> None:
    """What `items` waits for by default."""


@dataclass
class StubEngine:
    """Subscribes each client at once. `read` is awaited by `items`."""

    read: Callable[[], Awaitable[None]] = at_once
    subscribed: asyncio.Queue[tuple[Connection, Subscriber]] = field(default_factory=asyncio.Queue)
    ended: list[Subscriber] = field(default_factory=list)
    seen_as: list[Principal] = field(default_factory=list)
    caught_up: list[Outlet] = field(default_factory=list)

    async def subscribe(self, outlet: Outlet, request: Subscribe, principal: Principal) -> Subscriber:
        assert isinstance(outlet, Connection)
        subscriber = Subscriber(outlet, subscription(uid=request.uid), CursorCiphers())
        outlet.open(subscriber)
        self.subscribed.put_nowait((outlet, subscriber))
        return subscriber

    async def read_items(self, request: ReadItems, principal: Principal) -> InitialData:
        await self.read()
        return InitialData(NOTHING_SEEN, (b'{"id":1}',), more=False)

    async def read_collections(self, principal: Principal) -> Catalog:
        return Catalog([])

    async def see_as(self, outlet: Outlet, principal: Principal) -> None:
        self.seen_as.append(principal)

    def catch_up(self, outlet: Outlet) -> None:
        self.caught_up.append(outlet)
        outlet.outbox.behind.clear()

    def suspend(self, outlet: Outlet) -> None:
        for subscriber in outlet.subscribers():
            subscriber.forget()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self.ended.append(subscriber)
        subscriber.forget()
        subscriber.outlet.drop(subscriber)


class StubAuthenticator(Authenticator):
    """Knows the tokens that it is given. Everybody else is somebody, too."""

    def __init__(self, tokens: dict[str, Identity]) -> None:
        super().__init__(Roles(is_ruled=lambda role: True, public=True), Verifier())
        self.tokens = tokens

    async def identify(self, token: str) -> Identity:
        if found := self.tokens.get(token):
            return found
        raise authentication_failed()


@dataclass
class StubServer:
    server: WebSocketServer
    engine: StubEngine
    url: str
    limits: ConnectionLimits
    authenticator: StubAuthenticator

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])


@asynccontextmanager
async def stub_server(engine: StubEngine | None = None, **options: Any) -> AsyncIterator[StubServer]:
    """Options are those of `ServerOptions`."""
    engine = engine or StubEngine()
    limits = ConnectionLimits(0, 0)
    authenticator = StubAuthenticator({})
    server = WebSocketServer(
        engine, RequestPolicy(limits, (), tuple), authenticator, ServerOptions(**{"port": 0} | options)
    )
    async with server.run() as url:
        yield StubServer(server, engine, url, limits, authenticator)


def created(*rows: bytes) -> Event:
    return Event(EventKind.CREATE, rows)
