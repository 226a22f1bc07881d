"""The composition root: builds the parts, runs them side by side, and takes them down in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from psycopg_pool import AsyncConnectionPool

from cdc_bridge.auth import keys
from cdc_bridge.auth.authenticator import Authenticator
from cdc_bridge.auth.published_keys import PublishedKeys
from cdc_bridge.auth.roles import Roles
from cdc_bridge.auth.static_tokens import StaticToken
from cdc_bridge.auth.tokens import Verifier
from cdc_bridge.broker.broker import Broker
from cdc_bridge.broker.desk import ASKING_MAX
from cdc_bridge.capture.connection import KEEPALIVES
from cdc_bridge.capture.log import LogCapture, LogOptions
from cdc_bridge.capture.log_reader import PooledLogReader
from cdc_bridge.conninfo import READ
from cdc_bridge.errors import BridgeError, UsageError
from cdc_bridge.hub.hub import Hub
from cdc_bridge.logs import facts
from cdc_bridge.queries.query import QueryLimits
from cdc_bridge.reading.arbiter import PooledArbiter
from cdc_bridge.reading.snapshot import Pool, SnapshotReader
from cdc_bridge.rights.rules import Rule, RuleBook
from cdc_bridge.schema.catalog_reader import PooledCatalogReader
from cdc_bridge.schema.custodian import LogCustodian
from cdc_bridge.schema.pruner import LogPruner
from cdc_bridge.schema.session import prepare
from cdc_bridge.standing import AuthMode
from cdc_bridge.transport.http import Door, is_loopback
from cdc_bridge.transport.tls import Certificate
from cdc_bridge.transport.websocket import WebSocketOptions, WebSocketServer

log = logging.getLogger(__name__)

CATALOG_CONNECTIONS = 2
CLIENTS_CONNECTIONS = 2
"""For what has to be asked to read a client's query, and to tell who comes back what was missed."""

CATALOG_INTERVAL_S = 2.0
"""How long a change of tables can go unnoticed that no row change tells of."""

CUSTODY_INTERVAL_S = 5.0
"""How often the log is pruned and looked at."""

REFRESHERS = 1
"""Readings of what has changed elsewhere that are done at the same time."""

RESUMES_MAX = 4
"""Clients that are told at the same time what they have missed."""


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """Everything that can be chosen, under the names of the settings."""

    dsn: str = ""
    schema: str = "cdc"
    collections: Mapping[str, str] = field(default_factory=dict)
    relations: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8765
    allowed_origins: tuple[str, ...] = ()
    auth_mode: str = ""
    auth_timeout_s: float = 10
    jwt_secret: str = field(default="", repr=False)
    jwt_public_key: str = ""
    jwt_jwks_url: str = ""
    jwt_audience: str = ""
    jwt_issuer: str = ""
    jwt_leeway_s: float = 5
    anon_role: str = ""
    roles: Sequence[str] = ()
    static_tokens: Sequence[StaticToken] = ()
    insecure_public: bool = False
    compression: bool = False
    frame_bytes_max: int = 1024 * 1024
    subscriptions_max: int = 100
    limit_default: int = 100
    limit_max: int = 10_000
    filter_depth_max: int = 10
    filter_nodes_max: int = 100
    in_values_max: int = 10_000
    backlog_bytes_max: int = 16 * 1024 * 1024
    ping_interval_s: float = 30
    connections_max: int = 10_000
    connections_per_address_max: int = 0
    handshakes_max: int = 1000
    tls_certificate: str = ""
    tls_key: str = ""
    behind_proxy: bool = False
    messages_per_second_max: float = 0
    heartbeat_interval_s: float = 2
    heartbeat_timeout_s: float = 6
    reconnect_delay_max_s: float = 10
    connect_timeout_s: float = 5
    held_bytes_max: int = 64 * 1024 * 1024
    snapshot_concurrency: int = 4
    shutdown_timeout_s: float = 3
    rules: Sequence[Rule] = ()
    notify: str = ""
    poll_interval_s: float = 0.05
    retention_age_s: float = 86_400
    retention_bytes: int = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Revision:
    """What can be chosen anew while the bridge runs, under the names of the settings."""

    rules: Sequence[Rule] = ()
    static_tokens: Sequence[StaticToken] = ()


@dataclass(frozen=True, slots=True)
class _Pools:
    """The connections that read, by what for."""

    catalog: Pool
    data: Pool
    log: Pool
    arbiter: Pool
    clients: Pool


