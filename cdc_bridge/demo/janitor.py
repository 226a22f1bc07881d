"""Removes what a process has made when that process ends, however it ends, kill -9 included.

A janitor is a small process of its own. It is told of folders over its stdin, one a line, before they are
filled, and acts when its stdin closes: PostgreSQL's processes that work in these folders end, and the folders
go. It runs as a plain script, without our package, so that it is there within milliseconds.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PROGRAMS = ("postgres", "initdb")
_SIGNALS_OF_OTHERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_END_TIMEOUT_S = 0.5


class Janitor:
    """The side of the process that is watched."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )

    def care_for(self, folder: Path) -> None:
        """Register a folder, before anything is put into it. It need not exist yet."""
        assert self._process.stdin is not None
        self._process.stdin.write(os.fsencode(folder) + b"\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Clean up now, and wait until it is done. May be called twice."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """The janitor's own process."""
    for number in _SIGNALS_OF_OTHERS:
        signal.signal(number, signal.SIG_IGN)
    folders = [Path(os.fsdecode(line.rstrip(b"\n"))) for line in sys.stdin.buffer]
    for folder in folders:
        _end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folder: Path) -> None:
    """First as PostgreSQL's immediate shutdown, which frees its shared memory, then without mercy."""
    for number in (signal.SIGQUIT, signal.SIGKILL):
        deadline = time.monotonic() + _END_TIMEOUT_S
        for pid in _processes(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while time.monotonic() < deadline:
            if not _processes(folder):
                return
            time.sleep(0.02)


def _processes(folder: Path) -> list[int]:
    """The servers at work in the folder."""
    found = []
    if Path("/proc/self/cwd").exists():
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone, or not ours to see
                place, program = Path(process, "cwd").readlink(), Path(process, "comm").read_text().strip()
                if program in _PROGRAMS and place.is_relative_to(folder):
                    found.append(int(process.name))
        return found
    for file in folder.glob("**/postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(file.read_text().split()[0])
            os.kill(pid, 0)
            found.append(pid)
    return found


if __name__ == "__main__":
    main()
