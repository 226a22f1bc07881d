"""The composition root: builds the parts from the settings, runs them side by side, and takes them down in order.

Settings stop here: each part gets the values that it needs.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

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
from cdc_bridge.engine.evaluation import SLOW_WORKERS
from cdc_bridge.engine.request_handler import ITEMS_MAX, KEYS_MAX
from cdc_bridge.engine.scheduler import DATA_WORKERS, WORKERS, Kind
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import BridgeError, UsageError
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.server.http import RequestPolicy
from cdc_bridge.server.limits import ConnectionLimits, is_loopback
from cdc_bridge.server.websocket_server import Certificate, ServerOptions, WebSocketServer
from cdc_bridge.settings import Settings
from cdc_bridge.wanted import check_still_wanted

log = logging.getLogger(__name__)

CATALOG_INTERVAL_S = 2.0
"""How long a change of tables can go unnoticed that no row change tells of."""

MAINTENANCE_INTERVAL_S = 5.0
"""How often the log is looked at, and pruned if that cannot wait."""

CATALOG_CONNECTIONS = 1
"""Shared with the maintenance of the log, which waits a second at most where a part of the log is locked."""

CLIENTS_CONNECTIONS = 2
"""Connections for questions about clients' queries, and for replays."""

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
        pools.open(settings.snapshot_concurrency + DATA_WORKERS + ITEMS_MAX + KEYS_MAX) as data,
        pools.open(WORKERS[Kind.REPLAY] + KEYS_MAX, kept=0) as log,
        pools.open(1 + SLOW_WORKERS) as evaluator,
        pools.open(CLIENTS_CONNECTIONS) as clients,
    ):
        yield Pools(pools, connector, catalog, data, log, evaluator, clients)


def _build_capture(settings: Settings, pools: Pools, broker: Callable[[], Broker]) -> ChangeStream:
    """`broker` comes later: it needs a capture to begin with."""
    return ChangeStream(
        StreamOptions(
            conninfo=settings.conninfo,
            schema=settings.schema_name,
            heartbeat_interval_s=settings.heartbeat_interval_s,
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
            reconnect_delay_max_s=settings.reconnect_delay_max_s,
            poll_interval_s=settings.poll_interval_s,
        ),
        lambda relation_id: broker().hub.catalog.siblings(relation_id),  # noqa: PLW0108 - the catalog changes
        lambda relation_ids: broker().is_congested(relation_ids),
        connector=pools.connector,
        on_silence=pools.all.drop,
    )


def _build_catalog_reader(settings: Settings, pool: Pool) -> PooledCatalogReader:
    return PooledCatalogReader(
        pool,
        settings.conninfo,
        settings.schema_name,
        settings.collections,
        settings.relations,
        roles=tuple({*settings.roles, settings.anon_role} - {""}),
    )


def _build_broker(settings: Settings, capture: ChangeStream, catalog: PooledCatalogReader, pools: Pools) -> Broker:
    return Broker(
        capture,
        SnapshotReader(pools.data, settings.schema_name),
        catalog,
        PooledLogReader(pools.log, settings.schema_name),
        _row_evaluator(settings, pools.evaluator),
        clients_evaluator=_row_evaluator(settings, pools.clients),
        rows_workers=settings.snapshot_concurrency,
        limits=_query_limits(settings),
        subscriptions_max=settings.subscriptions_max,
        held_bytes_max=settings.held_bytes_max,
        rules=RuleSet(tuple(settings.rules)),
    )


def _row_evaluator(settings: Settings, pool: Pool) -> PooledRowEvaluator:
    return PooledRowEvaluator(
        pool, statement_timeout_s=settings.evaluation_timeout_s, rest_s=settings.evaluation_rest_s
    )


def _build_maintenance(settings: Settings, pool: Pool) -> LogMaintenance:
    return LogMaintenance(
        pool,
        settings.conninfo,
        settings.schema_name,
        retention_age_s=settings.retention_age_s,
        retention_bytes=settings.retention_bytes,
        notify=settings.notify,
    )


def _query_limits(settings: Settings) -> QueryLimits:
    return QueryLimits(
        settings.limit_default,
        settings.limit_max,
        settings.filter_depth_max,
        settings.filter_nodes_max,
        settings.in_values_max,
    )


def _build_authenticator(settings: Settings, broker: Broker, keys: Sequence[Key]) -> Authenticator:
    roles = Roles(
        database=frozenset(settings.roles),
        anonymous=settings.anon_role,
        is_ruled=broker.is_ruled,
        public=settings.insecure_public,
    )
    return Authenticator(
        roles,
        Verifier(settings.jwt_audience, settings.jwt_issuer, settings.jwt_leeway_s),
        keys,
        PublishedKeys(settings.jwt_jwks_url) if settings.jwt_jwks_url else None,
        settings.static_tokens,
    )


def _server_options(settings: Settings) -> ServerOptions:
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        frame_bytes_max=settings.frame_bytes_max,
        backlog_bytes_max=settings.backlog_bytes_max,
        messages_per_second_max=settings.messages_per_second_max,
        ping_interval_s=settings.ping_interval_s,
        compression=settings.compression,
        auth_mode=settings.mode,
        auth_timeout_s=settings.auth_timeout_s,
    )


def _build_request_policy(
    settings: Settings, broker: Broker, capture: ChangeStream, pools: Pools, catalog: PooledCatalogReader
) -> RequestPolicy:

    def not_ready() -> str | None:
        reasons = list(catalog.problems)
        if pools.all.problems:
            reasons.insert(0, "no connection to read with")
        if not broker.listening:
            reasons.insert(0, "not listening to the database")
        elif time.monotonic() - capture.last_proven_s > settings.heartbeat_timeout_s:
            reasons.insert(0, f"no heartbeat for {settings.heartbeat_timeout_s:g} s")
        return "; ".join(reasons) or None

    return RequestPolicy(
        ConnectionLimits(
            settings.connections_max,
            settings.connections_per_address_max,
            handshakes_max=settings.handshakes_max,
            behind_proxy=settings.behind_proxy,
        ),
        allowed_origins=tuple(settings.allowed_origins),
        not_ready=not_ready,
        subscriptions=lambda: len(broker.hub),
        loopback_only=is_loopback(settings.host),
    )


def _keys_at_hand(settings: Settings) -> tuple[Key, ...]:
    """Return the keys of the settings, without those that an issuer publishes. Raises `SettingsError`."""
    found = []
    if secret := settings.jwt_secret.get_secret_value():
        found.append(shared(secret))
    if settings.jwt_public_key:
        found.append(public(settings.jwt_public_key))
    return tuple(found)


def _build_certificate(settings: Settings) -> Certificate | None:
    """Raises `SettingsError`."""
    return Certificate(settings.tls_certificate, settings.tls_key) if settings.tls_certificate else None


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
        self._keys = _keys_at_hand(settings)
        self._certificate = _build_certificate(settings)

    async def run(self) -> None:
        """Serve until `stop`, SIGTERM or SIGINT. Raises `BridgeError` for what waiting cannot mend."""
        try:
            async with self._signals(), _open_pools(self._settings) as pools:
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
        capture = _build_capture(settings, pools, lambda: broker)
        catalog = _build_catalog_reader(settings, pools.catalog)
        broker = _build_broker(settings, capture, catalog, pools)
        maintenance = _build_maintenance(settings, pools.catalog)
        requests = _build_request_policy(settings, broker, capture, pools, catalog)
        authenticator = _build_authenticator(settings, broker, self._keys)
        server = WebSocketServer(broker, requests, authenticator, _server_options(settings), self._certificate)
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
