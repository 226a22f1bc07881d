"""`cdc-bridge serve`: read the settings, refuse what would be open to strangers, and run a bridge."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cdc_bridge import logs
from cdc_bridge import settings as s
from cdc_bridge.cli import leave_at_sigterm
from cdc_bridge.cli.exposure import refusal, warnings
from cdc_bridge.cli.options import load, with_a_flag_for_each_setting
from cdc_bridge.cli.output import say
from cdc_bridge.conninfo import server
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import CannotServe, UsageError
from cdc_bridge.settings import Settings

log = logging.getLogger(__name__)

GRACE_S = 1.5
"""What the end may take beyond `shutdown_timeout_s`, which is for the clients."""

REVISABLE = {"rules", "static_tokens"}
"""The settings that SIGHUP applies to a running bridge."""

COLLECTED_AFTER = 20_000, 50, 100
"""As `gc.set_threshold` takes them: new objects, looks at the young ones, looks at the older ones."""


@with_a_flag_for_each_setting
def serve(config: Path | None, flags: dict[str, object]) -> None:
    """Run the bridge until SIGTERM or Ctrl-C.

    The first line on stdout says where it listens. The database may be down; the bridge waits for it.
    Every flag is also a setting, see docs/settings.md. Nobody may read anything until settings say who may.

    \b
    Examples:
      cdc-bridge serve --dsn postgresql://user@host/database --insecure-public
      cdc-bridge serve --host 0.0.0.0 --tls-certificate tls.crt --tls-key tls.key
    """  # noqa: D301 - the \b is meant
    leave_at_sigterm(0)  # until the bridge has its own
    config = s.chosen(config)
    settings = load(config, flags)
    logs.setup(settings.log_format, settings.log_level)
    _open_as_many_files_as_allowed()
    refuse_unless_meant(settings)

    from cdc_bridge.bridge import Bridge

    bridge = Bridge(
        settings,
        on_listening=lambda url: say(f"listening on {url}"),
        on_stopping=lambda: _end_in_any_case(settings.shutdown_timeout_s + GRACE_S),
        revise=reviser(config, flags, settings),
    )
    try:
        _run(bridge.run())
    except OSError as error:  # the database is waited for, so this is about our own end
        raise CannotServe(settings.host, settings.port, error.strerror or str(error)) from error


def refuse_unless_meant(settings: Settings) -> None:
    """Nothing is public until the operator says so; raises `UsageError`."""
    if reason := refusal(settings):
        raise UsageError(reason)
    for sentence in warnings(settings):
        log.warning(sentence, extra=facts(host=settings.host, database=server(settings.conninfo)))


def reviser(config: Path | None, flags: Mapping[str, object], before: Settings) -> Callable[[], Settings]:
    """Return what reads the settings again from the same sources, and logs which of them need a restart."""

    def revise() -> Settings:
        settings = s.load(flags, config)
        if reason := refusal(settings):
            raise UsageError(reason)
        if ignored := sorted(s.differing(before, settings) - REVISABLE):
            log.warning("settings have changed that need a restart", extra=facts(settings=", ".join(ignored)))
        return settings

    return revise


def _end_in_any_case(limit_s: float) -> None:
    """Whatever may hang on the way down, a database that does not answer for one: an orchestrator does not wait."""

    def give_up() -> None:
        log.warning("something hangs: ending without waiting for it", extra=facts(after_s=limit_s))
        os._exit(0)

    asyncio.get_running_loop().call_later(limit_s, give_up)


def _run(bridge: Coroutine[Any, Any, None]) -> None:
    _spare_the_collector()
    try:
        import uvloop
    except ImportError:  # not on every platform
        asyncio.run(bridge)
    else:
        uvloop.run(bridge)


def _open_as_many_files_as_allowed() -> None:
    """A connection is an open file, and what a shell allows at first, often 1,024, is less than connections_max."""
    try:
        import resource
    except ImportError:  # not on every platform
        return
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # "unlimited" is more than some systems take
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


def _spare_the_collector() -> None:
    """Let Python look for cycles less often: with 100,000 subscriptions a look at everything takes a second, in which
    nothing else happens, and hardly anything here is part of a cycle. What has been imported is looked at no more.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
