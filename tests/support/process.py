"""Processes of the tests: the command of the tree under test, an environment without settings, lines as they come."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAYS_WITHIN_S = 20.0
PIPE = asyncio.subprocess.PIPE


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without what would configure the command, and with the tree that is under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CDC_BRIDGE_", "PG"))}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | dict(extra or {})


def find_program(name: str) -> str | None:
    """Return the path of an installed program; some are where only root's PATH leads."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")


def require_program(name: str, consequence: str) -> str:
    """Return the path of a program. Skips the test where Debian's package of this name is not installed."""
    found = find_program(name)
    if found is None:
        pytest.skip(f"ATTENTION: {name} is not installed, so {consequence}: apt-get install {name}")
    return found


def command(*arguments: str) -> list[str]:
    """`cdc-bridge ...`, as this Python has it."""
    return [sys.executable, "-m", "cdc_bridge", *arguments]


@contextlib.asynccontextmanager
async def running(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int = PIPE,
    stderr: int | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program and its arguments as a process, killed at the end if it still runs. `env` is set in `environment`."""
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=cwd, env=environment(env), stdin=stdin, stdout=stdout, stderr=stderr
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line_of(stream: asyncio.StreamReader | None) -> str:
    """The next line of what a process says, without its end; empty when it has said all."""
    assert stream is not None
    async with asyncio.timeout(SAYS_WITHIN_S):
        return (await stream.readline()).decode().strip()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
