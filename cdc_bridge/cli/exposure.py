"""What the settings would let strangers read: what `serve` refuses, and what it warns of at its start.

Rule: nothing is public by itself. Whatever opens the bridge to more people is a setting of its own; refusals name it.
"""

from __future__ import annotations

from cdc_bridge.access.auth_state import AuthMode
from cdc_bridge.server.limits import is_loopback
from cdc_bridge.settings import Settings

AUTHENTICATION = "jwt_secret, jwt_public_key, jwt_jwks_url or static_tokens"
_ELSE = "; on this machine only, use --host 127.0.0.1; for anything less, --insecure-bind says that it is meant"


def refusal(settings: Settings) -> str | None:
    """Why the bridge does not serve like this, or None."""
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
    """What whoever starts the bridge should know."""
    return [sentence for sentence in (_of_readers(settings), _of_the_way(settings)) if sentence]


def _of_readers(settings: Settings) -> str | None:
    if settings.mode is not AuthMode.PUBLIC and not settings.authenticates:
        return f"nobody is let in: auth_mode wants a token, and nothing says which are good. Set {AUTHENTICATION}"
    if settings.insecure_public:
        return _of_the_public(settings)
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


def _of_the_public(settings: Settings) -> str:
    if settings.mode is not AuthMode.PUBLIC:
        return "insecure_public opens nothing: clients have to show a token, as long as auth_mode is not public"
    if settings.anon_role:
        return "insecure_public opens nothing: whoever has no token has the rights of anon_role"
    return "serving without authentication: whoever can connect reads every attached table"


def _of_the_way(settings: Settings) -> str | None:
    if is_loopback(settings.host) or settings.tls_certificate or settings.behind_proxy:
        return None
    return "serving other machines without TLS: tokens and rows can be read on the way"
