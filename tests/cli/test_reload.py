"""SIGHUP: what is read again takes effect, what is broken changes nothing, and what cannot be is named."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from cdc_bridge import settings as s
from cdc_bridge.access.rules import Rule
from cdc_bridge.cli.serve import revise
from cdc_bridge.model.errors import SettingsError, UsageError
from cdc_bridge.settings import Settings
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

NOWHERE = "host=127.0.0.1 port=1"


def toml(*tokens: str, fields: str = '"*"', more: str = "") -> str:
    """One rule, and static tokens that bear its role."""
    parts = [more, f'[[rules]]\nrole = "app"\ncollection = "notes"\nfields = {fields}\n']
    for each in tokens:
        parts.append(f'[[static_tokens]]\nsha256 = "{hashlib.sha256(each.encode()).hexdigest()}"\nrole = "app"\n')
    return "\n".join(parts)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bridge.toml"


def write(file: Path, text: str) -> None:
    file.write_text(text)


def revised(file: Path, now: str | None, flags: dict[str, Any] | None = None) -> Settings:
    """What holds when the file is as it is at first, and `now` is its text; None: it is gone."""
    before = s.load(flags or {}, file)
    file.unlink() if now is None else file.write_text(now)
    return revise(file, flags or {}, before)


async def test_rules_and_tokens_are_others_after_sighup(database: Database, file: Path) -> None:
    database.execute("CREATE TABLE notes (id int PRIMARY KEY, text text); INSERT INTO notes VALUES (1, 'one')")
    attach(database, "notes")
    write(file, toml("first", fields='["id"]'))
    async with BridgeProcess(database.dsn, "--config", str(file), "--auth-mode", "strict") as bridge:
        await bridge.ready()
        async with connected(f"{bridge.url}?access_token=first") as client:
            await client.send({"type": "subscribe", "collection": "notes", "uid": "n"})
            assert (await client.expect(event="init"))["data"] == [{"id": 1}]
            write(file, toml("first", "second"))
            bridge.signal(signal.SIGHUP)
            fresh = await client.expect(event="init", reason="resync")
            assert fresh["data"] == [{"id": 1, "text": "one"}]
            async with connected(f"{bridge.url}?access_token=second") as other:
                await other.send({"type": "ping"})
                await other.expect(type="pong")
            write(file, toml("first").replace('"notes"', '"others"'))
            bridge.signal(signal.SIGHUP)
            assert (await client.expect(type="subscribe", status="error"))["error"]["code"] == "FORBIDDEN"
            write(file, toml())
            bridge.signal(signal.SIGHUP)
            await bridge.says("static_tokens=0")
            with pytest.raises(InvalidStatus, match="401"):
                async with connected(f"{bridge.url}?access_token=first"):
                    pass
        bridge.terminate()
        assert await bridge.wait() == 0
    assert "a rule names what is not in the database" in bridge.stderr
    assert "first" not in bridge.stderr


async def test_broken_file_changes_nothing_and_the_log_says_why(file: Path) -> None:
    write(file, toml("first"))
    async with BridgeProcess(NOWHERE, "--config", str(file), "--auth-mode", "strict") as bridge:
        write(file, "port = = 1")
        bridge.signal(signal.SIGHUP)
        await bridge.says("is not valid TOML")
        async with connected(f"{bridge.url}?access_token=first") as client:
            await client.send({"type": "ping"})
            await client.expect(type="pong")
        bridge.terminate()
        assert await bridge.wait() == 0
    assert "the configuration stays as it was" in bridge.stderr
    assert "Traceback" not in bridge.stderr


@pytest.mark.parametrize("now", [None, "port = = 1", "prot = 1", '[[rules]]\nrole = "app"\n', "port = 70000"])
def test_file_that_would_be_refused_at_start_is_refused(file: Path, now: str | None) -> None:
    file.write_text(toml())
    with pytest.raises(SettingsError):
        revised(file, now)


def test_file_that_opens_the_bridge_to_strangers_is_refused(file: Path) -> None:
    """Others can reach it, and by its static token alone it knows its clients."""
    reachable = 'host = "192.0.2.1"\nbehind_proxy = true\n'
    file.write_text(toml("first", more=reachable))
    assert len(revised(file, toml("second", more=reachable)).static_tokens) == 1
    with pytest.raises(UsageError, match="nothing says who its clients are"):
        revised(file, toml(more=reachable))


def test_flags_and_variables_still_go_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(toml())
    rules = [{"role": "app", "collection": "rooms"}]
    by_flag = revised(file, toml(fields='["id"]'), {"rules": json.dumps(rules), "port": None})
    assert list(by_flag.rules) == [Rule("app", "rooms")]
    monkeypatch.setenv("CDC_BRIDGE_RULES", json.dumps(rules))
    assert list(revised(file, toml(fields='["id"]')).rules) == [Rule("app", "rooms")]
    monkeypatch.delenv("CDC_BRIDGE_RULES")
    assert list(revised(file, toml(fields='["id"]')).rules) == [Rule("app", "notes", frozenset({"id"}))]


def test_settings_that_need_a_restart_are_named_and_no_secret_is_shown(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(toml())
    secret = "a secret that is long enough for HS256"
    revised(file, toml("new", fields='["id"]', more=f'port = 1\njwt_secret = "{secret}"\nlog_level = "debug"\n'))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.__dict__["facts"] == {"settings": "jwt_secret, log_level, port"}
    caplog.clear()
    revised(file, file.read_text())
    assert caplog.records == []
