"""`cdc-bridge serve`: read the settings, refuse what would be open to strangers, and run a bridge.

Rule: nothing is public by itself. Whatever opens the bridge to more people is a setting of its own; refusals name it.
"""

import asyncio
import gc
import logging
import os
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cdc_bridge import logs
from cdc_bridge import settings as s
from cdc_bridge.access.auth_state import AuthMode
from cdc_bridge.cli import leave_at_sigterm
from cdc_bridge.cli.command import load, say, with_a_flag_for_each_setting
from cdc_bridge.conninfo import server
from cdc_bridge.logs import facts
from cdc_bridge.model.errors import CannotServe, UsageError
from cdc_bridge.server.limits import is_loopback
from cdc_bridge.settings import Settings

log = logging.getLogger(__name__)

GRACE_S = 1.5
"""The time for shutting down when the clients are gone."""

REVISABLE = {"rules", "static_tokens"}
"""The settings that SIGHUP applies to a running bridge."""

COLLECTED_AFTER = 20_000, 50, 100
"""The thresholds of `gc.set_threshold`."""


@with_a_flag_for_each_setting
def serve(config: Path | None, flags: dict[str, object]) -> None:
    """Run the bridge until SIGTERM or Ctrl-C.

    The first line on stdout says where it listens. The database may be down; the bridge waits for it.
    At the end it asks its clients to come again, one after the other (--drain-s); a second signal ends it at once.
    Every flag is also a setting, see docs/settings.md. Nobody may read anything until settings say who may.

    \b
    Examples:
      cdc-bridge serve --dsn postgresql://user@host/database --insecure-public
      cdc-bridge serve --host 0.0.0.0 --tls-certificate tls.crt --tls-key tls.key
    """
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
        on_stopping=lambda limit_s: asyncio.get_running_loop().call_later(limit_s + GRACE_S, _give_up, limit_s),
        revise=lambda: revise(config, flags, settings),
    )
    try:
        _run(bridge.run())
    except OSError as error:  # the database is waited for, so this is about our own end
        raise CannotServe(settings.host, settings.port, error.strerror or str(error)) from error


def refuse_unless_meant(settings: Settings) -> None:
    """Raise `UsageError` if the settings would open the bridge to strangers, and log warnings."""
    if reason := refusal(settings):
        raise UsageError(reason)
    for sentence in warnings(settings):
        log.warning(sentence, extra=facts(host=settings.host, database=server(settings.conninfo)))


def revise(config: Path | None, flags: Mapping[str, object], before: Settings) -> Settings:
    """Read the settings again from the same sources, and log which of them need a restart. Raises `UsageError`."""
    settings = s.load(flags, config)
    if reason := refusal(settings):
        raise UsageError(reason)
    if ignored := sorted(s.differing(before, settings) - REVISABLE):
        log.warning("settings have changed that need a restart", extra=facts(settings=", ".join(ignored)))
    return settings


def _give_up(after_s: float) -> None:
    """End the process although something hangs: an orchestrator does not wait."""
    log.warning("something hangs: ending without waiting for it", extra=facts(after_s=after_s))
    os._exit(0)


def _run(bridge: Coroutine[Any, Any, None]) -> None:
    # Python looks for cycles less often: with 100,000 subscriptions a look at everything takes a second, in which
    # nothing else happens, and hardly anything here is part of a cycle. What has been imported is looked at no more.
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    try:
        from uvloop import run
    except ImportError:  # not on every platform
        asyncio.run(bridge)
    else:
        run(bridge)


def _open_as_many_files_as_allowed() -> None:
    """A connection is an open file, and what a shell allows at first, often 1,024, is less than connections_max."""
    with suppress(ImportError, ValueError, OSError):  # not on every platform; "unlimited" is more than some take
        import resource

        _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


AUTHENTICATION = "jwt_secret, jwt_public_key, jwt_jwks_url or static_tokens"
_ELSE = "; on this machine only, use --host 127.0.0.1; for anything less, --insecure-bind says that it is meant"


def refusal(settings: Settings) -> str | None:
    """Return why the bridge refuses to serve with these settings, or None."""
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        given, missing = ("tls_certificate", "tls_key") if settings.tls_certificate else ("tls_key", "tls_certificate")
        return f"{given} is set without {missing}: TLS needs both, as paths of PEM files"
    if is_loopback(settings.host) or settings.insecure_bind:
        return None
    reachable = f"{settings.host} can be reached from other machines"
    if settings.insecure_public:
        return f"{reachable}, and with --insecure-public everybody there could read every attached table{_ELSE}"
    if not settings.authenticates:
        return f"{reachable}, and nothing says who its clients are: set {AUTHENTICATION}{_ELSE}"
    if not (settings.tls_certificate or settings.behind_proxy):
        return (
            f"{reachable}, and tokens and rows would be readable on the way: set tls_certificate and tls_key, or"
            f" behind_proxy where a proxy in front does TLS{_ELSE}"
        )
    return None


def warnings(settings: Settings) -> list[str]:
    """Return what the operator should know at the start."""
    found = [sentence] if (sentence := _of_readers(settings)) else []
    if not (is_loopback(settings.host) or settings.tls_certificate or settings.behind_proxy):
        found.append("serving other machines without TLS: tokens and rows can be read on the way")
    return found


def _of_readers(settings: Settings) -> str | None:
    """Return a sentence where fewer clients, or more, can read than the operator may think."""
    is_public = settings.mode is AuthMode.PUBLIC
    if not is_public and not settings.authenticates:
        return f"nobody is let in: auth_mode wants a token, and nothing says which are good. Set {AUTHENTICATION}"
    if settings.insecure_public and not is_public:
        return "insecure_public opens nothing: clients have to show a token, as long as auth_mode is not public"
    if settings.insecure_public and settings.anon_role:
        return "insecure_public opens nothing: a client without a token has the rights of anon_role"
    if settings.insecure_public:
        return "serving without authentication: everybody may read what the bridge's own role may SELECT"
    if settings.anon_role or (settings.authenticates and (settings.roles or settings.rules)):
        return None
    if settings.authenticates:
        return (
            "no token is good yet, since there is no role that one may name: set roles to those of the database, or"
            " rules; anon_role is for tokens that name none"
        )
    roles = "" if (settings.roles or settings.rules) else "roles, or rules, and "
    return (
        f"nobody may read anything yet, so every client gets FORBIDDEN. To open it: set {roles}{AUTHENTICATION} for"
        " clients with a token; anon_role for those without one; or, on this machine, --insecure-public for everybody"
        " and every attached table"
    )
