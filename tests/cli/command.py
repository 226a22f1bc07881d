"""Runs `python -m cdc_bridge ...` as a person would: a process of its own, in an empty folder, with no settings."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import ROOT, command, environment

__all__ = ["ROOT", "assert_one_sentence", "command", "environment", "run"]

ENDS_WITHIN_S = 60


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
