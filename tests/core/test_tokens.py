"""Tokens, good ones and forged ones of every known kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from cdc_bridge.access import keys
from cdc_bridge.access.auth_state import Identity
from cdc_bridge.access.authenticator import (
    TOKEN_CHARACTERS_MAX,
    Authenticator,
    Roles,
    StaticToken,
    StaticTokens,
    Verifier,
    mint,
    with_role,
)
from cdc_bridge.access.keys import PublishedKeys
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.security_context import SELF, Principal
from tests.support.issuer import jwk, pem, running_issuer

SECRET = "a secret that has thirty-two bytes"
RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()

ROLES = Roles(database=frozenset({"reader"}), anonymous="anon")


def authenticator(
    *found: keys.Key,
    roles: Roles = ROLES,
    static_tokens: Sequence[StaticToken] = (),
    published: PublishedKeys | None = None,
    **verifier: Any,
) -> Authenticator:
    return Authenticator(
        roles, Verifier(**verifier), found or (keys.shared(SECRET),), published, static_tokens=static_tokens
    )


async def identity(token: str, one: Authenticator | None = None) -> Identity:
    return await (one or authenticator()).identify(token)


async def refused(token: str, one: Authenticator | None = None) -> None:
    """With an error that says nothing of the reason."""
    with pytest.raises(RequestError) as refusal:
        await identity(token, one)
    assert (refusal.value.code, refusal.value.message) == ("AUTH_FAILED", "Authentication failed.")


def b64(data: bytes | str | dict[str, Any]) -> str:
    raw = json.dumps(data).encode() if isinstance(data, dict) else data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(body: str | bytes | dict[str, Any], secret: str | bytes = SECRET, **header: Any) -> str:
    """By HS256, whatever the header says."""
    secret = secret.encode() if isinstance(secret, str) else secret
    parts = f"{b64({'alg': 'HS256', 'typ': 'JWT'} | header)}.{b64(body)}"
    return f"{parts}.{b64(hmac.digest(secret, parts.encode(), 'sha256'))}"


def token(**more: Any) -> str:
    return mint(SECRET, {"role": "reader", "sub": "ann"} | more)


# --- good ones ---


async def test_shared_secret() -> None:
    got = await identity(mint(SECRET, {"role": "reader", "sub": "ann"}))
    assert got == Identity(Principal("reader", "reader", '{"role":"reader","sub":"ann"}'), None)


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [(RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA"), (ed448.Ed448PrivateKey.generate(), "EdDSA")],
)
async def test_public_key(private: Any, algorithm: str) -> None:
    one = authenticator(keys.public(pem(private)))
    good = jwt.encode({"role": "reader"}, private, algorithm=algorithm)
    assert (await identity(good, one)).principal.role == "reader"
    await refused(jwt.encode({"role": "reader"}, SECRET, algorithm="HS256"), one)


async def test_several_keys_at_hand() -> None:
    one = authenticator(keys.shared(SECRET), keys.public(pem(RSA)), keys.public(pem(P256)))
    for key, algorithm in ((SECRET, "HS256"), (RSA, "RS256"), (P256, "ES256")):
        assert await identity(jwt.encode({"role": "reader"}, key, algorithm=algorithm), one)


async def test_claims_are_kept_as_they_were_written() -> None:
    """With all their digits, in their order, with the spaces."""
    text = '{ "role":"reader", "n":12345678901234567890.10, "big":9007199254740993, "a":{"b":[1.50,null,"ä\\u00e4"]}}'
    assert (await identity(signed(text))).principal.claims == text


async def test_token_without_exp_never_expires() -> None:
    assert (await identity(token())).expires_at is None


async def test_expiry_has_the_leeway() -> None:
    exp = int(time.time()) + 60
    assert (await identity(token(exp=exp), authenticator(leeway_s=7))).expires_at == exp + 7
    assert (await identity(token(exp=exp + 0.75), authenticator(leeway_s=0))).expires_at == exp


@pytest.mark.parametrize("aud", ["us", ["them", "us"]])
async def test_audience_may_be_one_of_several(aud: Any) -> None:
    assert await identity(token(aud=aud), authenticator(audience="us"))


async def test_audience_and_issuer_are_not_looked_at_unless_asked_for() -> None:
    assert await identity(token(aud="anybody", iss="anybody", iat=int(time.time()) + 1000, sub=5, jti=5))


async def test_issuer() -> None:
    assert await identity(token(iss="https://issuer.example"), authenticator(issuer="https://issuer.example"))


async def test_published_key() -> None:
    with running_issuer(jwk(P256, "a"), jwk(RSA, "b")) as issuer:
        published = PublishedKeys(issuer.url)
        one = authenticator(published=published)
        keeping = asyncio.create_task(one.keep_fresh())
        for private, algorithm, kid in ((P256, "ES256", "a"), (RSA, "RS256", "b"), (P256, "ES256", None)):
            headers = {"kid": kid} if kid else {}
            assert await identity(jwt.encode(BODY, private, algorithm=algorithm, headers=headers), one)
        for private, algorithm, kid in ((P256, "ES256", "b"), (RSA, "RS256", "a"), (RSA, "RS256", "c")):
            await refused(jwt.encode(BODY, private, algorithm=algorithm, headers={"kid": kid}), one)
        assert issuer.asked == 1
        keeping.cancel()


# --- when ---


@pytest.mark.parametrize(
    ("exp", "is_good"),
    [(-4, True), (-6, False), (-1e9, False), (1e9, True)],
)
async def test_expiry_counts_with_the_leeway(exp: float, is_good: bool) -> None:
    made = token(exp=time.time() + exp)
    await (identity(made) if is_good else refused(made))


@pytest.mark.parametrize(("nbf", "is_good"), [(4, True), (8, False), (-1000, True), (1e9, False)])
async def test_token_is_good_from_nbf_on_with_the_leeway(nbf: float, is_good: bool) -> None:
    made = token(nbf=time.time() + nbf)
    await (identity(made) if is_good else refused(made))


@pytest.mark.parametrize("exp", ["1e18", "1" + "0" * 30, "1" + "0" * 4000, "1e999", "99999999999999999999.5"])
async def test_expiry_beyond_all_time_is_far_away(exp: str) -> None:
    expires_at = (await identity(signed('{"role":"reader","exp":%s}' % exp))).expires_at  # noqa: UP031 - braces
    assert expires_at == 1e12 + 5


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize(
    "value",
    ["null", "true", '"1900000000"', "[]", "{}", "NaN", "Infinity", "-Infinity", "1e99999999999999999999", "1e5000"],
)
async def test_time_that_is_no_number_is_refused(name: str, value: str) -> None:
    await refused(signed(f'{{"role":"reader","{name}":{value}}}'))


@pytest.mark.parametrize("exp", ["-1", "0", "-1e999", "1e-999", "-" + "1" * 3000])
async def test_expiry_long_ago_is_long_ago(exp: str) -> None:
    await refused(signed(f'{{"role":"reader","exp":{exp}}}'))


# --- for whom ---


@pytest.mark.parametrize("aud", [None, "them", ["them"], [], "", 5, ["us", 5], {"us": 1}, "us "])
async def test_token_for_others_is_refused(aud: Any) -> None:
    await refused(token(aud=aud), authenticator(audience="us"))


async def test_token_without_audience_is_refused_where_one_is_asked_for() -> None:
    await refused(token(), authenticator(audience="us"))


@pytest.mark.parametrize("iss", ["https://evil.example", "", "https://issuer.example/", "HTTPS://ISSUER.EXAMPLE"])
async def test_token_of_another_issuer_is_refused(iss: str) -> None:
    await refused(token(iss=iss), authenticator(issuer="https://issuer.example"))
    await refused(token(), authenticator(issuer="https://issuer.example"))


@pytest.mark.parametrize("iss", ["5", "null", '["https://issuer.example"]'])
async def test_issuer_that_is_no_text_is_refused(iss: str) -> None:
    await refused(signed(f'{{"role":"reader","iss":{iss}}}'), authenticator(issuer="https://issuer.example"))


# --- forged ones ---

BODY = {"role": "reader", "sub": "ann"}


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", " none", "none ", None, 5, [], ["none"], {}, True])
@pytest.mark.parametrize("signature", ["", "AA", "none"])
async def test_token_without_a_signature_is_refused(alg: Any, signature: str) -> None:
    await refused(f"{b64({'alg': alg, 'typ': 'JWT'})}.{b64(BODY)}.{signature}")
    await refused(f"{b64({'alg': alg, 'typ': 'JWT'})}.{b64(BODY)}")


async def test_token_that_names_no_algorithm_is_refused() -> None:
    await refused(f"{b64({'typ': 'JWT'})}.{b64(BODY)}.")
    parts = f"{b64({'typ': 'JWT'})}.{b64(BODY)}"
    await refused(f"{parts}.{b64(hmac.digest(SECRET.encode(), parts.encode(), 'sha256'))}")


@pytest.mark.parametrize("private", [RSA, P256, ED25519])
async def test_public_key_is_no_shared_secret(private: Any) -> None:
    """The classical confusion: HS256 with the public key, which everybody has, as its secret."""
    public = pem(private)
    one = authenticator(keys.public(public))
    for secret in (public, public.strip(), public + "\n", public.replace("\n", "")):
        await refused(signed(BODY, secret), one)
        for alg in ("RS256", "ES256", "EdDSA", "HS384"):
            await refused(signed(BODY, secret, alg=alg), one)


@pytest.mark.parametrize(
    "alg", ["HS384", "HS512", "RS256", "RS512", "PS256", "ES256", "ES384", "ES256K", "hs256", "HS256 "]
)
async def test_algorithm_is_the_key_s_and_not_the_token_s(alg: str) -> None:
    await refused(signed(BODY, alg=alg))


async def test_other_hash_with_the_same_secret_is_refused() -> None:
    await refused(jwt.encode(BODY, SECRET * 2, algorithm="HS512"), authenticator(keys.shared(SECRET * 2)))


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (RSA, "RS512"),
        (RSA, "PS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP256K1()), "ES256K"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
async def test_keys_of_others_are_refused(private: Any, algorithm: str) -> None:
    ours = authenticator(keys.public(pem(RSA)), keys.public(pem(P256)), keys.public(pem(ED25519)))
    await refused(jwt.encode(BODY, private, algorithm=algorithm), ours)


async def test_signature_on_another_curve_is_refused() -> None:
    """Made with P-384 and SHA-256, and called ES256."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    parts = f"{b64({'alg': 'ES256'})}.{b64(BODY)}"
    r, s = decode_dss_signature(ec.generate_private_key(ec.SECP384R1()).sign(parts.encode(), ec.ECDSA(SHA256())))
    for size in (32, 48):
        numbers = b"".join((n % 2 ** (8 * size)).to_bytes(size) for n in (r, s))
        await refused(f"{parts}.{b64(numbers)}", authenticator(keys.public(pem(P256))))


