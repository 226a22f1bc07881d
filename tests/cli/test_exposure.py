"""What serve refuses and what it warns of, as a table; and that the settings are what it goes by."""

from __future__ import annotations

import pytest

from cdc_bridge import settings as s
from cdc_bridge.cli.serve import refusal, refuse_unless_meant, warnings
from cdc_bridge.model.errors import UsageError

SECRET = "a secret that is long enough for HS256"

HERE = {"host": "127.0.0.1"}
OUTSIDE = {"host": "0.0.0.0"}
KEYS = {"jwt_secret": SECRET}
ROLES = {"roles": "web"}
ANON = {"anon_role": "anon"}
KNOWN = KEYS | ROLES
TLS = {"tls_certificate": "tls.crt", "tls_key": "tls.key"}
PROXY = {"behind_proxy": "true"}
PUBLIC = {"insecure_public": "true"}
ANYWAY = {"insecure_bind": "true"}

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
    (OUTSIDE, KNOWN | {"tls_certificate": "tls.crt"}, ("tls_certificate is set without tls_key",)),
    (HERE, {"tls_key": "tls.key"}, ("tls_key is set without tls_certificate",)),
    (OUTSIDE, ANYWAY | {"tls_key": "tls.key"}, ("tls_key is set without tls_certificate",)),
]

WARNED = [
    (HERE, {}, ("FORBIDDEN", "jwt_secret", "roles", "anon_role", "--insecure-public")),
    (HERE, ROLES, ("FORBIDDEN. To open it: set jwt_secret", "anon_role")),
    (HERE, KEYS, ("no token is good", "set roles", "rules", "anon_role")),
    (HERE, {"auth_mode": "strict"} | ROLES | ANON, ("nobody is let in", "auth_mode", "jwt_secret")),
    (HERE, PUBLIC, ("without authentication",)),
    (HERE, PUBLIC | KEYS, ("insecure_public opens nothing", "auth_mode")),
    (HERE, PUBLIC | ANON, ("insecure_public opens nothing", "anon_role")),
    (HERE, PUBLIC | KEYS | {"auth_mode": "public"}, ("without authentication",)),
    (OUTSIDE, ANYWAY | PUBLIC, ("without authentication", "without TLS")),
    (OUTSIDE, ANYWAY | KNOWN, ("without TLS",)),
    (OUTSIDE, KNOWN | TLS, ()),
    (OUTSIDE, KNOWN | PROXY, ()),
    (HERE, KNOWN, ()),
    (HERE, ANON, ()),
    (HERE, KEYS | ANON, ()),
]


@pytest.mark.parametrize(("where", "more"), SERVED)
def test_what_is_served(where: dict[str, str], more: dict[str, str]) -> None:
    assert refusal(s.load(where | more)) is None


@pytest.mark.parametrize(("where", "more", "words"), REFUSED)
def test_what_is_refused_and_which_settings_would_do(
    where: dict[str, str], more: dict[str, str], words: tuple[str, ...]
) -> None:
    reason = refusal(s.load(where | more))
    assert reason is not None
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(("where", "more", "words"), WARNED)
def test_what_is_warned_of(where: dict[str, str], more: dict[str, str], words: tuple[str, ...]) -> None:
    said = " ".join(warnings(s.load(where | more)))
    assert all(word in said for word in words), said
    assert bool(said) == bool(words)


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
    outside = given | {"host": "192.0.2.1"}
    assert "readable on the way" in (refusal(s.load(outside)) or "")
    assert refusal(s.load(outside | PROXY)) is None
    assert warnings(s.load(outside | PROXY)) == []


@pytest.mark.parametrize(("mode", "wants"), [("", True), ("handshake", True), ("strict", True), ("public", False)])
def test_token_is_wanted_as_auth_mode_says(mode: str, wants: bool) -> None:
    assert (s.load({"jwt_secret": SECRET, "auth_mode": mode}).mode != "public") is wants
    assert (s.load({"auth_mode": mode}).mode != "public") is (mode in ("handshake", "strict"))


def test_role_of_those_without_a_token_is_none() -> None:
    """It says what strangers may read, and not who somebody is."""
    with pytest.raises(UsageError, match="nothing says who its clients are"):
        refuse_unless_meant(s.load({"host": "0.0.0.0", "anon_role": "anon", "behind_proxy": "true"}))
