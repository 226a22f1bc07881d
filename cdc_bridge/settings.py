"""What the operator decides, read once at start: flags over the environment over a TOML file over defaults.

A setting has one name in three spellings: `ping_interval_s` in the file, `CDC_BRIDGE_PING_INTERVAL_S` in the
environment, `--ping-interval-s` as a flag of `serve`. Each source is judged by itself before they are laid
over one another, so a bad value is refused even where another covers it, under the name that its writer used.

Settings stop at the composition root: no adapter imports this module.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cdc_bridge import conninfo
from cdc_bridge.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PREFIX = "CDC_BRIDGE_"
DEFAULT_FILE = Path("cdc-bridge.toml")

OUTSIDE_THE_SETTINGS = frozenset({"CDC_BRIDGE_TRACEBACK"})
"""Variables of ours that are no settings."""

_Options = TypeVar("_Options", bound="DataclassInstance")

_MIB = 1024 * 1024

_REFUSAL = "refusal"
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/:?#@\[\]]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?")
_OWN_PORTS = {"http": "80", "https": "443"}

_DSN_FORM = "a connection string such as postgresql://user@host:5432/database or 'host=... dbname=...'"
_ORIGINS_FORM = "a list of origins such as https://app.example.com, as JSON or separated by commas"
_NOTIFY_FORM = "auto or off"
_COLLECTIONS_FORM = 'a table that names collections, {"schema.table": "name"}, each name once'
_RELATIONS_FORM = 'a table that names relations, {"collection.column": "name"}'


def _setting(default: Any, description: str, *, allowed: str = "", **bounds: Any) -> Any:
    """`allowed` says in words which values are accepted, where type and bounds do not say it."""
    return Field(default=default, description=description, json_schema_extra={"allowed": allowed or None}, **bounds)


class Settings(BaseSettings):
    """All settings. The field `schema_name` is the setting `schema`; pydantic keeps that word for itself."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_prefix_target="all",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    dsn: SecretStr = _setting(
        SecretStr(""),
        "The database, as a URL or in key=value form; without it libpq's own PG* variables decide.",
        allowed=_DSN_FORM,
    )
    schema_name: str = _setting(
        "cdc",
        "The schema of cdc_bridge in that database.",
        alias="schema",
        min_length=1,
        max_length=63,
        allowed="a name of 1 to 63 characters",
    )
    collections: Annotated[dict[str, str], NoDecode] = _setting(
        {}, "Other names for collections: table to name.", allowed=_COLLECTIONS_FORM
    )
    relations: Annotated[dict[str, str], NoDecode] = _setting(
        {}, "Names for the rows that refer to another one: foreign key to name.", allowed=_RELATIONS_FORM
    )

    notify: Literal["", "auto", "off"] = _setting(
        "", "Whether anything notifies; recorded in the database, for all bridges.", allowed=_NOTIFY_FORM
    )
    poll_interval_s: float = _setting(
        0.05, "Seconds between two looks at the change log while writers do not notify.", gt=0
    )
    retention_age_s: float = _setting(86_400.0, "Seconds for which the change log keeps changes.", ge=1)
    retention_bytes: int = _setting(1024 * _MIB, "The size to which the change log may grow.", ge=_MIB)

    host: str = _setting("127.0.0.1", "The address to listen on.", min_length=1, allowed="an address or name")
    port: int = _setting(8765, "The port to listen on; 0 takes any free one.", ge=0, le=65535)
    insecure_public: bool = _setting(False, "Let everybody who can connect read every attached table.")
    insecure_bind: bool = _setting(False, "Listen on an address that other machines can reach.")
    allowed_origins: Annotated[list[str], NoDecode] = _setting(
        [], "Origins of web pages that may connect, besides the bridge's own.", allowed=_ORIGINS_FORM
    )
    compression: bool = _setting(False, "Offer permessage-deflate: less traffic for more CPU and memory.")

    frame_bytes_max: int = _setting(_MIB, "The largest message that a client may send.", ge=1024)
    subscriptions_max: int = _setting(100, "Subscriptions of one connection.", ge=1)
    limit_default: int = _setting(100, "Rows of initial data when the client names no limit.", ge=0)
    limit_max: int = _setting(10_000, "The most rows of initial data that a client may ask for.", ge=0)
    filter_depth_max: int = _setting(10, "How deep a filter may nest.", ge=1, le=100)
    filter_nodes_max: int = _setting(100, "The most conditions of a filter.", ge=1)
    in_values_max: int = _setting(10_000, "The most values of one `_in` or `_nin`.", ge=1)
    backlog_bytes_max: int = _setting(16 * _MIB, "What may wait for a slow connection before it is closed.", ge=1024)
    ping_interval_s: float = _setting(30.0, "Seconds between pings to a client.", gt=0)
    connections_max: int = _setting(10_000, "Connections at one time; 0 sets no limit.", ge=0)
    connections_per_address_max: int = _setting(0, "Connections at one time from one address; 0 sets no limit.", ge=0)
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
    shutdown_timeout_s: float = _setting(3.0, "Seconds to flush and close the clients at the end.", gt=0)

    log_format: Literal["human", "json"] = _setting("human", "How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "The least severe lines that are logged."
    )

    @field_validator("dsn")
    @classmethod
    def _dsn_is_conninfo(cls, dsn: SecretStr) -> SecretStr:
        if fault := conninfo.fault(dsn.get_secret_value()):
            raise _refusal(f"{fault}; expected {_DSN_FORM}")
        return dsn

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _origins_from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [origin.strip() for origin in value.split(",") if origin.strip()]

    @field_validator("allowed_origins")
    @classmethod
    def _origins_as_browsers_send_them(cls, origins: list[str]) -> list[str]:
        return [_origin(text) for text in origins]

    @field_validator("collections", "relations", mode="before")
    @classmethod
    def _names_from_text(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("collections")
    @classmethod
    def _each_collection_has_its_own_name(cls, names: dict[str, str]) -> dict[str, str]:
        if len(set(names.values())) < len(names) or not all(names.values()):
            raise ValueError("a name stands twice, or is empty")
        return names

    @field_validator("log_format", "log_level", "notify", mode="before")
    @classmethod
    def _words_in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @property
    def conninfo(self) -> str:
        """The connection string with its secret; empty when libpq's variables decide."""
        return self.dsn.get_secret_value()

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


def _refusal(reason: str) -> PydanticCustomError:
    """For what only a sentence of its own explains."""
    return PydanticCustomError(_REFUSAL, "{reason}", {"reason": reason})


def _origin(text: str) -> str:
    """As a browser sends it: in small letters, without a path and without the scheme's own port."""
    if text == "*":
        raise _refusal(
            "* is refused, for then every web page that somebody opens could read along in the background; name the"
            " origins one by one"
        )
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise _refusal(
            f"{conninfo.mask(text)[:60]!r} can never match, for browsers send scheme://host or scheme://host:port"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and _OWN_PORTS.get(scheme) != port else "")


def _name(attribute: str, info: FieldInfo) -> str:
    return info.alias or attribute


_MEMBERS = tuple(Settings.model_fields.items())

FIELDS: Mapping[str, FieldInfo] = {_name(attribute, info): info for attribute, info in _MEMBERS}
"""Every setting by its name."""


def variable(name: str) -> str:
    """The setting as the environment spells it."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The setting as a flag of `serve`. (`attach --schema` already says where the tables are.)"""
    return "--schema-name" if name == "schema" else "--" + name.replace("_", "-")


def load(flags: Mapping[str, object], config: Path | None = None) -> Settings:
    """Read and judge every source; `flags` holds, by setting name, those that were given.

    `config` must exist; without it `cdc-bridge.toml` of the working directory is read when it is there.
    Raises `SettingsError`.
    """
    file = config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    in_file = _read_file(file) if file else {}
    in_environment = _read_environment()
    in_flags = {name: value for name, value in flags.items() if value is not None}

    _judge(in_file, lambda name: f"{name} in {file}")
    _judge(in_environment, variable)
    _judge(in_flags, flag)
    settings = Settings.model_validate({**in_file, **in_environment, **in_flags})
    _judge_together(settings)
    return settings


def as_options(settings: Settings, options: type[_Options]) -> _Options:
    """The settings that the dataclass `options` has a field for, as plain values."""
    values = {_name(attribute, info): getattr(settings, attribute) for attribute, info in _MEMBERS}
    values["dsn"] = settings.conninfo
    return options(**{field.name: values[field.name] for field in fields(options) if field.name in values})


def unknown_variables() -> list[str]:
    """A sentence for each `CDC_BRIDGE_*` variable that is no setting, with the nearest one."""
    known = [variable(name) for name in FIELDS]
    return [
        f"{name} is not a setting and is ignored{_did_you_mean(name, known)}"
        for name in sorted(os.environ)
        if name.startswith(PREFIX)
        and name not in known
        and name not in OUTSIDE_THE_SETTINGS
        and not name.startswith(PREFIX + "TEST_")
    ]


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"there is no file {file}: give --config the path of a TOML file") from None
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"cannot read {file}: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is not valid TOML: {conninfo.mask(str(error))}") from None