@pytest.mark.parametrize("size", [0, 1, 64, 63, 65, 96])
async def test_psychic_signature_is_refused(size: int) -> None:
    """Zeros, which some libraries took for a signature of anything."""
    parts = f"{b64({'alg': 'ES256'})}.{b64(BODY)}"
    await refused(f"{parts}.{b64(bytes(size))}", authenticator(keys.public(pem(P256))))


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "' UNION SELECT 'sekret' --",
        "a\x00b",
        "| whoami",
        "",
        "x" * 10_000,
    ],
)
async def test_kid_is_a_name_and_nothing_else(kid: str) -> None:
    for secret in ("", "\x00", "sekret", "0", "2"):
        await refused(signed(BODY, secret or b"", kid=kid))
    assert await identity(signed(BODY, kid=kid))


@pytest.mark.parametrize("kid", [5, None, [], {"a": 1}, True])
async def test_kid_is_a_text(kid: Any) -> None:
    await refused(signed(BODY, kid=kid))


@pytest.mark.parametrize("private", [RSA, P256])
async def test_key_that_a_token_brings_along_is_not_used(private: Any) -> None:
    theirs: Any = rsa.generate_private_key(65537, 2048) if private is RSA else ec.generate_private_key(ec.SECP256R1())
    algorithm = "RS256" if private is RSA else "ES256"
    for header in (
        {"jwk": jwk(theirs, "a")},
        {"jwk": jwk(theirs, "a"), "kid": "a"},
        {"jku": "http://127.0.0.1:1/keys", "kid": "a"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"x5c": ["MIIB"]},
    ):
        await refused(
            jwt.encode(BODY, theirs, algorithm=algorithm, headers=header), authenticator(keys.public(pem(private)))
        )


