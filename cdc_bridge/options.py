"""What can be chosen of a bridge: plain values, under the names of the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cdc_bridge.access.auth_state import AuthMode
from cdc_bridge.access.rules import Rule
from cdc_bridge.access.tokens import StaticToken


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """Everything that can be chosen."""

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
    ping_interval_s: float = 25
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
    evaluation_timeout_s: float = 5
    evaluation_rest_s: float = 60
    rules: Sequence[Rule] = ()
    notify: str = ""
    poll_interval_s: float = 0.05
    retention_age_s: float = 86_400
    retention_bytes: int = 1024 * 1024 * 1024

    @property
    def authenticates(self) -> bool:
        """Whether there is a key or a token by which a client can be known."""
        return bool(self.jwt_secret or self.jwt_public_key or self.jwt_jwks_url or self.static_tokens)

    @property
    def mode(self) -> AuthMode:
        """The one that was chosen, or else what there is to prove oneself by decides."""
        if self.auth_mode:
            return AuthMode(self.auth_mode)
        return AuthMode.HANDSHAKE if self.authenticates else AuthMode.PUBLIC


@dataclass(frozen=True, slots=True)
class Revision:
    """What can be chosen anew while the bridge runs."""

    rules: Sequence[Rule] = ()
    static_tokens: Sequence[StaticToken] = ()
