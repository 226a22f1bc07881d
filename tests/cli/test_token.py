"""`cdc-bridge token`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from typer.testing import CliRunner

from cdc_bridge.cli.app import app
from cdc_bridge.model.errors import BridgeError, SettingsError, UsageError
from tests.cli.command import assert_one_sentence, run

SECRET = "a secret that has thirty-two bytes"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDC_BRIDGE_JWT_SECRET", SECRET)


def made(*arguments: str) -> dict[str, Any]:
    """The claims of the one line that it prints."""
    done = CliRunner().invoke(app, ["token", *arguments], catch_exceptions=False)
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    return jwt.decode(line, SECRET, algorithms=["HS256"], options={"verify_aud": False})


def refused(*arguments: str) -> BridgeError:
    with pytest.raises(BridgeError) as refusal:
        CliRunner().invoke(app, ["token", "--role", "reader", *arguments], catch_exceptions=False)
    return refusal.value


def test_token_is_good_for_an_hour() -> None:
    claims = made("--role", "reader", "--sub", "ann")
    assert claims.keys() == {"role", "sub", "iat", "exp"}
    assert (claims["role"], claims["sub"], claims["exp"] - claims["iat"]) == ("reader", "ann", 3600)
    assert abs(claims["iat"] - time.time()) < 60


@pytest.mark.parametrize(("span", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)])
def test_token_is_good_for_as_long_as_one_says(span: str, seconds: int) -> None:
    claims = made("--role", "reader", "--expires-in", span)
    assert claims["exp"] - claims["iat"] == seconds


def test_claims_are_json_or_text() -> None:
    said = ["org=7", 'groups=["a","b"]', "name=Ann=A", "text=NaN", "nothing=null", "big=9007199254740993", "empty="]
    claims = made("--role", "reader", *(part for each in said for part in ("--claim", each)))
    assert {name: claims[name] for name in claims.keys() - {"role", "iat", "exp"}} == {
        "org": 7,
        "groups": ["a", "b"],
        "name": "Ann=A",
        "text": "NaN",
        "nothing": None,
        "big": 9007199254740993,
        "empty": "",
    }


def test_audience_and_issuer_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_BRIDGE_JWT_AUDIENCE", "us")
    monkeypatch.setenv("CDC_BRIDGE_JWT_ISSUER", "ourselves")
    claims = made("--role", "reader")
    assert (claims["aud"], claims["iss"]) == ("us", "ourselves")


@pytest.mark.parametrize("span", ["", "1", "h", "-1h", "1 h", "1.5h", "1w", "9999999999d"])
def test_span_that_is_none_is_refused(span: str) -> None:
    error = refused("--expires-in", span)
    assert isinstance(error, UsageError)
    assert "such as 90s, 15m, 1h or 7d" in str(error)


@pytest.mark.parametrize("claim", ["org", "=7", "role=admin", "exp=1", "aud=x", "sub=x"])
def test_claim_that_cannot_be_is_refused(claim: str) -> None:
    assert isinstance(refused("--claim", claim), UsageError)


def test_without_a_secret_there_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDC_BRIDGE_JWT_SECRET")
    error = refused()
    assert isinstance(error, SettingsError)
    assert "CDC_BRIDGE_JWT_SECRET" in str(error)


def test_command_prints_the_token_and_nothing_else(tmp_path: Path) -> None:
    done = run("token", "--role", "reader", cwd=tmp_path, env={"CDC_BRIDGE_JWT_SECRET": SECRET})
    assert (done.returncode, done.stderr) == (0, "")
    assert jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"])["role"] == "reader"
    assert_one_sentence(run("token", "--role", "reader", cwd=tmp_path), 2)


@pytest.mark.parametrize("key", ["sekret", "-----BEGIN PRIVATE KEY-----sekret", "nosuch.pem"])
def test_bridge_refuses_a_key_that_is_none(key: str, tmp_path: Path) -> None:
    done = run("serve", "--port", "0", "--jwt-public-key", key, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("cdc-bridge: jwt_public_key is ")
    assert "sekret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_role_that_the_bridge_will_refuse_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_BRIDGE_ROLES", "reader")
    monkeypatch.setenv("CDC_BRIDGE_ANON_ROLE", "anon")
    monkeypatch.setenv("CDC_BRIDGE_RULES", '[{"role": "customer", "collection": "orders"}]')
    for known in ("reader", "anon", "customer"):
        assert made("--role", known)["role"] == known
    done = CliRunner().invoke(app, ["token", "--role", "raeder"], catch_exceptions=False)
    assert "raeder is not in roles, and no rule names it" in done.stderr
    assert len(done.stdout.splitlines()) == 1