@pytest.mark.parametrize("crit", [["b64"], ["exp"], ["x"], [], None, "b64", 5, {}])
async def test_extension_that_is_critical_is_refused(crit: Any) -> None:
    await refused(signed(BODY, crit=crit))
    await refused(signed(BODY, crit=crit, b64=False))
    await refused(signed(BODY, crit=crit, x=1))


async def test_payload_that_is_not_encoded_is_refused() -> None:
    await refused(signed(BODY, b64=False))


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_altered_part_is_refused(part: int) -> None:
    parts = token().split(".")
    for altered in (
        parts[part][:-2],
        "",
        parts[part] + "AAAA",
        parts[part][::-1],
        parts[part] + "=",
        "!" + parts[part],
    ):
        await refused(".".join([*parts[:part], altered, *parts[part + 1 :]]))


async def test_other_claims_under_the_same_signature_are_refused() -> None:
    header, _, signature = token().split(".")
    await refused(f"{header}.{b64({'role': 'admin', 'sub': 'ann'})}.{signature}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "..",
        "...",
        "a.b.c",
        "x",
        "null",
        "\x00",
        "ä.ö.ü",
        "\ud800.\ud800.\ud800",
        "🂡" * 100,
        "Bearer " + "x.y.z",
        "eyJhbGciOiJIUzI1NiJ9..",
        '{"payload":"","signatures":[]}',
    ],
)
async def test_what_is_no_token_is_refused(text: str) -> None:
    await refused(text)


