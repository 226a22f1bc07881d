"""A PostgreSQL server of the tests' own, to be killed, stopped and started at will.

It is RUNNING between `start` and `stop` or `kill`; its port and its data outlive both; `delete` ends it for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from cdc_bridge.demo.server import QUICK, Account, ThrowAwayServer, backoff, embedded_bin_dir

__all__ = ["QUICK", "Cluster", "embedded_bin_dir"]

MEMORY = Path("/dev/shm")
MEMORY_PREFIX = "cdc-bridge-pg-"
MEMORY_BYTES_MIN = 3 * 1024**3

STOP_TIMEOUT_S = 30.0

_PR_SET_PDEATHSIG = 1
_IPC_RMID = 0


class Cluster(ThrowAwayServer):
    """A server that can crash.

    Started from the main thread on Linux, it also ends when this process is killed. (From another thread it would end
    with that thread.)

    `in_memory`: its data are, where there is room. Making a database, which is 300 files, then takes a
    tenth of the time.
    """

    def __init__(
        self, bin_dir: Path | None = None, *, settings: Mapping[str, str] | None = None, in_memory: bool = False
    ) -> None:
        made: list[Path] = []
        try:
            super().__init__(bin_dir, settings=settings, announce=made.append)
        except BaseException:
            for folder in made:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._memory = _memory_folder(self.account) if in_memory else None
        if self._memory is not None:
            self.data_dir = self._memory / "data"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.delete()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.delete()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Shut down: `fast` ends the sessions and keeps all; `immediate` leaves a recovery to do."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._abandon()

    def kill(self) -> None:
        """SIGKILL the postmaster and every process of its own; returns when all of them are gone."""
        if self.running:
            self._crash()

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()

    def delete(self) -> None:
        """Stop, and remove every trace. May be called twice."""
        self.stop("immediate")
        self._free_shared_memory()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._memory is not None:
            shutil.rmtree(self._memory, ignore_errors=True)

    def _abandon(self) -> None:
        self._crash()

    def _surroundings(self) -> dict[str, Any]:
        return {**super()._surroundings(), "preexec_fn": _end_with_parent()}

    def _crash(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)  # so that it starts no further backend while we look
            backends = _children(process.pid)
            process.kill()
            _kill(backends)
            process.wait()
            _wait_until_gone(backends)

    def _free_shared_memory(self) -> None:
        """A killed server leaves a System V segment; line 7 of its pid file names it."""
        try:
            segment = int((self.data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1])
        except (OSError, IndexError, ValueError):
            return
        if sys.platform == "linux":
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)


def _memory_folder(account: Account | None) -> Path | None:
    """A new folder that the account can reach, named for this process; None where there is no room."""
    _free_memory()
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK)):
        return None
    room = os.statvfs(MEMORY)
    if room.f_bavail * room.f_frsize < MEMORY_BYTES_MIN:
        return None
    folder = Path(tempfile.mkdtemp(prefix=f"{MEMORY_PREFIX}{os.getpid()}-", dir=MEMORY))
    if account:
        os.chown(folder, account.uid, account.gid)
    return folder


def _free_memory() -> None:
    """Remove what processes that were killed have left behind."""
    for folder in MEMORY.glob(f"{MEMORY_PREFIX}*"):
        pid = folder.name.removeprefix(MEMORY_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _prctl() -> Callable[[int, int], int] | None:
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def _end_with_parent() -> Callable[[], None] | None:
    """What makes the child end (by an immediate shutdown) when the thread that started it ends."""
    prctl = _prctl()
    if prctl is None or threading.current_thread() is not threading.main_thread():
        return None

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)

    return end_with_parent


def _children(pid: int) -> list[int]:
    """The processes that a stopped process has started."""
    if Path("/proc/self/stat").exists():
        candidates = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
        return [candidate for candidate in candidates if _state_and_parent(candidate)[1] == pid]
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = (map(int, line.split()) for line in listing.stdout.splitlines())
    return [child for child, parent in pairs if parent == pid]


def _state_and_parent(pid: int) -> tuple[str, int]:
    """From /proc; state "X" (dead) when there is no such process."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _wait_until_gone(pids: Iterable[int]) -> None:
    for pid in pids:
        for _ in backoff(STOP_TIMEOUT_S):
            if _is_gone(pid):
                break


def _is_gone(pid: int) -> bool:
    """A zombie counts as gone: it holds nothing, and who reaps it is not for us to say."""
    if Path("/proc/self/stat").exists():
        return _state_and_parent(pid)[0] in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
