"""Runs `python -m cdc_bridge ...` as a person would: a process of its own, in an empty folder, with no settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENDS_WITHIN_S = 60


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Without what would configure the command, and with the tree that is under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CDC_BRIDGE_", "PG"))}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | dict(extra or {})


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cdc_bridge", *arguments]


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """It failed with `code` and said why in one line, without a traceback; returns the sentence."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("cdc-bridge: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.removeprefix("cdc-bridge: ").strip()