async def test_encrypted_token_is_refused() -> None:
    await refused(".".join([b64({"alg": "dir", "enc": "A256GCM"}), "", "AA", "AA", "AA"]))


async def test_space_around_a_token_is_not_part_of_it() -> None:
    for text in (" " + token(), token() + " ", token() + "\n", "Bearer " + token()):
        await refused(text)


async def test_huge_token_is_refused_unread() -> None:
    await refused("x." * TOKEN_CHARACTERS_MAX)
    await refused(token(more="x" * TOKEN_CHARACTERS_MAX))
    await refused(signed("[" * 9000 + "]" * 9000))
    await refused(f"{b64('[' * 5000)}.{b64(BODY)}.AA")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"reader"',
        b"{",
        b'{"role":"reader"}x',
        b'{"role":"reader",}',
        b"{'role':'reader'}",
        b'{"role":"reader","x":NaN}',
        b'{"role":"reader","x":\xff"}',
        b'{"role":"reader","x":"\xff"}',
        b'\xef\xbb\xbf{"role":"reader"}',
        '{"role":"reader"}'.encode("utf-16"),
        b'{"role":"reader","x":"\\ud800"}',
        b'{"role":"reader","x":"\\u0000"}',
        b'{"role":"reader","\\u0000":1}',
        b'{"role":"reader","x":"\\\\\\u0000"}',
        b'{"role":"reader","x":1e100000}',
        b'{"role":"reader","x":1e-100000}',
        b'{"role":"reader","x":0e99999999999999999999}',
    ],
)
async def test_claims_that_postgresql_cannot_read_are_refused(body: bytes) -> None:
    await refused(signed(body))


async def test_text_that_only_looks_like_nul_is_one() -> None:
    assert await identity(signed('{"role":"reader","x":"\\\\u0000"}'))


@pytest.mark.parametrize(
    "body",
    [
        '{"role":"reader","role":"admin"}',
        '{"role":"reader","role":"reader"}',
        '{"exp":1,"role":"reader","exp":9999999999}',
        '{"role":"reader","r\\u006fle":"admin"}',
        '{"role":"reader","app_metadata":{"org":1,"org":2}}',
        '{"role":"reader","a":[{"b":{"c":1,"c":1}}]}',
    ],
)
async def test_claims_that_say_something_twice_are_refused(body: str) -> None:
    await refused(signed(body))


@given(st.text(max_size=200))
async def test_no_text_is_a_token(text: str) -> None:
    await refused(text)


