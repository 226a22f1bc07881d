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

    lets_roles_in: bool = False
    """Whether some role, be it that of clients without a token, may read anything."""

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
    if exposure.insecure_public:
        return "serving without authentication: whoever can connect reads every attached table"
    if not exposure.lets_roles_in:
        return (
            "nobody may read anything yet, so every client gets FORBIDDEN. To open it: set roles, or rules, and"
            f" {AUTHENTICATION} for clients with a token; anon_role for those without one; or, on this machine,"
            " --insecure-public for everybody and every attached table"
        )
    return None


def _of_the_way(exposure: Exposure) -> str | None:
    if exposure.is_loopback or exposure.tls_certificate or exposure.behind_proxy:
        return None
    return "serving other machines without TLS: tokens and rows can be read on the way"
