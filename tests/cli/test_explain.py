"""`cdc-bridge explain`, as a person runs it."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import assert_one_sentence, run
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.metrics import scrape_until
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

MEMBERS = {
    "collection", "key", "answer", "text", "attached", "table", "mode", "role", "refusal", "readable", "hidden",
    "changes", "now", "row", "problems", "gaps", "forgotten",
    "log_reaches_back_s",
    "gate_open", "notify", "bridges", "bridge", "notes",
}  # fmt: skip


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    role = f"web_{database.name}"
    database.execute(
        f"CREATE ROLE {role}; CREATE TABLE messages (id int PRIMARY KEY, author text, text text, secret text);"
        "CREATE TABLE plain (id int); ALTER TABLE messages ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON messages FOR SELECT USING"
        " (author = (current_setting('request.jwt.claims', true)::json ->> 'sub'));"
        f"GRANT SELECT (id, author, text) ON messages TO {role}"
    )
    attach(database, "messages")
    database.execute("INSERT INTO messages VALUES (7, '2', 'hers', 'the secret')")
    yield role
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_words_and_members(database: Database, role: str, tmp_path: Path) -> None:
    claims = ("--as", json.dumps({"role": role, "sub": "1"}), "--filter", '{"text":{"_neq":"his"}}')
    asked = ("explain", "messages", "7", *claims, "--dsn", database.dsn)
    done = run(*asked, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        'Answer: the newest change is not for it: no permissive policy is true of the new row: "own" is false'
        in done.stdout
    )
    assert 'the filter {"text":{"_neq":"his"}}: new true' in done.stdout
    assert "Readable: id, author, text; hidden: secret" in done.stdout
    assert "No bridge is connected" in done.stdout
    written = re.search(r"^  (\S+ \S+) UTC  INSERT  transaction (\d+) at [0-9A-F]+/[0-9A-F]+$", done.stdout, re.M)
    assert written
    assert (written[2],) in database.execute("SELECT xmin::text FROM messages")
    assert written[1][:10] == str(datetime.datetime.now(datetime.UTC))[:10]
    assert "Triggers: there and enabled" in done.stdout
    assert "the gate is shut, so bridges look into the log" in done.stdout
    assert "hers" not in done.stdout
    assert "the secret" not in done.stdout

    async with running_bridge(database.dsn, roles=(role,)) as running:
        done = await asyncio.to_thread(run, *asked, "--url", running.http, "--json", cwd=tmp_path)
    members: dict[str, Any] = json.loads(done.stdout)
    assert set(members) == MEMBERS
    assert (members["answer"], members["role"], members["bridge"]["ready"]) == ("policy", role, True)
    assert members["bridge"]["oldest_undelivered_s"] == 0
    [bridge] = members["bridges"]
    assert set(bridge) == {"pid", "version", "behind_s", "silent_s"}
    [change] = members["changes"]
    assert (change["operation"], change["outcome"]) == ("insert", "not_delivered")
    assert change["conditions"][-1] == {
        "kind": "policy", "text": "own", "permissive": True, "old": None, "new": "false", "error": None,
    }  # fmt: skip
    assert "hers" not in done.stdout


def test_trigger_that_is_disabled_is_named(database: Database, role: str, tmp_path: Path) -> None:
    database.execute("ALTER TABLE messages DISABLE TRIGGER ALL")
    asked = ("explain", "messages", "7", "--dsn", database.dsn)
    assert re.search(
        r'^Triggers: the trigger "00_cdc_bridge_insert" .* is disabled', run(*asked, cwd=tmp_path).stdout, re.M
    )
    assert len(json.loads(run(*asked, "--json", cwd=tmp_path).stdout)["problems"]) == 4


async def test_client_that_does_not_read_is_suspected(database: Database, role: str, tmp_path: Path) -> None:
    async with running_bridge(database.dsn, roles=(role,)) as running, connected(running.url) as client:
        await client.send({"type": "subscribe", "collection": "messages"})
        await client.expect(event="init")
        client.connection.transport.pause_reading()
        database.execute("INSERT INTO messages VALUES (8, '2', 'hers', 'the secret')")
        await scrape_until(running.http, lambda found: found.value("cdc_deliveries_total") == 2)
        database.execute("INSERT INTO messages VALUES (9, '2', 'hers', 'the secret')")  # it waits for the PONG of 8
        await scrape_until(running.http, lambda found: found.value("cdc_oldest_undelivered_age_seconds") > 0)
        asked = ("explain", "messages", "9", "--url", running.http, "--dsn", database.dsn)
        done = await asyncio.to_thread(run, *asked, cwd=tmp_path)
        client.connection.transport.resume_reading()
    assert "the client may be behind" in done.stdout
    assert f"\n  {running.http}: ready\n" in done.stdout


def test_table_that_is_not_attached_is_an_answer(database: Database, role: str, tmp_path: Path) -> None:
    done = run("explain", "plain", "1", "--json", "--dsn", database.dsn, cwd=tmp_path)
    assert done.returncode == 0
    members = json.loads(done.stdout)
    assert (members["attached"], members["answer"]) == (False, "not_attached")
    assert "cdc-bridge attach plain" in members["text"]


def test_bad_input_is_one_sentence(database: Database, role: str, tmp_path: Path) -> None:
    def refused(code: int, *words: str) -> str:
        return assert_one_sentence(run("explain", *words, "--dsn", database.dsn, cwd=tmp_path), code)

    assert "there is no table nope" in refused(3, "nope", "1")
    assert "seven is no key of messages (id integer)" in refused(2, "messages", "seven")
    assert "--url" in refused(2, "messages", "7", "--url", "nowhere")
    database.execute("DROP SCHEMA cdc CASCADE")
    assert "attach a table first" in refused(3, "messages", "7")
