"""Names that drive terminals: no command prints them as they are."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from psycopg import sql

from tests.cli.command import ENDS_WITHIN_S, on_terminal, run
from tests.support.attach import attach
from tests.support.server import Database

pytestmark = pytest.mark.once

EVIL = 'x\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e\nAll is well.<b>"'
DRIVING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


@pytest.fixture
def evil(database: Database) -> Database:
    """Tables, columns, a partition, a policy and sessions of that name."""
    name = quoted(EVIL)
    database.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, {name} text); INSERT INTO {name} VALUES (1, 'x');"
        f"CREATE TABLE keyless (x int, {name} text);"
        f"CREATE TABLE part (id int) PARTITION BY LIST (id);"
        f"CREATE TABLE {quoted('p' + EVIL)} PARTITION OF part FOR VALUES IN (1);"
        f"CREATE FUNCTION {quoted('f' + EVIL)}() RETURNS bool VOLATILE LANGUAGE sql RETURN random() < 2;"
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY {name} ON {name} USING ({quoted('f' + EVIL)}());"
    )
    attach(database, name, "keyless", "part")
    database.execute(f"ALTER TABLE {name} DISABLE TRIGGER ALL")
    database.execute(f"CREATE TABLE {quoted('q' + EVIL)} PARTITION OF part FOR VALUES IN (2)")
    database.execute(f"CREATE PUBLICATION {name} FOR ALL TABLES")
    return database


COMMANDS = [
    ["doctor"],
    ["status"],
    ["top", "--once", "--interval", "0.1"],
    ["explain", EVIL, "1"],
    ["explain", EVIL, EVIL],
    ["attach", "keyless", "--exclude-column", quoted(EVIL)],
    ["attach", "--all", "--schema", EVIL],
    ["attach", os.fsdecode(b"\xff")],
    ["attach", "--all"],
    ["detach", EVIL],
    ["detach", "--all"],
]


def test_names_drive_no_terminal_and_are_no_line_of_their_own(evil: Database, tmp_path: Path) -> None:
    for words in COMMANDS:
        done = run(*words, "--dsn", evil.dsn, cwd=tmp_path)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, words
        assert "unexpected" not in said, ascii(said)
        assert DRIVING.search(said) is None, ascii(said)
        assert "\nAll is well.<b>" not in said, words


@pytest.mark.parametrize("words", [["status", "--json"], ["attach", "--all", "--plan"]], ids=" ".join)
def test_terminal_is_shown_what_a_program_gets(evil: Database, tmp_path: Path, words: list[str]) -> None:
    with on_terminal(*words, "--dsn", evil.dsn, cwd=tmp_path) as terminal:
        terminal.until()
        assert terminal.process.wait(ENDS_WITHIN_S) == 0
    shown = terminal.text.decode().replace("\r\n", "\n")
    assert DRIVING.search(shown) is None, ascii(shown)
    done = run(*words, "--dsn", evil.dsn, cwd=tmp_path)
    assert "\\u009b" in shown
    assert "\u009b" in done.stdout
    if "--json" in words:
        assert json.loads(shown) == json.loads(done.stdout)
