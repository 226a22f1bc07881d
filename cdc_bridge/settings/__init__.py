"""Settings, read at start and at SIGHUP: flags over the environment over a TOML file over defaults.

A setting has one name in three spellings: `ping_interval_s` in the file, `CDC_BRIDGE_PING_INTERVAL_S` in the
environment, `--ping-interval-s` as a flag of `serve`. Each source is judged by itself before they are laid
over one another, so a bad value is refused even where another covers it, under the name that its writer used.

Settings stop at the composition root: no adapter imports this module.
"""

from cdc_bridge.settings.declaration import FIELDS, Settings, allowed, differing, flag, variable
from cdc_bridge.settings.loading import chosen, load, unknown_variables

__all__ = [
    "FIELDS",
    "Settings",
    "allowed",
    "chosen",
    "differing",
    "flag",
    "load",
    "unknown_variables",
    "variable",
]
