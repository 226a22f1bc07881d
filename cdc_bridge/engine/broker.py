"""Connects the change stream and the clients' requests with the hub and its publisher.

Four things run side by side, all on one event loop: `listen` takes the change stream (`dispatcher.py`), workers in
`serve_questions` have the database decide what memory cannot (`evaluation.py`), those in `serve_reads` read what
subscribers wait for (`scheduler.py`), and connections call `subscribe`, `unsubscribe` and `read_items`
(`request_handler.py`). None of them holds a lock, since hub and publisher change between two awaits only. Reads for
subscribers go through the scheduler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.access.rules import NO_RULES, RuleSet
from cdc_bridge.capture import Capture
from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.dispatcher import Dispatcher
from cdc_bridge.engine.evaluation import EvaluationWorkers
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.query_parser import QueryParser
from cdc_bridge.engine.reads import Sources
from cdc_bridge.engine.request_handler import RequestHandler
from cdc_bridge.engine.scheduler import WORKERS, Kind, ReadScheduler, ReadWorkers
from cdc_bridge.engine.subscriber import Outlet, Subscriber
from cdc_bridge.model.messages import ReadItems, Subscribe
from cdc_bridge.model.security_context import SELF, Principal
from cdc_bridge.ports import CatalogReader, InitialData, LogReader, Reader, RowEvaluator
from cdc_bridge.query.forms import QueryLimits


class Broker:
    """See the module's docstring."""

    def __init__(
        self,
        capture: Capture,
        reader: Reader,
        catalog_reader: CatalogReader,
        log_reader: LogReader | None = None,
        evaluator: RowEvaluator | None = None,
        *,
        clients_evaluator: RowEvaluator | None = None,
        limits: QueryLimits,
        subscriptions_max: int,
        held_bytes_max: int,
        retry_delay_s: float = 0.5,
        rows_workers: int = 4,
        replay_workers: int = WORKERS[Kind.REPLAY],
        rules: RuleSet = NO_RULES,
    ) -> None:
        """`clients_evaluator` answers questions of single clients, so that the stream need not wait behind them."""
        clients_evaluator = clients_evaluator or evaluator
        self.hub = hub = Hub(held_bytes_max)
        self._publisher = publisher = Publisher(hub.collections, hub.subscribers)
        self._scheduler = scheduler = ReadScheduler(hub, publisher, can_replay=log_reader is not None)
        self._access = access = AccessPolicy(rules)
        parser = QueryParser(clients_evaluator, limits, access, urgent=evaluator)
        self._catalog = catalog = CatalogWatch(
            catalog_reader, hub, scheduler.order, parser, retry_delay_s=retry_delay_s
        )
        self._dispatcher = Dispatcher(capture, reader, hub, publisher, scheduler=scheduler, catalog=catalog)
        self._evaluation = EvaluationWorkers(self._dispatcher, evaluator)
        sources = Sources(hub, publisher, reader, log_reader, catalog, clients_evaluator)
        workers = {**WORKERS, Kind.ROWS: rows_workers, Kind.REPLAY: replay_workers}
        self._read_workers = ReadWorkers(scheduler, sources, workers=workers, retry_delay_s=retry_delay_s)
        self._requests = RequestHandler(
            reader,
            log_reader,
            hub,
            scheduler,
            catalog,
            parser=parser,
            subscriptions_max=subscriptions_max,
            retry_delay_s=retry_delay_s,
        )

    @property
    def listening(self) -> bool:
        return self._scheduler.listening.is_set()

    @property
    def is_settled(self) -> bool:
        """Whether everything that came has been sent, and nothing has to be asked or read for it."""
        return self.hub.is_settled and not self._publisher.has_stale and not self._dispatcher.is_waiting

    # --- what runs side by side, for ever ---

    def listen(self) -> Coroutine[Any, Any, None]:
        """Take the change stream. Raises what the capture raises."""
        return self._dispatcher.listen()

    def is_congested(self, relation_ids: Iterable[int]) -> bool:
        """Whether large transactions of these tables should be read later."""
        return self._dispatcher.is_congested(relation_ids)

    async def serve_questions(self) -> None:
        """Have the database decide what memory cannot, and read the catalog when a change calls for it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._evaluation.serve())
            tasks.create_task(self._dispatcher.serve_drift())

    async def watch_catalog(self, interval_s: float) -> None:
        """Look for changed tables, which may have no row changes that show it."""
        await self._catalog.watch(interval_s)

    async def serve_reads(self) -> None:
        """Read what subscribers wait for: initial data, what they missed, what has become stale."""
        await self._read_workers.serve()

    # --- what the transports call ---

    async def subscribe(self, outlet: Outlet, request: Subscribe, principal: Principal = SELF) -> Subscriber:
        """Begin a subscription; its `init` follows by way of the outlet. Raises `RequestError`."""
        return await self._requests.subscribe(outlet, request, principal)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._scheduler.leave(subscriber)

    def suspend(self, outlet: Outlet) -> None:
        """Send a client no events, not even those that wait, until `see_as` gives it a principal."""
        for subscriber in outlet.subscribers():
            self._scheduler.suspend(subscriber)

    async def see_as(self, outlet: Outlet, principal: Principal) -> None:
        """Let a client's subscriptions go on for this principal: with fresh data, or the error that they would get.
        Those that see as before go on as they are.
        """
        await self._requests.see_as(outlet, principal)

    async def read_items(self, request: ReadItems, principal: Principal = SELF) -> InitialData:
        """Return the data of an `items` reply. Raises `RequestError`."""
        return await self._requests.read_items(request, principal)

    async def adopt_rules(self, rules: RuleSet) -> None:
        """Apply other rules from now on, to existing subscriptions as well."""
        if rules != self._access.rules:
            await self._catalog.adopt_rules(rules)

    def is_ruled(self, role: str) -> bool:
        """Whether a rule names this role."""
        return self._access.rules.names(role)
