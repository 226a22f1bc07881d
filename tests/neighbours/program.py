"""A program of `tests/neighbours/projects`, which does one step at a time, in the environment of such programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.process import PIPE, ROOT, running
from tests.support.server import Database

PROJECTS = Path(__file__).parent / "projects"
ENVIRONMENT = ROOT / ".venv-neighbours"
STEP_WITHIN_S = 100.0


class Program:
    """Answers each step with what it returned; fails the test with its traceback."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def __call__(self, step: str, *arguments: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([step, *arguments]).encode() + b"\n")
        async with asyncio.timeout(STEP_WITHIN_S):
            line = await self._process.stdout.readline()
        assert line, f"{step} {' '.join(arguments)} failed; see stderr"
        return json.loads(line)


@contextlib.asynccontextmanager
async def program(name: str, database: Database, **env: str) -> AsyncIterator[Program]:
    async with python("-m", name, database=database, **env) as process:
        yield Program(process)


@contextlib.asynccontextmanager
async def python(*arguments: str, database: Database, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run Python with Django, SQLAlchemy and the projects. Skips the test where these are not installed."""
    if not (ENVIRONMENT / "installed").exists():
        pytest.skip("ATTENTION: a neighbour was not tried: `make .venv-neighbours/installed` installs what it needs")
    where = {"DATABASE": json.dumps(conninfo_to_dict(database.dsn)), "PYTHONPATH": str(PROJECTS)}
    async with running(str(ENVIRONMENT / "bin" / "python"), *arguments, env=where | env, stdin=PIPE) as process:
        yield process
