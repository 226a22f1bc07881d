"""Who could read what, with the settings as they are: what `serve` refuses, and what it says at its start.

Nothing is public by itself. Whatever opens the bridge to more people is a setting of its own, and refusals name it.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTHENTICATION = "jwt_secret, jwt_public_key, jwt_jwks_url or static_tokens"
_ELSE = "; on this machine only, use --host 127.0.0.1; for anything less, --insecure-bind says that it is meant"


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the settings say of it."""

    host: str
    is_loopback: bool
    insecure_public: bool = False
    insecure_bind: bool = False
    authenticates: bool = False
    """Whether there is a key or a token by which a client could be known."""

    wants_tokens: bool = False
    """Whether nobody gets anywhere without one: the auth_mode is not `public`."""

    names_roles: bool = False
    """Whether there is a role that a token may name: in `roles`, or in a rule."""

    anon_role: bool = False
    tls_certificate: bool = False
    tls_key: bool = False
    behind_proxy: bool = False


def refusal(exposure: Exposure) -> str | None:
    """Why the bridge does not serve like this, or None."""
    if exposure.tls_certificate != exposure.tls_key:
        given, missing = ("tls_certificate", "tls_key") if exposure.tls_certificate else ("tls_key", "tls_certificate")
        return f"{given} is set without {missing}: TLS needs both, as paths of PEM files"
    if exposure.is_loopback or exposure.insecure_bind:
        return None
    reachable = f"{exposure.host} can be reached from other machines"
    if exposure.insecure_public:
        return f"{reachable}, and with --insecure-public everybody there could read every attached table{_ELSE}"
    if not exposure.authenticates:
        return f"{reachable}, and nothing says who its clients are: set {AUTHENTICATION}{_ELSE}"
    if not (exposure.tls_certificate or exposure.behind_proxy):
        return (
            f"{reachable}, and tokens and rows would be readable on the way: set tls_certificate and tls_key, or"
            f" behind_proxy where a proxy in front does TLS{_ELSE}"
        )
    return None


def warnings(exposure: Exposure) -> list[str]:
    """What whoever starts the bridge should know."""
    return [sentence for sentence in (_of_readers(exposure), _of_the_way(exposure)) if sentence]


def _of_readers(exposure: Exposure) -> str | None:
    if exposure.wants_tokens and not exposure.authenticates:
        return f"nobody is let in: auth_mode wants a token, and nothing says which are good. Set {AUTHENTICATION}"
    if exposure.insecure_public:
        return _of_the_public(exposure)
    if exposure.anon_role or (exposure.authenticates and exposure.names_roles):
        return None
    if exposure.authenticates:
        return (
            "no token is good yet, since there is no role that one may name: set roles to those of the database, or"
            " rules; anon_role is for tokens that name none"
        )
    roles = "" if exposure.names_roles else "roles, or rules, and "
    return (
        f"nobody may read anything yet, so every client gets FORBIDDEN. To open it: set {roles}{AUTHENTICATION} for"
        " clients with a token; anon_role for those without one; or, on this machine, --insecure-public for everybody"
        " and every attached table"
    )


def _of_the_public(exposure: Exposure) -> str:
    if exposure.wants_tokens:
        return "insecure_public opens nothing: clients have to show a token, as long as auth_mode is not public"
    if exposure.anon_role:
        return "insecure_public opens nothing: whoever has no token has the rights of anon_role"
    return "serving without authentication: whoever can connect reads every attached table"


def _of_the_way(exposure: Exposure) -> str | None:
    if exposure.is_loopback or exposure.tls_certificate or exposure.behind_proxy:
        return None
    return "serving other machines without TLS: tokens and rows can be read on the way"
