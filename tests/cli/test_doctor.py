"""`cdc-bridge doctor`, as a person and as a script see it."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.cli.command import ENDS_WITHIN_S, on_terminal, run
from tests.support.attach import attach
from tests.support.server import Database

pytestmark = pytest.mark.once

SETTINGS = {"CDC_BRIDGE_RETENTION_BYTES": str(1024 * 1024)}


@pytest.fixture
def t(database: Database) -> Database:
    """Without a finding but what a server in a container leaves unknown."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    attach(database, "t", "u")
    database.execute("UPDATE cdc.setting SET value = 'off' WHERE name = 'notify'")
    return database


def test_exit_code_and_json_tell_whether_all_is_well(t: Database, tmp_path: Path) -> None:
    with psycopg.connect(t.dsn, application_name="cdc_bridge heartbeat"):  # a bridge that says nothing of itself
        done = run("doctor", "--json", "--dsn", t.dsn, cwd=tmp_path, env=SETTINGS)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["healthy"] is True
        t.execute("ALTER TABLE u DISABLE TRIGGER ALL")
        done = run("doctor", "--json", "--dsn", t.dsn, cwd=tmp_path, env=SETTINGS)
    assert (done.returncode, done.stderr) == (7, "")
    after = json.loads(done.stdout)
    assert after["healthy"] is False
    assert {
        "id": "trigger-disabled",
        "severity": "error",
        "subject": "public.u",
        "sentence": 'the trigger "00_cdc_bridge_insert" on public.u is disabled',
        "remedy": "run attach again",
    } in after["findings"]


def test_words_say_what_is_wrong_and_what_to_do_the_worst_first(t: Database, tmp_path: Path) -> None:
    t.execute("DROP FUNCTION cdc.version()")
    done = run("doctor", "--dsn", t.dsn, cwd=tmp_path, env=SETTINGS)
    assert (done.returncode, done.stderr) == (7, "")
    first, remedy, second, *_, counts = done.stdout.splitlines()
    assert first == "error sql-version: the version of the installed SQL cannot be told"
    assert remedy == "    run attach again as the owner of the schema"
    assert second.startswith("warning no-bridge: ")
    assert counts.startswith("error: 1, warning: 1")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_and_progress_are_for_terminals(t: Database, tmp_path: Path, no_color: str) -> None:
    with on_terminal("doctor", "--dsn", t.dsn, cwd=tmp_path, **SETTINGS, NO_COLOR=no_color) as shown:
        shown.until()
        assert shown.process.wait(ENDS_WITHIN_S) == 7
    assert b"looking" in shown.text
    assert (b"\x1b[33m" in shown.text) is not bool(no_color)


@pytest.mark.parametrize("as_json", [False, True])
def test_database_that_does_not_answer_is_a_finding(tmp_path: Path, as_json: bool) -> None:
    dsn = "postgresql://ann:sekret@127.0.0.1:1/shop"
    done = run("doctor", *["--json"] * as_json, "--dsn", dsn, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    assert "sekret" not in done.stdout
    if as_json:
        [finding] = json.loads(done.stdout)["findings"]
        assert finding["id"] == "unreachable"
        assert "127.0.0.1:1/shop" in finding["sentence"]
    else:
        assert done.stdout.startswith("error unreachable: cannot connect to 127.0.0.1:1/shop")


def test_schema_that_is_not_ours_is_refused_in_one_sentence(t: Database, tmp_path: Path) -> None:
    done = run("doctor", "--schema-name", "public", "--dsn", t.dsn, cwd=tmp_path, env=SETTINGS)
    assert "is there and is not ours" in done.stdout
    assert done.returncode == 7