def _read_environment() -> dict[str, Any]:
    found = EnvSettingsSource(Settings)()
    # Kubernetes gives every container the address of a service named "cdc-bridge" under this very name.
    if str(found.get("port", "")).startswith("tcp://"):
        del found["port"]
    return found


def _judge(values: Mapping[str, object], spelled: Callable[[str], str]) -> None:
    """Raise for the first value that is refused, under the name that `spelled` gives it."""
    for name in values:
        if name not in FIELDS:
            raise SettingsError(f"{spelled(name)} is not a setting{_did_you_mean(name.lower(), FIELDS)}")
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[0]
        name = str(details["loc"][0])
        own = details["type"] == _REFUSAL
        reason = details["msg"] if own else f"{_quoted(name, values[name])}expected {allowed(name)}"
        raise SettingsError(f"{spelled(name)}: {reason}") from None


def _judge_together(settings: Settings) -> None:
    if settings.limit_default > settings.limit_max:
        raise SettingsError(
            f"limit_default ({settings.limit_default}) is larger than limit_max ({settings.limit_max}):"
            " lower the one or raise the other"
        )
    if settings.heartbeat_timeout_s <= settings.heartbeat_interval_s:
        raise SettingsError(
            f"heartbeat_timeout_s ({settings.heartbeat_timeout_s:g}) must be larger than"
            f" heartbeat_interval_s ({settings.heartbeat_interval_s:g})"
        )


def _quoted(name: str, value: object) -> str:
    """The refused value, unless it may hold a secret or fill the screen."""
    if name == "dsn" or isinstance(value, (dict, list)):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"{conninfo.mask(text)!r} is refused, " if len(text) <= 60 else ""


def _did_you_mean(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def allowed(name: str) -> str:
    """Which values a setting accepts, in words."""
    info = FIELDS[name]
    extra = info.json_schema_extra
    if isinstance(extra, dict) and extra["allowed"]:
        return str(extra["allowed"])
    if info.annotation is bool:
        return "true or false"
    if get_origin(info.annotation) is Literal:
        words = [str(word) for word in get_args(info.annotation)]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    return ("a whole number" if info.annotation is int else "a number") + _bounds(info)


def _bounds(info: FieldInfo) -> str:
    names = ("ge", "gt", "le")
    match {name: getattr(part, name) for part in info.metadata for name in names if hasattr(part, name)}:
        case {"ge": low, "le": high}:
            return f" from {low} to {high}"
        case {"ge": low}:
            return f" of {low} or more"
        case {"gt": low}:
            return f" above {low}"
    return ""
