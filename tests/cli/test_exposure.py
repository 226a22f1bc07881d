"""What serve refuses and what it warns of, as a table; and that the settings are what it goes by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cdc_bridge import settings as s
from cdc_bridge.cli.exposure import Exposure, refusal, warnings
from cdc_bridge.cli.serve import exposure_of, refuse_unless_meant
from cdc_bridge.model.errors import UsageError

HERE = Exposure("127.0.0.1", is_loopback=True)
OUTSIDE = Exposure("0.0.0.0", is_loopback=False)
KEYS: dict[str, Any] = {"authenticates": True, "wants_tokens": True}
ROLES: dict[str, Any] = {"names_roles": True}
ANON: dict[str, Any] = {"anon_role": True}
KNOWN = KEYS | ROLES
TLS: dict[str, Any] = {"tls_certificate": True, "tls_key": True}
PROXY: dict[str, Any] = {"behind_proxy": True}
PUBLIC: dict[str, Any] = {"insecure_public": True}
ANYWAY: dict[str, Any] = {"insecure_bind": True}

SERVED = [
    (HERE, {}),
    (HERE, PUBLIC),
    (HERE, KNOWN),
    (HERE, KNOWN | TLS),
    (OUTSIDE, KNOWN | TLS),
    (OUTSIDE, KNOWN | PROXY),
    (OUTSIDE, KNOWN | TLS | PROXY),
    (OUTSIDE, ANYWAY),
    (OUTSIDE, ANYWAY | PUBLIC),
    (OUTSIDE, ANYWAY | KNOWN),
]

REFUSED = [
    (OUTSIDE, {}, ("0.0.0.0", "jwt_secret", "static_tokens", "--host 127.0.0.1", "--insecure-bind")),
    (OUTSIDE, TLS, ("nothing says who", "jwt_jwks_url")),
    (OUTSIDE, PROXY, ("nothing says who", "jwt_public_key")),
    (OUTSIDE, ROLES | ANON | TLS, ("nothing says who",)),
    (OUTSIDE, KNOWN, ("tls_certificate", "tls_key", "behind_proxy", "--insecure-bind")),
    (OUTSIDE, PUBLIC, ("--insecure-public", "every attached table", "--insecure-bind")),
    (OUTSIDE, PUBLIC | KNOWN | TLS, ("--insecure-public",)),
    (OUTSIDE, KNOWN | {"tls_certificate": True}, ("tls_certificate is set without tls_key",)),
    (HERE, {"tls_key": True}, ("tls_key is set without tls_certificate",)),
    (OUTSIDE, ANYWAY | {"tls_key": True}, ("tls_key is set without tls_certificate",)),
]

WARNED = [
    (HERE, {}, ("FORBIDDEN", "jwt_secret", "roles", "anon_role", "--insecure-public")),
    (HERE, ROLES, ("FORBIDDEN. To open it: set jwt_secret", "anon_role")),
    (HERE, KEYS, ("no token is good", "set roles", "rules", "anon_role")),
    (HERE, {"wants_tokens": True} | ROLES | ANON, ("nobody is let in", "auth_mode", "jwt_secret")),
    (HERE, PUBLIC, ("without authentication",)),
    (HERE, PUBLIC | KEYS, ("insecure_public opens nothing", "auth_mode")),
    (HERE, PUBLIC | ANON, ("insecure_public opens nothing", "anon_role")),
    (HERE, PUBLIC | KEYS | {"wants_tokens": False}, ("without authentication",)),
    (OUTSIDE, ANYWAY | PUBLIC, ("without authentication", "without TLS")),
    (OUTSIDE, ANYWAY | KNOWN, ("without TLS",)),
    (OUTSIDE, KNOWN | TLS, ()),
    (OUTSIDE, KNOWN | PROXY, ()),
    (HERE, KNOWN, ()),
    (HERE, ANON, ()),
    (HERE, KEYS | ANON, ()),
]


@pytest.mark.parametrize(("where", "more"), SERVED)
def test_what_is_served(where: Exposure, more: dict[str, Any]) -> None:
    assert refusal(replace(where, **more)) is None


@pytest.mark.parametrize(("where", "more", "words"), REFUSED)
def test_what_is_refused_and_which_settings_would_do(
    where: Exposure, more: dict[str, Any], words: tuple[str, ...]
) -> None:
    reason = refusal(replace(where, **more))
    assert reason is not None
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(("where", "more", "words"), WARNED)
def test_what_is_warned_of(where: Exposure, more: dict[str, Any], words: tuple[str, ...]) -> None:
    said = " ".join(warnings(replace(where, **more)))
    assert all(word in said for word in words), said
    assert bool(said) == bool(words)


SECRET = "a secret that is long enough for HS256"


@pytest.mark.parametrize(
    "given",
    [
        {"jwt_secret": SECRET, "roles": "web"},
        {"jwt_jwks_url": "https://issuer.example/keys", "roles": "web"},
        {"jwt_secret": SECRET, "rules": '[{"role": "web", "collection": "notes"}]'},
        {"static_tokens": f'[{{"sha256": "{"0" * 64}", "role": "web"}}]', "roles": "web"},
    ],
)
def test_key_or_a_token_is_authentication(given: dict[str, str]) -> None:
    assert exposure_of(s.load(given | {"host": "192.0.2.1"})) == Exposure("192.0.2.1", is_loopback=False, **KNOWN)


@pytest.mark.parametrize(("mode", "wants"), [("", True), ("handshake", True), ("strict", True), ("public", False)])
def test_token_is_wanted_as_auth_mode_says(mode: str, wants: bool) -> None:
    assert exposure_of(s.load({"jwt_secret": SECRET, "auth_mode": mode})).wants_tokens is wants
    assert exposure_of(s.load({"auth_mode": mode})).wants_tokens is (mode in ("handshake", "strict"))


def test_role_of_those_without_a_token_is_none() -> None:
    """It says what strangers may read, and not who somebody is."""
    with pytest.raises(UsageError, match="nothing says who its clients are"):
        refuse_unless_meant(s.load({"host": "0.0.0.0", "anon_role": "anon", "behind_proxy": "true"}))


def test_settings_of_tls_and_of_the_insecure_words_are_taken_as_they_are() -> None:
    given: dict[str, Any] = {"insecure_public": True, "insecure_bind": True, "behind_proxy": True}
    paths = {"tls_certificate": "tls.crt", "tls_key": "tls.key"}
    assert exposure_of(s.load(given | paths)) == replace(HERE, **PUBLIC | ANYWAY | PROXY | TLS)
