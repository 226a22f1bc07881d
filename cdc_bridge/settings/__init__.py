"""Settings, read at start and at SIGHUP: flags over the environment over a TOML file over defaults.

A setting has one name in three spellings: `ping_interval_s` in the file, `CDC_BRIDGE_PING_INTERVAL_S` in the
environment, `--ping-interval-s` as a flag of `serve`. Each source is judged by itself before they are laid
over one another, so a bad value is refused even where another covers it, under the name that its writer used.

Settings stop at the composition root: no adapter imports this module.
"""

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from cdc_bridge import conninfo
from cdc_bridge.model.errors import SettingsError
from cdc_bridge.settings.declaration import FIELDS, PREFIX, SECRETS, Settings, allowed, differing, flag, variable
from cdc_bridge.settings.values import REFUSAL, did_you_mean

__all__ = ["FIELDS", "Settings", "allowed", "chosen", "differing", "flag", "load", "unknown_variables", "variable"]

DEFAULT_FILE = Path("cdc-bridge.toml")

OUTSIDE_THE_SETTINGS = frozenset({"CDC_BRIDGE_TRACEBACK"})
"""Variables of ours that are no settings."""


def load(flags: Mapping[str, object], config: Path | None = None) -> Settings:
    """Read and judge every source; `flags` holds, by setting name, those that were given.

    `config` must exist; without it the file is read that is `chosen`. Raises `SettingsError`.
    """
    file = chosen(config)
    in_file = _read_file(file) if file else {}
    in_environment = EnvSettingsSource(Settings)()
    # Kubernetes gives every container the address of a service named "cdc-bridge" under this very name.
    if str(in_environment.get("port", "")).startswith("tcp://"):
        del in_environment["port"]
    in_flags = {name: value for name, value in flags.items() if value is not None}

    _judge(in_file, lambda name: f"{name} in {file}")
    _judge(in_environment, variable)
    _judge(in_flags, flag)
    found = Settings.model_validate(in_file | in_environment | in_flags)
    if found.limit_default > found.limit_max:
        raise SettingsError(
            f"limit_default ({found.limit_default}) is larger than limit_max ({found.limit_max}):"
            " lower the one or raise the other"
        )
    if found.heartbeat_timeout_s <= found.heartbeat_interval_s:
        raise SettingsError(
            f"heartbeat_timeout_s ({found.heartbeat_timeout_s:g}) must be larger than"
            f" heartbeat_interval_s ({found.heartbeat_interval_s:g})"
        )
    return found


def chosen(config: Path | None) -> Path | None:
    """The file with settings: the named one, else `cdc-bridge.toml` of the working directory when it is there."""
    return config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def unknown_variables() -> list[str]:
    """A sentence for each `CDC_BRIDGE_*` variable that is no setting, with the nearest one."""
    known = [variable(name) for name in FIELDS]
    ours = sorted(name for name in os.environ if name.startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_"))
    unknown = [name for name in ours if name not in known and name not in OUTSIDE_THE_SETTINGS]
    return [f"{name} is not a setting and is ignored{did_you_mean(name, known)}" for name in unknown]


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


def _judge(values: Mapping[str, object], spelled: Callable[[str], str]) -> None:
    """Raise for the first value that is refused, under the name that `spelled` gives it."""
    for name in values:
        if name not in FIELDS:
            raise SettingsError(f"{spelled(name)} is not a setting{did_you_mean(name.lower(), FIELDS)}")
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[0]
        name = str(details["loc"][0])
        own = details["type"] == REFUSAL
        reason = details["msg"] if own else f"{_quoted(name, values[name])}expected {allowed(name)}"
        raise SettingsError(f"{spelled(name)}: {reason}") from None


def _quoted(name: str, value: object) -> str:
    """The refused value, unless it may hold a secret or fill the screen."""
    if name in SECRETS or isinstance(value, (dict, list)):
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"{conninfo.mask(text)!r} is refused, " if len(text) <= 60 else ""
