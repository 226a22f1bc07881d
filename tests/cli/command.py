"""Runs `python -m cdc_bridge ...` as a person would: a process of its own, in an empty folder, with no settings."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


class Shown:
    """A command on a terminal, and what it has printed there."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self.text = b""
        self._terminal = terminal

    def until(self, text: bytes = b"") -> None:
        """Read up to this text, or to the end."""
        with contextlib.suppress(OSError):  # as Linux says that the other end is closed
            while not text or text not in self.text:
                self.text += os.read(self._terminal, 65536)


@contextmanager
def on_terminal(*arguments: str, cwd: Path, **variables: str) -> Iterator[Shown]:
    """Run `cdc-bridge` on a pseudo-terminal, killed at the end if it still runs."""
    terminal, end = pty.openpty()
    env = environment({"TERM": "xterm-256color", **variables})
    process = subprocess.Popen(command(*arguments), cwd=cwd, env=env, stdin=end, stdout=end, stderr=end)
    os.close(end)
    try:
        yield Shown(process, terminal)
    finally:
        process.kill()
        process.wait(ENDS_WITHIN_S)
        os.close(terminal)
