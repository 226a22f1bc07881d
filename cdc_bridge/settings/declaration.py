"""The declaration of all settings: types, defaults, descriptions, what is refused, and how each source spells them.

Flags, environment variables, the TOML file, the reference in docs/settings.md and the parts of a bridge follow from it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cdc_bridge.access.auth_state import AuthMode
from cdc_bridge.settings.values import (
    DSN_FORM,
    SECRET_BYTES_MIN,
    AnyCase,
    Collections,
    Dsn,
    Names,
    Origins,
    Relations,
    Rules,
    Secret,
    Tokens,
    Url,
)

PREFIX = "CDC_BRIDGE_"

_MIB = 1024 * 1024

SECRETS = frozenset({"dsn", "jwt_secret", "jwt_public_key", "jwt_jwks_url", "static_tokens"})
"""Settings of which no message shows a value: what was meant for one may well be a secret where it is refused."""

_ORIGINS_FORM = "a list of origins such as https://app.example.com, as JSON or separated by commas"
_TOKENS_FORM = 'a list of tables {"sha256": "...", "role": "...", "claims": {...}}, the hash in 64 hex digits'
_RULES_FORM = 'a list of tables {"role": "...", "collection": "...", "fields": [...], "filter": {...}, "events": [...]}'
_COLLECTIONS_FORM = 'a table that names collections, {"schema.table": "name"}, each name once'


def _setting(default: Any, description: str, allowed: str = "", **bounds: Any) -> Any:
    """`allowed` says in words which values are accepted, where type and bounds do not say it."""
    return Field(default=default, description=description, json_schema_extra={"allowed": allowed or None}, **bounds)


class Settings(BaseSettings):
    """The settings. The field `schema_name` is the setting `schema`; pydantic keeps that word for itself."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_prefix_target="all",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    dsn: Dsn = _setting(
        SecretStr(""),
        "The database, as a URL or in key=value form; without it libpq's own PG* variables decide.",
        DSN_FORM,
    )
    schema_name: str = _setting(
        "cdc",
        "The schema of cdc_bridge in that database.",
        "a name of 1 to 63 characters",
        alias="schema",
        min_length=1,
        max_length=63,
    )
    collections: Collections = _setting({}, "Other names for collections: table to name.", _COLLECTIONS_FORM)
    relations: Relations = _setting(
        {},
        "Names for the rows that refer to another one: foreign key to name.",
        'a table that names relations, {"collection.column": "name"}',
    )

    notify: Annotated[Literal["", "auto", "off"], AnyCase] = _setting(
        "", "Whether writers may notify bridges; recorded in the database, for all bridges.", "auto or off"
    )
    poll_interval_s: float = _setting(
        0.05, "Seconds between two looks at the change log while writers do not notify.", gt=0
    )
    retention_age_s: float = _setting(86_400.0, "Seconds for which the change log keeps changes.", ge=1)
    retention_bytes: int = _setting(1024 * _MIB, "The size to which the change log may grow.", ge=_MIB)

    host: str = _setting("127.0.0.1", "The address to listen on.", "an address or name", min_length=1)
    port: int = _setting(8765, "The port to listen on; 0 takes any free one.", ge=0, le=65535)
    metrics_host: str = _setting(
        "127.0.0.1", "The address for metrics on a port of their own.", "an address or name", min_length=1
    )
    metrics_port: int = _setting(
        0,
        "A port of their own for metrics, which the bridge's port shows to this machine only; 0 for none.",
        ge=0,
        le=65535,
    )
    canary_collection: str = _setting(
        "",
        "The collection to which the bridge writes a row of its own every few seconds, to see it arrive.",
        "any text",
    )
    canary_interval_s: float = _setting(5.0, "Seconds between two rows of the canary.", gt=0)
    trace_ratio: float = _setting(
        0.0, "The part of all changes that are traced with OpenTelemetry: 1 for all, 0 for none.", ge=0, le=1
    )
    insecure_public: bool = _setting(False, "Let everybody who can connect read every attached table.")
    insecure_bind: bool = _setting(
        False, "Listen on an address that other machines can reach, without authentication or without TLS."
    )
    tls_certificate: str = _setting(
        "", "The certificate that the bridge shows, with its chain.", "the path of a PEM file"
    )
    tls_key: str = _setting("", "The key of that certificate.", "the path of a PEM file")
    behind_proxy: bool = _setting(False, "A proxy in front does TLS, and says where clients come from.")
    allowed_origins: Origins = _setting(
        [], "Origins of web pages that may connect; without any, pages of the bridge's own host.", _ORIGINS_FORM
    )
    inspector: Annotated[Literal["", "on", "off"], AnyCase] = _setting(
        "", "Whether a browser is shown the inspector at `/`; if not set, on a loopback address only.", "on or off"
    )
    auth_mode: Annotated[Literal["", "public", "handshake", "strict"], AnyCase] = _setting(
        "", "Whether clients have to say who they are, and when.", "public, handshake or strict"
    )
    auth_timeout_s: float = _setting(10.0, "Seconds that a client has to say who it is.", gt=0)
    jwt_secret: Secret = _setting(
        SecretStr(""), "The secret that tokens are signed with (HS256).", f"{SECRET_BYTES_MIN} bytes or more"
    )
    jwt_public_key: str = _setting(
        "", "The public key that tokens are verified with (RS256, ES256, EdDSA).", "PEM text or a file's path"
    )
    jwt_jwks_url: Url = _setting("", "Where the issuer of tokens publishes its public keys.", "an http or https URL")
    jwt_audience: str = _setting("", "What the audience of a token has to be, or to contain.", "any text")
    jwt_issuer: str = _setting("", "What the issuer of a token has to be.", "any text")
    jwt_leeway_s: float = _setting(5.0, "Seconds by which clocks may differ: for the times in a token.", ge=0)
    anon_role: str = _setting(
        "", "The role of clients without a token, or with one that names no role.", "a role's name"
    )
    roles: Names = _setting(
        [], "The roles of the database that a token may name.", "a list of roles, as JSON or separated by commas"
    )
    static_tokens: Tokens = _setting([], "Tokens that are no JWTs, by their hashes.", _TOKENS_FORM)
    rules: Rules = _setting(
        [], "What a role may see of a collection: besides its grants, or instead of them.", _RULES_FORM
    )
    compression: bool = _setting(False, "Offer permessage-deflate: less traffic for more CPU and memory.")

    frame_bytes_max: int = _setting(_MIB, "The largest message that a client may send.", ge=1024)
    subscriptions_max: int = _setting(100, "Subscriptions of one connection.", ge=1)
    limit_default: int = _setting(100, "Rows of initial data when the client names no limit.", ge=0)
    limit_max: int = _setting(10_000, "The most rows of initial data that a client may ask for.", ge=0)
    filter_depth_max: int = _setting(10, "How deep a filter may nest.", ge=1, le=100)
    filter_nodes_max: int = _setting(100, "The most conditions of a filter.", ge=1)
    in_values_max: int = _setting(10_000, "The most values of one `_in` or `_nin`.", ge=1)
    backlog_bytes_max: int = _setting(16 * _MIB, "What may wait for a slow connection.", ge=1024)
    ping_interval_s: float = _setting(25.0, "Seconds between pings to a client.", gt=0)
    connections_max: int = _setting(10_000, "Connections at one time; 0 sets no limit.", ge=0)
    connections_per_address_max: int = _setting(0, "Connections at one time from one address; 0 sets no limit.", ge=0)
    handshakes_max: int = _setting(
        1000, "Connections at one time that have not sent a request yet; 0 sets no limit.", ge=0
    )
    messages_per_second_max: float = _setting(0.0, "Messages a second from one connection; 0 sets no limit.", ge=0)

    heartbeat_interval_s: float = _setting(2.0, "Seconds between heartbeats that prove that changes arrive.", gt=0)
    heartbeat_timeout_s: float = _setting(
        6.0, "Seconds without a heartbeat after which the database connection counts as lost.", gt=0
    )
    reconnect_delay_max_s: float = _setting(
        10.0, "The longest pause in seconds between attempts to reach the database.", gt=0
    )
    connect_timeout_s: float = _setting(5.0, "Seconds that one attempt to connect may take.", ge=1)
    held_bytes_max: int = _setting(
        64 * _MIB, "Changes kept for a subscription while its initial data is read.", ge=1024
    )
    snapshot_concurrency: int = _setting(4, "Initial data read at the same time.", ge=1)
    evaluation_timeout_s: float = _setting(
        5.0, "Seconds that PostgreSQL may take to judge changes for a policy or a filter.", gt=0
    )
    evaluation_rest_s: float = _setting(60.0, "Seconds for which what took longer is not asked again.", gt=0)
    drain_s: float = _setting(5.0, "Seconds over which clients are closed at the end; 0 closes all at once.", ge=0)
    shutdown_timeout_s: float = _setting(3.0, "Seconds to send what waits for clients at the end.", gt=0)

    log_format: Annotated[Literal["human", "json"], AnyCase] = _setting("human", "How log lines look.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = _setting(
        "info", "The least severe lines that are logged."
    )

    @property
    def conninfo(self) -> str:
        """The connection string with its secret; empty when libpq's variables decide."""
        return self.dsn.get_secret_value()

    @property
    def authenticates(self) -> bool:
        """Return whether there is a key or a token by which a client can be known."""
        return bool(
            self.jwt_secret.get_secret_value() or self.jwt_public_key or self.jwt_jwks_url or self.static_tokens
        )

    @property
    def mode(self) -> AuthMode:
        """The chosen `auth_mode`; without one, `handshake` if there is a key or a token, else `public`."""
        if self.auth_mode:
            return AuthMode(self.auth_mode)
        return AuthMode.HANDSHAKE if self.authenticates else AuthMode.PUBLIC

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` passes in, so that `Settings(...)` in a test means what it says."""
        del env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


FIELDS: Mapping[str, FieldInfo] = {info.alias or member: info for member, info in Settings.model_fields.items()}
"""Every setting by its name."""


def differing(before: Settings, now: Settings) -> set[str]:
    """Return the names of the settings whose values differ."""
    members = zip(FIELDS, Settings.model_fields, strict=True)
    return {name for name, member in members if getattr(before, member) != getattr(now, member)}


def variable(name: str) -> str:
    """The setting as the environment spells it."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The setting as a flag of `serve`. (`attach --schema` already says where the tables are.)"""
    return "--schema-name" if name == "schema" else "--" + name.replace("_", "-")


def allowed(name: str) -> str:
    """Return in words which values a setting accepts."""
    info = FIELDS[name]
    extra = info.json_schema_extra
    if isinstance(extra, dict) and extra["allowed"]:
        return str(extra["allowed"])
    if info.annotation is bool:
        return "true or false"
    if get_origin(info.annotation) is Literal:
        words = [str(word) for word in get_args(info.annotation)]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    number = "a whole number" if info.annotation is int else "a number"
    match {name: getattr(part, name) for part in info.metadata for name in ("ge", "gt", "le") if hasattr(part, name)}:
        case {"ge": low, "le": high}:
            return f"{number} from {low} to {high}"
        case {"ge": low}:
            return f"{number} of {low} or more"
        case {"gt": low}:
            return f"{number} above {low}"
    return number
