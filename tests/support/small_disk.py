"""A server on a disk of its own that can be filled: a tmpfs. It needs a machine on which we may mount one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.server import SETTINGS, bin_dir

DISK_BYTES = 150 * 1024 * 1024
_BLOCK = bytes(64 * 1024)


class SmallDisk:
    """A mounted tmpfs. `fill` leaves not a single page; `free` gives all of that back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(_BLOCK)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(owner: Cluster) -> Iterator[SmallDisk]:
    """Mount a tmpfs that the server's account owns. The server must have left it at the end.

    Raises `PermissionError` where that is not allowed.
    """
    folder = Path(tempfile.mkdtemp(prefix="cdc-bridge-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        folder.rmdir()
        raise PermissionError(mounted.stderr)
    try:
        if owner.account:
            os.chown(folder, owner.account.uid, owner.account.gid)
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


@contextlib.contextmanager
def server_on_small_disk(*, wal_elsewhere: bool) -> Iterator[tuple[Cluster, SmallDisk]]:
    """Start a server whose data are on a small disk; its WAL too, or in the cluster's folder."""
    settings = {**SETTINGS, "max_wal_size": "64MB", "min_wal_size": "32MB", "wal_recycle": "on", "autovacuum": "off"}
    cluster = Cluster(bin_dir(), settings=settings)
    try:
        with small_disk(cluster) as disk:
            cluster.data_dir = disk.folder / "data"
            cluster.start()
            if wal_elsewhere:
                cluster.stop()
                wal = cluster.data_dir / "pg_wal"
                moved = cluster.folder / "wal"
                shutil.copytree(wal, moved)
                shutil.rmtree(wal)
                wal.symlink_to(moved)
                if cluster.account:
                    for path in (moved, *moved.rglob("*")):
                        os.chown(path, cluster.account.uid, cluster.account.gid)
                cluster.start()
            try:
                yield cluster, disk
            finally:
                cluster.stop("immediate")
    finally:
        cluster.delete()