class Bridge:
    """One bridge: one database, one port."""

    def __init__(
        self,
        options: BridgeOptions,
        on_listening: Callable[[str], None] = lambda url: None,
        on_stopping: Callable[[], None] = lambda: None,
        revise: Callable[[], Revision] | None = None,
    ) -> None:
        """`revise` says what holds from now on, when it is asked; it raises `UsageError` to leave all as it is."""
        self._options = options
        self._revise = revise
        self._revising = asyncio.Event()
        self._on_listening = on_listening
        self._on_stopping = on_stopping
        self._stopping = asyncio.Event()
        self._keys = _keys(options)
        self._certificate = Certificate(options.tls_certificate, options.tls_key) if options.tls_certificate else None

    async def run(self) -> None:
        """Serve until `stop`, SIGTERM or SIGINT. Raises `BridgeError` for what waiting cannot mend."""
        try:
            # The stream waits for the catalog at times, and for the arbiter: no client's query may stand in its way.
            async with (
                self._signals(),
                self._pool(CATALOG_CONNECTIONS) as catalog_pool,
                self._pool(self._options.snapshot_concurrency + ASKING_MAX + REFRESHERS) as data_pool,
                self._pool(RESUMES_MAX + ASKING_MAX) as log_pool,
                self._pool(1) as arbiter_pool,
                self._pool(CLIENTS_CONNECTIONS) as clients_pool,
            ):
                await self._serve(_Pools(catalog_pool, data_pool, log_pool, arbiter_pool, clients_pool))
        except BaseExceptionGroup as group:
            raise _only_error(group) from None

    def stop(self) -> None:
        self._stopping.set()

    def reload(self) -> None:
        """Read again what may change while clients are connected."""
        if self._certificate:
            self._certificate.reload()
        self._revising.set()

    async def _serve(self, pools: _Pools) -> None:
        capture = self._capture(lambda: broker.hub)
        broker = self._broker(capture, pools)
        custodian = self._custodian(pools.catalog)
        door = self._door(broker, capture, custodian)
        authenticator = self._authenticator(broker)
        server = WebSocketServer(broker, door, authenticator, self._websocket_options(), self._certificate)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in self._side_by_side(broker, custodian)]
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
                    async with asyncio.timeout(self._options.shutdown_timeout_s):
                        await server.say_goodbye()
                server.abort()

    async def _keep_revised(self, broker: Broker, authenticator: Authenticator) -> None:
        """Whenever something may have changed, one time after the other."""
        while True:
            await self._revising.wait()
            self._revising.clear()
            if revision := self._revision():
                authenticator.take(revision.static_tokens)
                await broker.adopt_rules(RuleBook(tuple(revision.rules)))
                log.info("the rules and tokens of the configuration hold as it says now", extra=_counts(revision))

    def _revision(self) -> Revision | None:
        if self._revise is None:
            return None
        try:
            return self._revise()
        except UsageError as error:
            log.error("the configuration stays as it was", extra=facts(reason=str(error)))
            return None

    def _side_by_side(self, broker: Broker, custodian: LogCustodian) -> list[Coroutine[Any, Any, None]]:
        return [
            broker.listen(),
            broker.watch_catalog(CATALOG_INTERVAL_S),
            broker.serve_resumes(),
            broker.serve_stale(),
            custodian.watch(CUSTODY_INTERVAL_S),
            *(broker.serve_readings() for _ in range(self._options.snapshot_concurrency)),
        ]

    def _capture(self, hub: Callable[[], Hub]) -> LogCapture:
        """`hub` comes later: it belongs to the broker, which needs a capture to begin with."""
        options = self._options
        return LogCapture(
            LogOptions(
                conninfo=options.dsn,
                schema=options.schema,
                heartbeat_interval_s=options.heartbeat_interval_s,
                heartbeat_timeout_s=options.heartbeat_timeout_s,
                connect_timeout_s=options.connect_timeout_s,
                reconnect_delay_max_s=options.reconnect_delay_max_s,
                poll_interval_s=options.poll_interval_s,
            ),
            lambda relation_id: hub().catalog.siblings(relation_id),  # noqa: PLW0108 - the catalog changes
            lambda relation_ids: hub().is_congested(relation_ids),
        )

    def _broker(self, capture: LogCapture, pools: _Pools) -> Broker:
        options = self._options
        return Broker(
            capture,
            SnapshotReader(pools.data, options.schema),
            PooledCatalogReader(
                pools.catalog,
                options.dsn,
                options.schema,
                options.collections,
                options.relations,
                roles=tuple({*options.roles, options.anon_role} - {""}),
            ),
            PooledLogReader(pools.log, options.schema),
            PooledArbiter(pools.arbiter),
            clients_arbiter=PooledArbiter(pools.clients),
            resumes_max=RESUMES_MAX,
            limits=self._query_limits(),
            subscriptions_max=options.subscriptions_max,
            held_bytes_max=options.held_bytes_max,
            rules=RuleBook(tuple(options.rules)),
        )

    def _custodian(self, pool: Pool) -> LogCustodian:
        options = self._options
        pruner = LogPruner(
            options.dsn,
            options.schema,
            retention_age_s=options.retention_age_s,
            retention_bytes=options.retention_bytes,
        )
        return LogCustodian(pool, options.schema, pruner, notify=options.notify)

    def _query_limits(self) -> QueryLimits:
        options = self._options
        return QueryLimits(
            options.limit_default,
            options.limit_max,
            options.filter_depth_max,
            options.filter_nodes_max,
            options.in_values_max,
        )

    def _authenticator(self, broker: Broker) -> Authenticator:
        options = self._options
        roles = Roles(
            database=frozenset(options.roles),
            anonymous=options.anon_role,
            is_ruled=broker.is_ruled,
            public=options.insecure_public,
        )
        return Authenticator(
            roles,
            Verifier(options.jwt_audience, options.jwt_issuer, options.jwt_leeway_s),
            self._keys,
            PublishedKeys(options.jwt_jwks_url) if options.jwt_jwks_url else None,
            options.static_tokens,
        )

    def _websocket_options(self) -> WebSocketOptions:
        options = self._options
        return WebSocketOptions(
            host=options.host,
            port=options.port,
            frame_bytes_max=options.frame_bytes_max,
            backlog_bytes_max=options.backlog_bytes_max,
            messages_per_second_max=options.messages_per_second_max,
            ping_interval_s=options.ping_interval_s,
            compression=options.compression,
            auth_mode=auth_mode(options),
            auth_timeout_s=options.auth_timeout_s,
        )

    def _door(self, broker: Broker, capture: LogCapture, custodian: LogCustodian) -> Door:
        options = self._options

        def not_ready() -> str | None:
            reasons = list(custodian.problems)
            if not broker.listening:
                reasons.insert(0, "not listening to the database")
            elif time.monotonic() - capture.last_heard_s > options.heartbeat_timeout_s:
                reasons.insert(0, f"no heartbeat for {options.heartbeat_timeout_s:g} s")
            return "; ".join(reasons) or None

        return Door(
            connections_max=options.connections_max,
            connections_per_address_max=options.connections_per_address_max,
            allowed_origins=tuple(options.allowed_origins),
            not_ready=not_ready,
            loopback_only=is_loopback(options.host),
            handshakes_max=options.handshakes_max,
            behind_proxy=options.behind_proxy,
        )

    @asynccontextmanager
    async def _pool(self, size_max: int) -> AsyncIterator[Pool]:
        """Connections that read. They come when the database does."""
        options = self._options
        pool: Pool = AsyncConnectionPool(
            options.dsn,
            min_size=1,
            max_size=size_max,
            timeout=options.connect_timeout_s,
            reconnect_timeout=options.reconnect_delay_max_s,
            open=False,
            configure=lambda connection: prepare(connection, options.schema),
            check=AsyncConnectionPool.check_connection,
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
                "application_name": READ,
                "client_encoding": "UTF8",
                "connect_timeout": max(2, round(options.connect_timeout_s)),
                **KEEPALIVES,
            },
        )
        await pool.open(wait=False)
        try:
            yield pool
        finally:
            await pool.close(timeout=1)

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


def auth_mode(options: BridgeOptions) -> AuthMode:
    """The one that was chosen, or else what there is to prove oneself by decides."""
    if options.auth_mode:
        return AuthMode(options.auth_mode)
    proofs = options.jwt_secret or options.jwt_public_key or options.jwt_jwks_url or options.static_tokens
    return AuthMode.HANDSHAKE if proofs else AuthMode.PUBLIC


def _keys(options: BridgeOptions) -> tuple[keys.Key, ...]:
    """Those at hand. Raises `SettingsError`."""
    found = []
    if options.jwt_secret:
        found.append(keys.shared(options.jwt_secret))
    if options.jwt_public_key:
        found.append(keys.public(options.jwt_public_key))
    return tuple(found)


def _counts(revision: Revision) -> dict[str, Mapping[str, object]]:
    return facts(rules=len(revision.rules), static_tokens=len(revision.static_tokens))


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The reason why a task group ended: ours if there is one, else the first."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.append(_only_error(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in leaves if isinstance(error, BridgeError)), leaves[0])
