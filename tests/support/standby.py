"""Hot standbys of a server of the test's own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg

from tests.support.cluster import Cluster
from tests.support.server import SETTINGS, bin_dir

WITHIN_S = 30.0


@contextlib.contextmanager
def standby_of(primary: Cluster) -> Iterator[Cluster]:
    """Running, and following; removed at the end."""
    settings = {**SETTINGS, "primary_conninfo": f"host=127.0.0.1 port={primary.port} user=postgres"}
    standby = Cluster(bin_dir(), settings=settings, in_memory=True)
    try:
        origin = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        made = standby._run(
            "pg_basebackup",
            "-D",
            str(standby.data_dir),
            *origin,
            "--checkpoint=fast",
            "--wal-method=stream",
            "--write-recovery-conf",
        )
        assert made.returncode == 0, made.stdout
        standby.start()
        yield standby
    finally:
        standby.delete()


def caught_up(primary: Cluster, standby: Cluster) -> None:
    """Wait until the standby shows what the primary shows now."""
    with psycopg.connect(primary.dsn(), autocommit=True) as connection:
        (lsn,) = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone() or ("",)
    _wait(standby, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn")


def promoted(standby: Cluster) -> None:
    """Make it a primary, and wait until it is."""
    with psycopg.connect(standby.dsn(), autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
    _wait(standby, "SELECT NOT pg_is_in_recovery()")


def _wait(server: Cluster, condition: str) -> None:
    """Nothing but asking tells."""
    deadline = time.monotonic() + WITHIN_S
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        while time.monotonic() < deadline:
            (is_true,) = connection.execute(condition.encode()).fetchone() or (False,)
            if is_true:
                return
            time.sleep(0.02)
    raise AssertionError(f"not within {WITHIN_S:g} s: {condition}")
