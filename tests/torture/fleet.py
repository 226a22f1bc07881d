"""The bridges of a story: processes, each with a proxy of its own between it and the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

from tests.support.bridge import BridgeProcess, is_ready
from tests.support.proxy import Proxy

BRIDGES = 2
NOTICES_WITHIN_S = 20.0


class Fleet:
    """The first bridge is always there, but while it is being started; the second one comes and goes."""

    def __init__(self, dsn: str, arguments: Sequence[str]) -> None:
        self._dsn = dsn
        self._arguments = arguments
        self._proxies = [Proxy.before(dsn) for _ in range(BRIDGES)]
        self._bridges: list[BridgeProcess | None] = [None] * BRIDGES
        self._change = asyncio.Condition()
        self._stack = AsyncExitStack()
        self.said: list[str] = []
        """What each bridge that has ended had logged."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for proxy in self._proxies:
                await stack.enter_async_context(proxy)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for number in range(BRIDGES):
            await self.kill(number)
        await self._stack.aclose()

    async def url(self, chance: random.Random) -> str:
        """Where clients can connect; waits until there is a bridge."""
        async with self._change:
            await self._change.wait_for(lambda: any(self._bridges))
            return chance.choice([bridge.url for bridge in self._bridges if bridge])

    def existing(self, number: int) -> int:
        """This one, or the first where this one is not there."""
        return number if self._bridges[number] else 0

    def is_there(self, number: int) -> bool:
        return self._bridges[number] is not None

    def proxy(self, number: int) -> Proxy:
        return self._proxies[number]

    async def start(self, number: int) -> None:
        """It need not be ready then."""
        if self._bridges[number] is not None:
            return
        bridge = BridgeProcess(self._proxies[number].dsn(self._dsn), *self._arguments)
        await bridge.start()
        async with self._change:
            self._bridges[number] = bridge
            self._change.notify_all()

    async def ready(self, number: int) -> None:
        bridge = self._bridges[number]
        assert bridge is not None
        await bridge.ready()

    async def kill(self, number: int) -> None:
        if bridge := self._bridges[number]:
            self._bridges[number] = None
            with suppress(ProcessLookupError):  # it has ended by itself, and says why
                bridge.kill()
            await self._ended(bridge)

    async def stop(self, number: int) -> None:
        if bridge := self._bridges[number]:
            self._bridges[number] = None
            bridge.terminate()
            await self._ended(bridge)

    async def notices(self, number: int) -> None:
        """Wait until it knows that it has lost the server. Nothing but asking tells."""
        bridge = self._bridges[number]
        assert bridge is not None
        async with asyncio.timeout(NOTICES_WITHIN_S):
            while await is_ready(bridge.http):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _ended(self, bridge: BridgeProcess) -> None:
        await bridge.wait()
        self.said.append(bridge.stderr)
