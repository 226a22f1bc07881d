"""The composition root: has the parts built, runs them side by side, and takes them down in order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from cdc_bridge import wiring as parts
from cdc_bridge.access.authenticator import Authenticator
from cdc_bridge.access.rules import RuleSet
from cdc_bridge.admin.maintenance import LogMaintenance
from cdc_bridge.engine.broker import Broker
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import BridgeError, UsageError
from cdc_bridge.server.server import WebSocketServer
from cdc_bridge.settings import Settings
from cdc_bridge.wanted import check_still_wanted
from cdc_bridge.wiring import Pools

log = logging.getLogger(__name__)

CATALOG_INTERVAL_S = 2.0
"""How long a change of tables can go unnoticed that no row change tells of."""

MAINTENANCE_INTERVAL_S = 5.0
"""How often the log is looked at, and pruned if that cannot wait."""


class Bridge:
    """One bridge: one database, one port."""

    def __init__(
        self,
        settings: Settings,
        on_listening: Callable[[str], None] = lambda url: None,
        on_stopping: Callable[[], None] = lambda: None,
        revise: Callable[[], Settings] | None = None,
    ) -> None:
        """`revise` says what holds from now on, when it is asked; it raises `UsageError` to leave all as it is."""
        self._settings = settings
        self._revise = revise
        self._revising = asyncio.Event()
        self._on_listening = on_listening
        self._on_stopping = on_stopping
        self._stopping = asyncio.Event()
        self._keys = parts.keys_at_hand(settings)
        self._certificate = parts.certificate(settings)

    async def run(self) -> None:
        """Serve until `stop`, SIGTERM or SIGINT. Raises `BridgeError` for what waiting cannot mend."""
        try:
            async with self._signals(), parts.open_pools(self._settings) as pools:
                await self._serve(pools)
        except BaseExceptionGroup as group:
            raise _only_error(group) from None

    def stop(self) -> None:
        self._stopping.set()

    def reload(self) -> None:
        """Read again what may change while clients are connected."""
        if self._certificate:
            self._certificate.reload()
        self._revising.set()

    async def _serve(self, pools: Pools) -> None:
        settings = self._settings
        capture = parts.capture(settings, pools, lambda: broker)
        catalog = parts.catalog_reader(settings, pools.catalog)
        broker = parts.broker(settings, capture, catalog, pools)
        maintenance = parts.maintenance(settings, pools.catalog)
        requests = parts.request_policy(settings, broker, capture, pools, catalog)
        authenticator = parts.authenticator(settings, broker, self._keys)
        server = WebSocketServer(broker, requests, authenticator, parts.server_options(settings), self._certificate)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in self._side_by_side(broker, maintenance)]
            running.append(tasks.create_task(authenticator.keep_fresh()))
            running.append(tasks.create_task(self._keep_revised(broker, authenticator)))
            async with server.run() as url:
                self._on_listening(url)
                await self._stopping.wait()
                log.info("shutting down")
                self._on_stopping()
                for task in running:
                    task.cancel()
                with suppress(TimeoutError):
                    async with asyncio.timeout(settings.shutdown_timeout_s):
                        await server.say_goodbye()
                server.abort()

    async def _keep_revised(self, broker: Broker, authenticator: Authenticator) -> None:
        """Whenever something may have changed, one time after the other."""
        while True:
            check_still_wanted()
            await self._revising.wait()
            self._revising.clear()
            if revision := self._revision():
                authenticator.take(revision.static_tokens)
                await broker.adopt_rules(RuleSet(tuple(revision.rules)))
                log.info("the rules and tokens of the configuration hold as it says now", extra=_counts(revision))

    def _revision(self) -> Settings | None:
        if self._revise is None:
            return None
        try:
            return self._revise()
        except UsageError as error:
            log.error("the configuration stays as it was", extra=facts(reason=str(error)))
            return None

    def _side_by_side(self, broker: Broker, maintenance: LogMaintenance) -> list[Coroutine[Any, Any, None]]:
        return [
            broker.listen(),
            broker.serve_questions(),
            broker.watch_catalog(CATALOG_INTERVAL_S),
            broker.serve_reads(),
            maintenance.run(MAINTENANCE_INTERVAL_S),
        ]

    @asynccontextmanager
    async def _signals(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        answers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.reload}
        for name, answer in answers.items():
            loop.add_signal_handler(name, answer)
        try:
            yield
        finally:
            for name in answers:
                loop.remove_signal_handler(name)


def _counts(revision: Settings) -> dict[str, Mapping[str, object]]:
    return facts(rules=len(revision.rules), static_tokens=len(revision.static_tokens))


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The reason why a task group ended: ours if there is one, else the first."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(_only_error(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in leaves if isinstance(error, BridgeError)), leaves[0])
