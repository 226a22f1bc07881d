"""`cdc-bridge token`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer

from cdc_bridge.cli.options import Config, load
from cdc_bridge.cli.output import complain, say
from cdc_bridge.model.errors import SettingsError, UsageError
from cdc_bridge.settings import Settings

OWN_CLAIMS = frozenset({"role", "sub", "iat", "exp", "aud", "iss"})
"""Claims that options and settings decide on."""

_SPAN = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def token(
    role: Annotated[str, typer.Option(metavar="NAME", help="The role that its bearer has.")],
    sub: Annotated[str | None, typer.Option(metavar="TEXT", help="Who its bearer is.")] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="One more claim; again for others. What is no JSON is a text."),
    ] = None,
    expires_in: Annotated[str, typer.Option(metavar="SPAN", help="How long it is good: 90s, 15m, 1h or 7d.")] = "1h",
    config: Config = None,
) -> None:
    """Make a token for development, signed with the setting jwt_secret, and print it.

    Whoever has it is what it says: do not use it where others see your screen.

    \b
    Examples:
      cdc-bridge token --role reader --sub ann
      cdc-bridge token --role reader --claim 'org=7' --claim 'groups=["a","b"]' --expires-in 15m
    """  # noqa: D301 - the \b is meant
    settings = load(config, {})
    secret = settings.jwt_secret.get_secret_value()
    if not secret:
        raise SettingsError("there is no jwt_secret to sign it with: set CDC_BRIDGE_JWT_SECRET, as for the bridge")

    if unknown := _unknown(role, settings):
        complain(unknown)

    from cdc_bridge.access.authenticator import mint

    now_s = int(time.time())
    times = {"iat": now_s, "exp": now_s + _span_s(expires_in)}
    say(mint(secret, {"role": role} | _named(sub, settings) | times | _claims(claim or ())))


def _unknown(role: str, settings: Settings) -> str | None:
    """Yield why a bridge with these settings will refuse the token. It is made all the same."""
    known = {*settings.roles, *(rule.role for rule in settings.rules), settings.anon_role} - {""}
    if not known or role in known:
        return None
    return f"the bridge refuses this token if it has these settings: {role} is not in roles, and no rule names it"


def _named(sub: str | None, settings: Settings) -> dict[str, Any]:
    """Return the claims that are texts."""
    texts = {"sub": sub, "aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    return {name: text for name, text in texts.items() if text}


def _span_s(text: str) -> int:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise UsageError(f"--expires-in is {text!r}: expected a number and a unit, such as 90s, 15m, 1h or 7d")
    return int(found[1]) * _UNITS[found[2]]


def _claims(assignments: Iterable[str]) -> dict[str, Any]:
    claims: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not name or not equals:
            raise UsageError("--claim needs a name and a value: --claim org=7")
        if name in OWN_CLAIMS:
            raise UsageError(f"--claim {name}: options and settings decide on this one")
        claims[name] = _value(text)
    return claims


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
