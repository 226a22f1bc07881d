"""`cdc-bridge token`."""

import re
import time
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer

from cdc_bridge.access.authenticator import mint
from cdc_bridge.cli.command import Config, complain, load, say
from cdc_bridge.model.errors import SettingsError, UsageError

OWN_CLAIMS = frozenset({"role", "sub", "iat", "exp", "aud", "iss"})
"""Claims that options and settings decide on."""

_SPAN = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def token(
    role: Annotated[str, typer.Option(metavar="NAME", help="The role of the database whose rights it gives.")],
    sub: Annotated[str | None, typer.Option(metavar="TEXT", help="Who the client is.")] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="One more claim; may be repeated. What is no JSON is a text."),
    ] = None,
    expires_in: Annotated[str, typer.Option(metavar="SPAN", help="How long it is good: 90s, 15m, 1h or 7d.")] = "1h",
    config: Config = None,
) -> None:
    """Make a token for development, and print it.

    It is signed with the setting jwt_secret. Whoever has it may read what its role may: make none where others see
    your screen.

    \b
    Examples:
      cdc-bridge token --role reader --sub ann
      cdc-bridge token --role reader --claim 'org=7' --claim 'groups=["a","b"]' --expires-in 15m
    """
    settings = load(config, {})
    secret = settings.jwt_secret.get_secret_value()
    if not secret:
        raise SettingsError("there is no jwt_secret to sign it with: set CDC_BRIDGE_JWT_SECRET, as for the bridge")

    known = {*settings.roles, *(rule.role for rule in settings.rules), settings.anon_role} - {""}
    if known and role not in known:
        complain(
            f"the bridge refuses this token if it has these settings: {role} is not in roles, and no rule names it"
        )

    span = _SPAN.fullmatch(expires_in)
    if span is None:
        raise UsageError(f"--expires-in is {expires_in!r}: expected a number and a unit, such as 90s, 15m, 1h or 7d")
    now_s = int(time.time())
    texts = {"role": role, "sub": sub, "aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    claims = {name: text for name, text in texts.items() if text or name == "role"}
    say(mint(secret, claims | {"iat": now_s, "exp": now_s + int(span[1]) * _UNITS[span[2]]} | _claims(claim or ())))


def _claims(assignments: Iterable[str]) -> dict[str, Any]:
    claims: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not name or not equals:
            raise UsageError("--claim needs a name and a value: --claim org=7")
        if name in OWN_CLAIMS:
            raise UsageError(f"--claim {name}: options and settings decide on this one")
        try:
            claims[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            claims[name] = text
    return claims
