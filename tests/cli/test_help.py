"""What the command says about itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdc_bridge import __version__
from cdc_bridge.settings import FIELDS, flag
from tests.cli.command import ROOT, run

COMMANDS = [
    "attach",
    "upgrade",
    "detach",
    "status",
    "top",
    "doctor",
    "explain",
    "prune",
    "bench",
    "sql",
    "serve",
    "token",
    "listen",
    "demo",
]
DOCS = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example_on_a_line_of_its_own(name: str, tmp_path: Path) -> None:
    done = run(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(rf"Examples?:\n +cdc-bridge {name}\b.*\n", done.stdout)
    assert "\\b" not in done.stdout


def test_help_lists_every_command_and_the_exit_codes_of_the_docs(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path, env={"COLUMNS": "80"})
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
        assert f"\n## `{name}`\n" in DOCS
    assert "..." not in done.stdout.partition("Commands:")[2], "the first line of a command's help is cut off"
    in_help = re.findall(r"^ +(\d+)  ", done.stdout.partition("Exit codes:")[2], re.MULTILINE)
    in_docs = re.findall(r"^\| (\d+) \|", DOCS.partition("## Exit codes")[2], re.MULTILINE)
    assert in_help == in_docs


def test_command_alone_prints_its_help(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("--help", cwd=tmp_path).stdout


def test_help_of_serve_lists_the_words_of_a_choice(tmp_path: Path) -> None:
    said = " ".join(run("serve", "--help", cwd=tmp_path).stdout.split())
    assert "--log-format <human|json> How log lines look. [human]" in said
    assert "--log-level <debug|info|warning|error> The least severe lines that are logged. [info]" in said


def test_every_setting_is_a_flag_of_serve(tmp_path: Path) -> None:
    done = run("serve", "--help", cwd=tmp_path)
    for name in FIELDS:
        assert re.search(rf"{flag(name)}\b", done.stdout)


@pytest.mark.parametrize("name", ["attach", "upgrade", "detach", "status", "doctor", "explain", "prune", "serve"])
def test_database_can_be_named_everywhere(name: str, tmp_path: Path) -> None:
    done = run(name, "--help", cwd=tmp_path)
    assert "--dsn" in done.stdout
    assert "--config" in done.stdout


def test_version(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"cdc-bridge {__version__}\n"
