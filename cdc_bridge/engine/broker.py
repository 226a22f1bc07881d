"""Connects the change stream and the clients' requests with the hub and its publisher.

`run` does four things side by side, all on one event loop: it takes the change stream (`dispatcher.py`), has the
database decide what memory cannot (`evaluation.py`), reads what subscribers wait for (`scheduler.py`), and looks for
another catalog (`catalog_watch.py`). Meanwhile connections call `requests` (`request_handler.py`). None of them holds a
lock, since hub and publisher change between two awaits only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.access.rules import NO_RULES, RuleSet
from cdc_bridge.capture import Capture
from cdc_bridge.engine.catalog_watch import CatalogWatch
from cdc_bridge.engine.collection_registry import CollectionRegistry
from cdc_bridge.engine.dispatcher import Dispatcher
from cdc_bridge.engine.evaluation import EvaluationWorkers
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.query_parser import QueryParser
from cdc_bridge.engine.reads import Sources
from cdc_bridge.engine.registry import SubscriberRegistry
from cdc_bridge.engine.request_handler import RequestHandler
from cdc_bridge.engine.scheduler import Cause, ReadScheduler, ReadWorkers
from cdc_bridge.engine.shares import WORKERS, Kind
from cdc_bridge.ports import CatalogReader, LogReader, Reader, RowEvaluator
from cdc_bridge.query.forms import QueryLimits


class Broker:
    """See the module's docstring."""

    def __init__(
        self,
        capture: Capture,
        reader: Reader,
        catalog_reader: CatalogReader,
        log_reader: LogReader,
        evaluator: RowEvaluator,
        *,
        clients_evaluator: RowEvaluator,
        limits: QueryLimits,
        subscriptions_max: int,
        held_bytes_max: int,
        retry_delay_s: float = 0.5,
        rows_workers: int = 4,
        replay_workers: int = WORKERS[Kind.REPLAY],
        rules: RuleSet = NO_RULES,
        make_publisher: Callable[[CollectionRegistry, SubscriberRegistry], Publisher] = Publisher,
    ) -> None:
        """`clients_evaluator` answers questions of single clients, so that the stream need not wait behind them."""
        self.hub = hub = Hub(held_bytes_max)
        self.publisher = publisher = make_publisher(hub.collections, hub.subscribers)
        self.scheduler = scheduler = ReadScheduler(hub, publisher)
        self._access = access = AccessPolicy(rules)
        parser = QueryParser(clients_evaluator, limits, access, urgent=evaluator)
        self.catalog = catalog = CatalogWatch(
            catalog_reader, hub, partial(scheduler.order, cause=Cause.CATALOG), parser, retry_delay_s=retry_delay_s
        )
        self.dispatcher = Dispatcher(capture, reader, hub, publisher, scheduler=scheduler, catalog=catalog)
        self.evaluation = EvaluationWorkers(self.dispatcher, evaluator)
        order = partial(scheduler.order, cause=Cause.REPLAY)
        sources = Sources(hub, publisher, reader, log_reader, catalog, clients_evaluator, order)
        workers = {**WORKERS, Kind.ROWS: rows_workers, Kind.REPLAY: replay_workers}
        self.read_workers = ReadWorkers(scheduler, sources, workers=workers, retry_delay_s=retry_delay_s)
        self.requests = RequestHandler(
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
        return self.scheduler.listening.is_set()

    @property
    def is_settled(self) -> bool:
        """Whether everything that came has been sent, and nothing has to be asked or read for it."""
        return self.hub.is_settled and not self.publisher.has_stale and not self.dispatcher.is_waiting

    async def run(self, catalog_interval_s: float) -> None:
        """Serve for ever. Raises, in a group, what the capture raises."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.dispatcher.listen())
            tasks.create_task(self.dispatcher.serve_drift())
            tasks.create_task(self.evaluation.serve())
            tasks.create_task(self.read_workers.serve())
            tasks.create_task(self.catalog.watch(catalog_interval_s))

    async def adopt_rules(self, rules: RuleSet) -> None:
        """Apply other rules from now on, to existing subscriptions as well."""
        if rules != self._access.rules:
            await self.catalog.adopt_rules(rules)

    def is_ruled(self, role: str) -> bool:
        """Whether a rule names this role."""
        return self._access.rules.names(role)
