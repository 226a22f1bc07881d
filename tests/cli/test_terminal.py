"""Commands on a terminal: how far they are, colours unless they are not wanted, and completion."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cdc_bridge.cli import app
from cdc_bridge.cli.command import PATIENCE_S, progress
from tests.cli.command import ENDS_WITHIN_S, on_terminal
from tests.support.attach import attach
from tests.support.server import Database

pytestmark = pytest.mark.once

TABLES = 8


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute(";".join(f"CREATE TABLE t{number} (id int PRIMARY KEY)" for number in range(TABLES)))
    return database


def test_progress_is_shown_once_something_takes_longer_than_a_second(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 0.0
    monkeypatch.setattr("cdc_bridge.cli.command.time.monotonic", lambda: now_s)
    for is_terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda shown=is_terminal: shown)
        with progress("attaching", 4) as tick:
            tick()
            assert capsys.readouterr() == ("", "")
            now_s += PATIENCE_S
            tick()
            tick()
            assert ("attaching" in capsys.readouterr().err) is is_terminal
        capsys.readouterr()


SLOW = """
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.03); END $$;
CREATE FUNCTION on_truncate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
"""


@pytest.mark.parametrize(
    ("words", "slow", "label"),
    [
        ("attach --all", "CREATE EVENT TRIGGER slow ON ddl_command_end EXECUTE FUNCTION on_ddl()", b"attaching"),
        (
            "prune --older-than 0",
            "CREATE TRIGGER slow BEFORE TRUNCATE ON cdc.change_log_0 EXECUTE FUNCTION on_truncate()",
            b"forgetting",
        ),
        ("bench --rounds 1 --seconds 0.5 --rows 10", "", b"measuring"),
    ],
    ids=["attach", "prune", "bench"],
)
def test_command_that_takes_long_shows_how_far_it_is(
    tables: Database, tmp_path: Path, words: str, slow: str, label: bytes
) -> None:
    attach(tables, "t0")
    tables.execute("INSERT INTO t0 VALUES (1); SELECT cdc.write_to_segment(1); INSERT INTO t0 VALUES (2)")
    tables.execute(SLOW + slow)
    with on_terminal(*words.split(), "--dsn", tables.dsn, cwd=tmp_path) as shown:
        shown.until()
        assert shown.process.wait(ENDS_WITHIN_S) == 0
    assert label in shown.text


@pytest.mark.parametrize("no_color", ["", "1"])
def test_top_on_a_terminal_is_shown_until_it_is_interrupted(tables: Database, tmp_path: Path, no_color: str) -> None:
    attach(tables, "t0")
    words = ("top", "--interval", "0.1", "--dsn", tables.dsn, "--url", "http://127.0.0.1:1")
    with on_terminal(*words, cwd=tmp_path, NO_COLOR=no_color) as shown:
        shown.until(b"oldest transaction that writes")
        shown.until(b"no metrics: ")
        shown.process.send_signal(signal.SIGINT)
        shown.until()
        assert shown.process.wait(ENDS_WITHIN_S) == 130
    assert (b"\x1b[36m" in shown.text) is not bool(no_color)
    assert b"Traceback" not in shown.text


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("cdc-bridge det", {"detach"}),
        ("cdc-bridge attach --mode ", {"durable", "live"}),
        ("cdc-bridge serve --metrics-p", {"--metrics-port"}),
    ],
)
def test_shell_completes_commands_options_and_words(
    typed: str, completed: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_CDC_BRIDGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - (not typed.endswith(" "))))
    with pytest.raises(SystemExit):
        app.run([])
    assert set(capsys.readouterr().out.split()) == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_CDC_BRIDGE_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        app.run([])
    assert "_CDC_BRIDGE_COMPLETE=complete_" in capsys.readouterr().out