@given(st.binary(max_size=300))
async def test_nothing_that_is_well_signed_raises_anything_else(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        await identity(signed(body))


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "crit", "b64", "typ", "cty", "zip", "jku", "jwk", "x5u", "x5c"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.text(max_size=20)
            | st.sampled_from(["HS256", "RS256", "b64"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
async def test_nothing_that_a_header_says_raises_anything_else(header: dict[str, Any]) -> None:
    for ours in (keys.shared(SECRET), keys.public(pem(RSA))):
        with contextlib.suppress(RequestError):
            await identity(signed(BODY, **header), authenticator(ours))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        st.one_of(
            st.integers(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.booleans()
        ),
    )
)
async def test_whatever_an_issuer_says_is_kept(said: dict[str, Any]) -> None:
    said = {name: value for name, value in said.items() if name not in ("exp", "nbf", "role")}
    got = await identity(token(**said))
    assert json.loads(got.principal.claims) == {"role": "reader", "sub": "ann"} | said


# --- roles ---


@pytest.mark.parametrize("role", ["admin", "READER", "reader ", "", None, 5, ["reader"], {"reader": 1}, True])
async def test_role_that_tokens_may_not_name_is_refused(role: Any) -> None:
    await refused(token(role=role))


async def test_token_that_names_no_role_is_anonymous_and_somebody() -> None:
    """Its claims say so, as in PostgREST."""
    got = await identity(mint(SECRET, {"sub": "ann"}))
    assert got.principal == Principal("anon", "anon", '{"sub":"ann","role":"anon"}')
    assert (await identity(signed(" { } "))).principal == Principal("anon", "anon", '{"role":"anon"}')


async def test_token_that_names_no_role_is_refused_where_there_is_none() -> None:
    for roles in (Roles(frozenset({"reader"})), Roles(frozenset({"reader"}), public=True)):
        await refused(mint(SECRET, {"sub": "ann"}), authenticator(roles=roles))


async def test_token_may_name_the_anonymous_role() -> None:
    assert (await identity(token(role="anon"))).principal.role == "anon"


@pytest.mark.parametrize(
    ("database", "anonymous", "name", "role"),
    [
        ({"guest"}, "", "guest", "guest"),  # a role of the database that rules know as well
        ((), "", "guest", None),  # one of the rules alone
        ((), "guest", "guest", None),
        ({"guest"}, "guest", "guest", "guest"),
        ((), "anon", "anon", "anon"),
    ],
)
def test_role_of_the_database_or_of_the_rules(
    database: Sequence[str], anonymous: str, name: str, role: str | None
) -> None:
    roles = Roles(frozenset(database), anonymous, is_ruled=lambda each: each == "guest")
    assert roles.principal(name, "{}") == Principal(name, role, "{}")


def test_who_has_no_token() -> None:
    assert Roles(anonymous="anon").nobody() == Principal("anon", "anon", '{"role":"anon"}')
    assert Roles(anonymous="guest", is_ruled=lambda _: True).nobody() == Principal("guest", None, '{"role":"guest"}')
    assert Roles(anonymous="anon", public=True).nobody() == Principal("anon", "anon", '{"role":"anon"}')
    assert Roles(public=True).nobody() is SELF
    assert Roles().nobody() is None


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
def test_role_is_added_to_claims_that_have_none(role: str, said: dict[str, str]) -> None:
    said.pop("role", None)
    for indent in (None, 2):
        text = json.dumps(said, indent=indent)
        assert json.loads(with_role(text, role)) == said | {"role": role}


# --- static tokens ---


def static(text: str, role: str = "reader", **said: Any) -> StaticToken:
    return StaticToken(hashlib.sha256(text.encode()).hexdigest().upper(), role, said)


async def test_static_token() -> None:
    one = authenticator(static_tokens=[static("first", sub="x", n=1.5), static("second", "")])
    assert await identity("first", one) == Identity(
        Principal("reader", "reader", '{"sub":"x","n":1.5,"role":"reader"}')
    )
    assert (await identity("second", one)).principal == Principal("anon", "anon", '{"role":"anon"}')
    assert await identity(token(), one)


async def test_static_token_that_is_taken_away_is_revoked_for_those_who_are_here() -> None:
    """As it is when it says something else from now on."""
    for others in ([], [static("first", "anon")], [static("second")]):
        one = authenticator(static_tokens=[static("first"), static("second")])
        first = (await identity("first", one)).is_revoked
        assert first is not None
        assert not first()
        one.take([static("second"), static("first")])
        assert not first()
        one.take(others)
        assert first()


async def test_static_token_has_to_be_exact() -> None:
    one = authenticator(static_tokens=[static("first")])
    for text in ("firs", "first ", "First", "", hashlib.sha256(b"first").hexdigest(), "\ud800"):
        await refused(text, one)


async def test_static_token_may_not_name_any_role_either() -> None:
    await refused("first", authenticator(static_tokens=[static("first", "admin")]))


def test_all_static_tokens_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """So time says nothing of which one, nor of how much of it."""
    compared: list[bytes] = []

    def counted(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return known == given

    monkeypatch.setattr(hmac, "compare_digest", counted)
    tokens = StaticTokens([static("first"), static("second"), static("third")])
    for text in ("first", "third", "nothing"):
        compared.clear()
        tokens.find(text)
        assert len(compared) == 3


# --- silence ---


async def test_token_is_in_no_log_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = authenticator(static_tokens=[static("first", "admin")], audience="us")
    forged = [
        token(aud="them"),
        token(exp=1),
        signed({"role": "sekret"}),
        signed(BODY, crit=["sekret"]),
        signed(BODY, alg="sekret"),
        signed(BODY, kid=["sekret"]),
        "sekret.sekret.sekret",
        "first",
    ]
    for text in forged:
        with pytest.raises(RequestError) as refusal:
            await identity(text, one)
        assert refusal.value.__cause__ is None
        assert refusal.value.__suppress_context__
        said = f"{refusal.value!r} {[record.__dict__ for record in caplog.records]}"
        assert "sekret" not in said
        assert all(part not in said for part in text.split(".") if len(part) > 5)
    assert len(caplog.records) == len(forged)
