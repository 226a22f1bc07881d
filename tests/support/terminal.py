"""A terminal: runs shell commands as a person types them, who goes on where the last ones have left off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.process import environment

DONE_WITHIN_S = 60.0
LOOK_EACH_S = 0.05


class Terminal:
    """Exported variables are there for the next command. What still runs is killed at the end.

    What a command prints goes to a file of its own, so that one in the background does not keep a pipe open.
    """

    def __init__(self, directory: Path, name: str, env: Mapping[str, str]) -> None:
        self._directory = directory
        self._env = environment(env)
        self._exported = directory / f".{name}.exported"
        self._exported.touch()
        self._printed = directory / f".{name}.0"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    async def run(self, script: str) -> str:
        """Run commands, all of which must succeed, and return what they print."""
        process = self._start(f"{script}\nexport -p > '{self._exported}'\n")
        code = await self._end(process)
        printed = self._printed.read_text()
        assert code == 0, f"{script}\n{printed}"
        return printed

    async def start(self, command: str, until: str) -> None:
        """Run a command that does not end by itself, until it prints this."""
        process = self._start(f"exec {command}\n")
        async with asyncio.timeout(DONE_WITHIN_S):
            while until not in (printed := self._printed.read_text()):
                assert process.poll() is None, f"{command}\n{printed}"
                await asyncio.sleep(LOOK_EACH_S)

    async def interrupt(self) -> None:
        """Press Ctrl-C, and wait until the last command has ended."""
        os.killpg(self._processes[-1].pid, signal.SIGINT)
        await self._end(self._processes[-1])

    def _start(self, script: str) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own, as a shell does."""
        self._printed = self._printed.with_suffix(f".{len(self._processes)}")
        with self._printed.open("wb") as printed:
            process = subprocess.Popen(
                ["bash", "-e", "-c", f". '{self._exported}'\n{script}"],
                cwd=self._directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    async def _end(self, process: subprocess.Popen[bytes]) -> int:
        async with asyncio.timeout(DONE_WITHIN_S):
            return await asyncio.to_thread(process.wait)
