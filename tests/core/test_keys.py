"""Keys: from PEM, from sets that issuers publish, and following an issuer that rotates, hangs, or talks nonsense."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from cdc_bridge.access import keys
from cdc_bridge.access.keys import PublishedKeys, fetch
from cdc_bridge.model.errors import SettingsError
from tests.support.issuer import Issuer, jwk, jwks, pem, running_issuer

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
ED448 = ed448.Ed448PrivateKey.generate()


def private_pem(private: Any) -> str:
    form, cipher = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, form, cipher).decode()


# --- PEM ---


@pytest.mark.parametrize(
    ("private", "algorithm"), [(RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA"), (ED448, "EdDSA")]
)
def test_public_key_decides_on_its_algorithm(private: Any, algorithm: str) -> None:
    assert keys.public(pem(private)).algorithm == algorithm


def test_public_key_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem(P256))
    assert keys.public(str(tmp_path / "key.pem")).algorithm == "ES256"


def test_public_key_may_stand_in_one_line() -> None:
    """Where a variable can have no more than one."""
    assert keys.public(pem(RSA).replace("\n", "\\n")).algorithm == "RS256"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (private_pem(P256), "is a private key"),
        ("-----BEGIN PUBLIC KEY-----\nsekret\n-----END PUBLIC KEY-----", "neither a public key in PEM form"),
        ("/nowhere/sekret.pem", "neither PEM text nor the name of a readable file"),
        ("sekret\0", "neither PEM text nor the name of a readable file"),
        (pem(rsa.generate_private_key(65537, 1024)), "2048 bits or more"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
    ],
)
def test_what_is_no_key_of_ours_is_refused_and_not_shown(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        keys.public(text)
    assert reason in str(refusal.value)
    assert "sekret" not in str(refusal.value)


def test_secret_is_in_no_repr() -> None:
    assert "sekret" not in repr(keys.shared("sekret" * 8))


# --- sets ---


def test_set_has_keys_of_each_kind() -> None:
    found = keys.published(jwks(jwk(RSA, "r"), jwk(P256, "p"), jwk(ED25519, "e"), jwk(ED448)))
    assert [(key.algorithm, key.kid) for key in found] == [
        ("RS256", "r"),
        ("ES256", "p"),
        ("EdDSA", "e"),
        ("EdDSA", None),
    ]


@pytest.mark.parametrize(
    "unusable",
    [
        {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "kid": "a"},
        {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "kid": "a", "alg": "RS256"},
        jwk(RSA, "a", use="enc"),
        jwk(RSA, "a", key_ops=["encrypt"]),
        jwk(RSA, "a", key_ops="verify"),
        jwk(RSA, "a", alg="RS512"),
        jwk(RSA, "a", alg="HS256"),
        jwk(RSA, "a", alg="none"),
        jwk(RSA, "a", alg=None),
        jwk(P256, "a", alg="RS256"),
        jwk(RSA) | {"kid": 5},
        jwk(RSA) | {"kid": ["a"]},
        jwk(RSA) | {"n": "!"},
        jwk(RSA) | {"n": 5},
        jwk(RSA) | {"n": "AQAB"},
        jwk(P256) | {"x": "AAAA"},
        jwk(P256) | {"crv": "P-384"},
        jwk(ED25519) | {"crv": "X25519"},
        jwk(ec.generate_private_key(ec.SECP384R1()), "a"),
        {"kty": "RSA"},
        {"kty": "EC", "crv": "P-256"},
        {"kty": ["RSA"]},
        {},
        5,
        None,
        [],
    ],
)
def test_key_that_cannot_be_used_does_others_no_harm(unusable: Any) -> None:
    assert [key.kid for key in keys.published(jwks(unusable, jwk(P256, "good")))] == ["good"]


def test_private_key_in_a_set_is_not_used() -> None:
    given = json.loads(RSAAlgorithm.to_jwk(RSA)) | {"kid": "a", "key_ops": ["sign", "verify"]}
    assert keys.published(jwks(given)) == ()


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b"{}", b'{"keys":{}}', b'"keys"', b"\xff", b"[" * 100_000])
def test_what_is_no_set_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        keys.published(text)


MEMBERS = (
    "kty",
    "crv",
    "kid",
    "use",
    "alg",
    "key_ops",
    "n",
    "e",
    "x",
    "y",
    "d",
    "k",
    "p",
    "q",
    "dp",
    "dq",
    "qi",
    "oth",
)
VALUES = st.sampled_from(
    ["RSA", "EC", "OKP", "oct", "P-256", "P-384", "Ed25519", "Ed448", "X25519", "sig", "verify", "RS256", "AQAB", "AA"]
) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([jwk(RSA, "a"), jwk(P256, "a"), jwk(ED25519, "a"), jwk(ED448, "a"), {}]),
    st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=4),
)
def test_whatever_an_issuer_publishes_is_a_key_or_none(given_key: dict[str, Any], others: dict[str, Any]) -> None:
    """What follows it runs as long as the bridge does: nothing may end it."""
    for key in keys.published(jwks(given_key | others)):
        assert key.algorithm in ("RS256", "ES256", "EdDSA")
        assert isinstance(key.kid, str | None)


@given(st.binary(max_size=50) | st.text(max_size=50).map(str.encode))
def test_whatever_is_no_set_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        keys.published(text)


# --- an issuer ---


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer(jwk(P256, "first")) as one:
        yield one


@contextlib.asynccontextmanager
async def following(issuer: Issuer, **options: Any) -> AsyncIterator[PublishedKeys]:
    published = PublishedKeys(issuer.url, **{"within_s": 0.2, "pause_s": 0.0} | options)
    keeping = asyncio.create_task(published.keep_fresh())
    try:
        yield published
    finally:
        issuer.let_go.set()
        keeping.cancel()
        await asyncio.wait([keeping])
    assert keeping.cancelled()


async def kids(published: PublishedKeys, *names: str) -> list[str]:
    """Those of them that are known, or become known by asking."""
    return [name for name in names if await published.named("ES256", name)]


async def test_keys_are_known_from_the_start(issuer: Issuer) -> None:
    async with following(issuer) as published:
        assert await kids(published, "first") == ["first"]
        assert await published.named("ES256", None)
        assert issuer.asked == 1


async def test_key_is_for_its_algorithm_only(issuer: Issuer) -> None:
    async with following(issuer) as published:
        assert not await published.named("RS256", "first")
        assert not await published.named("HS256", "first")


async def test_new_key_is_found_when_a_token_names_it(issuer: Issuer) -> None:
    async with following(issuer) as published:
        assert await kids(published, "first") == ["first"]
        issuer.answer = lambda _: jwks(jwk(P256, "first"), jwk(P256, "second"))
        assert await kids(published, "second", "first") == ["second", "first"]
        assert issuer.asked == 2


async def test_withdrawn_key_is_gone_with_the_next_set(issuer: Issuer) -> None:
    async with following(issuer) as published:
        assert await kids(published, "first") == ["first"]
        issuer.answer = lambda _: jwks(jwk(P256, "second"))
        assert await kids(published, "second") == ["second"]
        assert await kids(published, "first") == []


async def test_keys_are_read_again_though_nobody_asks(issuer: Issuer) -> None:
    async with following(issuer, refresh_s=0.01) as published:
        assert await kids(published, "first") == ["first"]
        issuer.answer = lambda _: jwks(jwk(P256, "second"))
        async with asyncio.timeout(5):
            while published._known("ES256", "first"):  # noqa: ASYNC110 - nothing but looking tells
                await asyncio.sleep(0.01)


async def test_unknown_names_do_not_bother_the_issuer(issuer: Issuer) -> None:
    async with following(issuer, pause_s=60) as published:
        assert await kids(published, "first") == ["first"]
        assert await kids(published, *(f"invented {n}" for n in range(50))) == []
        assert issuer.asked == 1


async def test_all_who_ask_at_once_share_one_answer(issuer: Issuer) -> None:
    async with following(issuer, within_s=2) as published:
        assert await kids(published, "first") == ["first"]
        asked = issuer.asked
        asking = threading.Event()

        def slow(_: BaseHTTPRequestHandler) -> bytes:
            asking.set()
            issuer.let_go.wait(5)
            return jwks(jwk(P256, "second"))

        issuer.answer = slow
        waiting = [asyncio.create_task(kids(published, "second")) for _ in range(20)]
        await asyncio.to_thread(asking.wait)
        issuer.let_go.set()
        assert await asyncio.gather(*waiting) == [["second"]] * 20
        assert issuer.asked == asked + 1


def _garbage(_: object) -> bytes:
    return b"<html>we are moving</html>"


def _too_much(_: object) -> bytes:
    return b" " * (300 * 1024) + jwks(jwk(P256, "second"))


def _empty_answer(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(204)
    handler.end_headers()


def _elsewhere(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/keys")
    handler.end_headers()


def _cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"keys"')


def _no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\x01\x02\r\n\r\n")


BROKEN = [Issuer.fails, Issuer.hangs, _garbage, _too_much, _empty_answer, _elsewhere, _cut, _no_http]


@pytest.mark.parametrize("broken", BROKEN)
async def test_issuer_that_is_down_locks_nobody_out_and_lets_nobody_in(issuer: Issuer, broken: Any) -> None:
    async with following(issuer) as published:
        assert await kids(published, "first") == ["first"]
        issuer.answer = (lambda handler: broken(issuer, handler)) if hasattr(Issuer, broken.__name__) else broken
        async with asyncio.timeout(5):
            assert await kids(published, "second") == []
            assert await kids(published, "first") == ["first"]


async def test_issuer_that_hangs_makes_nobody_wait_whose_key_is_known(issuer: Issuer) -> None:
    async with following(issuer, within_s=30) as published:
        assert await kids(published, "first") == ["first"]
        issuer.answer = issuer.hangs
        waiting = asyncio.create_task(kids(published, "second"))
        async with asyncio.timeout(1):
            assert await kids(published, "first") == ["first"]
        assert not waiting.done()
        waiting.cancel()


async def test_issuer_may_come_up_after_us(issuer: Issuer) -> None:
    good, issuer.answer = issuer.answer, issuer.fails
    async with following(issuer) as published:
        assert await kids(published, "first") == []
        issuer.answer = good
        assert await kids(published, "first") == ["first"]


async def test_issuer_that_is_not_there_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        port = gone.server_address[1]
    published = PublishedKeys(f"http://127.0.0.1:{port}/?key=sekret", pause_s=0)
    keeping = asyncio.create_task(published.keep_fresh())
    for name in ("a", "b", "c"):
        assert await kids(published, name) == []
    keeping.cancel()
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].__dict__["facts"]["reason"] == "Connection refused"
    assert "sekret" not in str([record.__dict__ for record in caplog.records])


def test_document_that_drips_is_given_up(issuer: Issuer) -> None:
    """Each piece comes in time, and there is no end."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not issuer.let_go.wait(0.01):
                handler.wfile.write(b" ")

    issuer.answer = drip
    with pytest.raises(TimeoutError):
        fetch(issuer.url, 0.1, 10_000_000)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_only_http_is_read(url: str) -> None:
    with pytest.raises((OSError, ValueError)):
        fetch(url, 1, 1000)
