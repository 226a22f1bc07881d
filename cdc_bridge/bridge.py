"""The composition root: builds the parts from the settings, runs them side by side, and takes them down in order.

Settings stop here: each part gets the values that it needs.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from cdc_bridge.access.authenticator import Authenticator, Roles, Verifier
from cdc_bridge.access.keys import Key, PublishedKeys, public, shared
from cdc_bridge.access.rules import RuleSet
from cdc_bridge.admin.maintenance import LogMaintenance
from cdc_bridge.capture.capture_session import StreamOptions
from cdc_bridge.capture.change_stream import ChangeStream
from cdc_bridge.capture.connection import Connector
from cdc_bridge.capture.log_reader import PooledLogReader
from cdc_bridge.database.catalog_reader import PooledCatalogReader
from cdc_bridge.database.pools import Pool, ReadPools
from cdc_bridge.database.row_evaluator import PooledRowEvaluator
from cdc_bridge.database.snapshot import SnapshotReader
from cdc_bridge.engine.broker import Broker
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.shares import (
    CLIENTS_CONNECTIONS,
    DATA_CONNECTIONS,
    EVALUATOR_CONNECTIONS,
    LOG_CONNECTIONS,
)
from cdc_bridge.histogram import Histogram
from cdc_bridge.logs import facts
from cdc_bridge.metrics.canary import Canary
from cdc_bridge.metrics.collector import Collector, exposition
from cdc_bridge.metrics.spans import open_tracing
from cdc_bridge.metrics.tracing import Tracing
from cdc_bridge.model.errors import BridgeError, CannotServe, UsageError
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.readiness import Readiness
from cdc_bridge.server.http import RequestPolicy
from cdc_bridge.server.limits import ConnectionLimits, is_loopback
from cdc_bridge.server.listener import Certificate
from cdc_bridge.server.pages import pages
from cdc_bridge.server.websocket_server import ServerOptions, WebSocketServer
from cdc_bridge.settings import Settings
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

CATALOG_INTERVAL_S = 2.0
"""How long a change of tables can go unnoticed that no row change tells of."""

MAINTENANCE_INTERVAL_S = 5.0
"""How often the log is looked at, and pruned if that cannot wait."""

METRICS_HANDSHAKES_MAX = 100
"""Connections at one time to the port for metrics."""

CATALOG_CONNECTIONS = 1
"""Shared with the maintenance of the log, which waits a second at most where a part of the log is locked."""

PREPARED_AFTER = 5
"""The catalog is asked the same few things for ever: planning them each time would cost more than the answers."""


@dataclass(frozen=True, slots=True)
class Pools:
    """The connections that read, by what for.

    Changes can wait for the catalog and for the evaluator: no client's query may stand in their way.
    """

    all: ReadPools
    connector: Connector
    catalog: Pool
    data: Pool
    log: Pool
    evaluator: Pool
    clients: Pool


@asynccontextmanager
async def _open_pools(settings: Settings) -> AsyncIterator[Pools]:
    """Four connections while idle; with the two of the change stream that makes six, as `docs/limits.md` says."""
    connector = Connector(settings.conninfo, settings.connect_timeout_s)
    pools = ReadPools(
        settings.conninfo,
        settings.schema_name,
        connector,
        connect_timeout_s=settings.connect_timeout_s,
        reconnect_delay_max_s=settings.reconnect_delay_max_s,
    )
    async with (
        pools.open(CATALOG_CONNECTIONS, prepare_threshold=PREPARED_AFTER) as catalog,
        pools.open(settings.snapshot_concurrency + DATA_CONNECTIONS) as data,
        pools.open(LOG_CONNECTIONS, kept=0) as log,
        pools.open(EVALUATOR_CONNECTIONS) as evaluator,
        pools.open(CLIENTS_CONNECTIONS) as clients,
    ):
        yield Pools(pools, connector, catalog, data, log, evaluator, clients)


T = TypeVar("T")


def _from_settings(kind: type[T], settings: Settings, **others: Any) -> T:
    """Make an object of a dataclass: its members have the values of the settings of these names, or `others`."""
    assert is_dataclass(kind)
    members = {each.name for each in fields(kind)} & Settings.model_fields.keys()
    return kind(**{name: getattr(settings, name) for name in members} | others)


def _build_broker(
    settings: Settings, pools: Pools, policies: dict[tuple[str, str], Histogram], tracing: Tracing | None
) -> tuple[Broker, ChangeStream, PooledCatalogReader]:
    def evaluator(pool: Pool) -> PooledRowEvaluator:
        timeout_s, rest_s = settings.evaluation_timeout_s, settings.evaluation_rest_s
        return PooledRowEvaluator(pool, statement_timeout_s=timeout_s, rest_s=rest_s, took=policies)

    schema = settings.schema_name
    capture = ChangeStream(
        _from_settings(StreamOptions, settings, conninfo=settings.conninfo, schema=schema),
        lambda relation_id: broker.hub.catalog.siblings(relation_id),  # noqa: PLW0108 - the catalog changes
        lambda relation_ids: broker.dispatcher.is_congested(relation_ids),  # noqa: PLW0108 - made below
        connector=pools.connector,
        on_silence=pools.all.drop,
    )
    catalog = PooledCatalogReader(
        pools.catalog,
        settings.conninfo,
        schema,
        settings.collections,
        settings.relations,
        roles=tuple({*settings.roles, settings.anon_role} - {""}),
    )
    broker = Broker(
        capture if tracing is None else tracing.capture(capture),
        SnapshotReader(pools.data, schema),
        catalog,
        PooledLogReader(pools.log, schema),
        evaluator(pools.evaluator),
        clients_evaluator=evaluator(pools.clients),
        rows_workers=settings.snapshot_concurrency,
        limits=_from_settings(QueryLimits, settings),
        subscriptions_max=settings.subscriptions_max,
        held_bytes_max=settings.held_bytes_max,
        rules=RuleSet(tuple(settings.rules)),
        make_publisher=Publisher if tracing is None else tracing.publisher,
    )
    return broker, capture, catalog


def _build_request_policy(settings: Settings, readiness: Readiness) -> RequestPolicy:
    is_local = is_loopback(settings.host)
    shows_inspector = settings.inspector == "on" or (is_local and not settings.inspector)
    return RequestPolicy(
        _from_settings(ConnectionLimits, settings),
        allowed_origins=tuple(settings.allowed_origins),
        reasons=readiness.reasons,
        details=readiness.details,
        inner_details=readiness.inner_details,
        loopback_only=is_local,
        pages=pages() if shows_inspector else {},
    )


@asynccontextmanager
async def _serve_metrics(settings: Settings, server: WebSocketServer) -> AsyncIterator[None]:
    """Show metrics on a port of their own if there is one."""
    if not settings.metrics_port:
        yield
        return
    policy = replace(
        server.request_policy,
        limits=ConnectionLimits(0, 0, METRICS_HANDSHAKES_MAX),
        metrics_only=True,
        pages={},
        reasons=server.request_policy.not_ready,
        loopback_only=is_loopback(settings.metrics_host),
    )
    options = replace(server.options, host=settings.metrics_host, port=settings.metrics_port)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(WebSocketServer(server.engine, policy, server.authenticator, options).run())
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotServe(settings.metrics_host, settings.metrics_port, reason) from error
        yield


def _keys_at_hand(settings: Settings) -> list[Key]:
    """Return the keys of the settings, without those that an issuer publishes. Raises `SettingsError`."""
    secret, public_key = settings.jwt_secret.get_secret_value(), settings.jwt_public_key
    return [*([shared(secret)] if secret else []), *([public(public_key)] if public_key else [])]


@dataclass(eq=False)
class Bridge:
    """One bridge: one database, one port."""

    settings: Settings
    on_listening: Callable[[str], None] = lambda url: None
    on_stopping: Callable[[float], object] = lambda limit_s: None
    """Is told after how many seconds the clients are gone: when it begins to end, and when that is to be at once."""
    revise: Callable[[], Settings] | None = None
    """Return the settings that hold from now on. Raise `UsageError` to leave all as it is."""

    def __post_init__(self) -> None:
        self._revising = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._keys = _keys_at_hand(self.settings)
        certificate, key = self.settings.tls_certificate, self.settings.tls_key
        self._certificate = Certificate(certificate, key) if certificate else None

    async def run(self) -> None:
        """Serve until `stop`, SIGTERM or SIGINT. Raises `BridgeError` for what waiting cannot mend."""
        try:
            async with (
                self._signals(),
                open_tracing(self.settings.trace_ratio) as tracing,
                _open_pools(self.settings) as pools,
            ):
                await self._serve(pools, tracing)
        except BaseExceptionGroup as group:
            raise _only_error(group) from None

    def stop(self) -> None:
        """Drain, then end. When called again, end at once."""
        if self._stopping.is_set() and not self._hurrying.is_set():
            self._hurrying.set()
            self.on_stopping(0)
        self._stopping.set()

    def reload(self) -> None:
        """Read again what may change while clients are connected."""
        if self._certificate:
            self._certificate.reload()
        self._revising.set()

    async def _serve(self, pools: Pools, tracing: Tracing | None) -> None:
        settings = self.settings
        policies: dict[tuple[str, str], Histogram] = {}
        broker, capture, catalog = _build_broker(settings, pools, policies, tracing)
        database = {"conninfo": settings.conninfo, "schema": settings.schema_name}
        maintenance = _from_settings(LogMaintenance, settings, pool=pools.catalog, **database)
        authenticator = Authenticator(
            Roles(frozenset(settings.roles), settings.anon_role, broker.is_ruled, settings.insecure_public),
            Verifier(settings.jwt_audience, settings.jwt_issuer, settings.jwt_leeway_s),
            self._keys,
            PublishedKeys(settings.jwt_jwks_url) if settings.jwt_jwks_url else None,
            settings.static_tokens,
        )
        readiness = Readiness(broker, capture, pools.all, catalog, maintenance, settings.heartbeat_timeout_s)
        request_policy = _build_request_policy(settings, readiness)
        options = _from_settings(ServerOptions, settings, auth_mode=settings.mode)
        server = WebSocketServer(broker.requests, request_policy, authenticator, options, self._certificate)
        canary = Canary(broker, settings.conninfo, settings.canary_collection, settings.canary_interval_s)
        request_policy.metrics = exposition(
            Collector(broker, capture, server, maintenance, authenticator, request_policy.not_ready, policies, canary)
        )
        async with asyncio.TaskGroup() as tasks:
            side_by_side = (
                broker.run(CATALOG_INTERVAL_S),
                maintenance.run(MAINTENANCE_INTERVAL_S),
                authenticator.keep_fresh(),
                self._keep_revised(broker, authenticator),
                canary.run(),
            )
            running = [tasks.create_task(work) for work in side_by_side]
            async with _serve_metrics(settings, server), server.run() as url:
                self.on_listening(url)
                await self._stopping.wait()
                await self._drain(server)
                for task in running:
                    task.cancel()

    async def _drain(self, server: WebSocketServer) -> None:
        """Serve until the clients have been asked to come again, time is over, or `stop` is called again."""
        limit_s = self.settings.drain_s + self.settings.shutdown_timeout_s
        log.info("shutting down", extra=facts(connections=server.limits.admitted_count, limit_s=limit_s))
        self.on_stopping(limit_s)
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(server.drain())
            hurrying = tasks.create_task(self._hurrying.wait())
            await asyncio.wait((draining, hurrying), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            hurrying.cancel()
        server.abort()

    async def _keep_revised(self, broker: Broker, authenticator: Authenticator) -> None:
        """Read rules and tokens again at each `reload`, one time after the other. What is invalid changes nothing."""
        while True:
            check_still_wanted()
            await self._revising.wait()
            self._revising.clear()
            try:
                revision = self.revise() if self.revise else self.settings
            except UsageError as error:
                log.error("the configuration stays as it was", extra=facts(reason=str(error)))
                continue
            authenticator.take(revision.static_tokens)
            await broker.adopt_rules(RuleSet(tuple(revision.rules)))
            counts = facts(rules=len(revision.rules), static_tokens=len(revision.static_tokens))
            log.info("the rules and tokens of the configuration hold as it says now", extra=counts)

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


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The reason why a task group ended: ours if there is one, else the first."""
    ours, _ = group.split(BridgeError)
    error: BaseException = ours or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
