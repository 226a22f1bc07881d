"""The parts of a bridge, made of what was chosen. That stops here: each part gets the values that it needs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cdc_bridge.access.authenticator import Authenticator, Roles
from cdc_bridge.access.keys import Key, public, shared
from cdc_bridge.access.published_keys import PublishedKeys
from cdc_bridge.access.rules import RuleSet
from cdc_bridge.access.tokens import Verifier
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
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.read_workers import DATA_WORKERS, WORKERS
from cdc_bridge.engine.request_handler import LOOK_UPS_MAX
from cdc_bridge.engine.scheduler import Kind
from cdc_bridge.options import BridgeOptions
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.server.http import RequestPolicy
from cdc_bridge.server.limits import ConnectionLimits, is_loopback
from cdc_bridge.server.server import ServerOptions
from cdc_bridge.server.tls import Certificate

CATALOG_CONNECTIONS = 2
CLIENTS_CONNECTIONS = 2
"""For what has to be asked to read a client's query, and to tell who comes back what was missed."""

PREPARED_AFTER = 5
"""The catalog is asked the same few things for ever: planning them each time would cost more than the answers."""


@dataclass(frozen=True, slots=True)
class Pools:
    """The connections that read, by what for.

    The stream waits for the catalog at times, and for the evaluator: no client's query may stand in its way.
    """

    all: ReadPools
    connector: Connector
    catalog: Pool
    data: Pool
    log: Pool
    evaluator: Pool
    clients: Pool


@asynccontextmanager
async def open_pools(options: BridgeOptions) -> AsyncIterator[Pools]:
    """Four connections while idle; with the two of the change stream that makes six, as `docs/limits.md` says."""
    connector = Connector(options.dsn, options.connect_timeout_s)
    pools = ReadPools(
        options.dsn,
        options.schema,
        connector,
        connect_timeout_s=options.connect_timeout_s,
        reconnect_delay_max_s=options.reconnect_delay_max_s,
    )
    async with (
        pools.open(CATALOG_CONNECTIONS, prepare_threshold=PREPARED_AFTER) as catalog,
        pools.open(options.snapshot_concurrency + DATA_WORKERS + LOOK_UPS_MAX) as data,
        pools.open(WORKERS[Kind.REPLAY] + LOOK_UPS_MAX, kept=0) as log,
        pools.open(1) as evaluator,
        pools.open(CLIENTS_CONNECTIONS) as clients,
    ):
        yield Pools(pools, connector, catalog, data, log, evaluator, clients)


def capture(options: BridgeOptions, pools: Pools, hub: Callable[[], Hub]) -> ChangeStream:
    """`hub` comes later: it belongs to the broker, which needs a capture to begin with."""
    return ChangeStream(
        StreamOptions(
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
        connector=pools.connector,
        on_silence=pools.all.drop,
    )


def catalog_reader(options: BridgeOptions, pool: Pool) -> PooledCatalogReader:
    return PooledCatalogReader(
        pool,
        options.dsn,
        options.schema,
        options.collections,
        options.relations,
        roles=tuple({*options.roles, options.anon_role} - {""}),
    )


def broker(options: BridgeOptions, capture: ChangeStream, catalog: PooledCatalogReader, pools: Pools) -> Broker:
    return Broker(
        capture,
        SnapshotReader(pools.data, options.schema),
        catalog,
        PooledLogReader(pools.log, options.schema),
        _row_evaluator(options, pools.evaluator),
        clients_evaluator=_row_evaluator(options, pools.clients),
        rows_workers=options.snapshot_concurrency,
        limits=_query_limits(options),
        subscriptions_max=options.subscriptions_max,
        held_bytes_max=options.held_bytes_max,
        rules=RuleSet(tuple(options.rules)),
    )


def _row_evaluator(options: BridgeOptions, pool: Pool) -> PooledRowEvaluator:
    return PooledRowEvaluator(pool, statement_timeout_s=options.evaluation_timeout_s, rest_s=options.evaluation_rest_s)


def maintenance(options: BridgeOptions, pool: Pool) -> LogMaintenance:
    return LogMaintenance(
        pool,
        options.dsn,
        options.schema,
        retention_age_s=options.retention_age_s,
        retention_bytes=options.retention_bytes,
        notify=options.notify,
    )


def _query_limits(options: BridgeOptions) -> QueryLimits:
    return QueryLimits(
        options.limit_default,
        options.limit_max,
        options.filter_depth_max,
        options.filter_nodes_max,
        options.in_values_max,
    )


def authenticator(options: BridgeOptions, broker: Broker, keys: Sequence[Key]) -> Authenticator:
    roles = Roles(
        database=frozenset(options.roles),
        anonymous=options.anon_role,
        is_ruled=broker.is_ruled,
        public=options.insecure_public,
    )
    return Authenticator(
        roles,
        Verifier(options.jwt_audience, options.jwt_issuer, options.jwt_leeway_s),
        keys,
        PublishedKeys(options.jwt_jwks_url) if options.jwt_jwks_url else None,
        options.static_tokens,
    )


def server_options(options: BridgeOptions) -> ServerOptions:
    return ServerOptions(
        host=options.host,
        port=options.port,
        frame_bytes_max=options.frame_bytes_max,
        backlog_bytes_max=options.backlog_bytes_max,
        messages_per_second_max=options.messages_per_second_max,
        ping_interval_s=options.ping_interval_s,
        compression=options.compression,
        auth_mode=options.mode,
        auth_timeout_s=options.auth_timeout_s,
    )


def request_policy(
    options: BridgeOptions, broker: Broker, capture: ChangeStream, pools: Pools, catalog: PooledCatalogReader
) -> RequestPolicy:

    def not_ready() -> str | None:
        reasons = list(catalog.problems)
        if pools.all.problems:
            reasons.insert(0, "no connection to read with")
        if not broker.listening:
            reasons.insert(0, "not listening to the database")
        elif time.monotonic() - capture.last_heard_s > options.heartbeat_timeout_s:
            reasons.insert(0, f"no heartbeat for {options.heartbeat_timeout_s:g} s")
        return "; ".join(reasons) or None

    return RequestPolicy(
        ConnectionLimits(
            options.connections_max,
            options.connections_per_address_max,
            handshakes_max=options.handshakes_max,
            behind_proxy=options.behind_proxy,
        ),
        allowed_origins=tuple(options.allowed_origins),
        not_ready=not_ready,
        subscriptions=lambda: len(broker.hub),
        loopback_only=is_loopback(options.host),
    )


def keys_at_hand(options: BridgeOptions) -> tuple[Key, ...]:
    """Not those that an issuer publishes. Raises `SettingsError`."""
    found = []
    if options.jwt_secret:
        found.append(shared(options.jwt_secret))
    if options.jwt_public_key:
        found.append(public(options.jwt_public_key))
    return tuple(found)


def certificate(options: BridgeOptions) -> Certificate | None:
    """Raises `SettingsError`."""
    return Certificate(options.tls_certificate, options.tls_key) if options.tls_certificate else None
