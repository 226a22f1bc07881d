"""Dumps: taken while a bridge runs and writers write, restored by psql and by pg_restore, with a bridge there."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.neighbours.journal import Journal
from tests.neighbours.watcher import problems, watching
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.follower import beginning, following
from tests.support.server import Database, Server, bin_dir

pytestmark = pytest.mark.once

TABLES = """
CREATE TABLE room (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
CREATE TABLE message (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, room int REFERENCES room, text text);
CREATE TABLE event (at date, id int, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO room (name) SELECT 'room ' || n FROM generate_series(1, 20) n;
INSERT INTO message (room, text) SELECT n % 20 + 1, repeat('x', n) FROM generate_series(1, 3000) n;
INSERT INTO event SELECT '2026-01-15'::date + n % 30, n FROM generate_series(1, 500) n;
"""
ATTACHED = ("room", "message", "event")
WRITES = (
    "INSERT INTO message (room, text) VALUES (1, 'new'), (2, 'new')",
    "UPDATE message SET text = text || '!' WHERE id % 100 = 0",
    "DELETE FROM message WHERE id % 500 = 1",
    "INSERT INTO event VALUES ('2026-01-02', 1000), ('2026-02-20', 1000)",
    "UPDATE event SET at = '2026-02-21' WHERE at = '2026-01-02'",
    "DELETE FROM event WHERE id = 1000",
)


@pytest.fixture
def copy(decoding_server: Server) -> Iterator[Database]:
    database = decoding_server.create_database()
    yield database
    decoding_server.drop_database(database)


def by_psql(origin: Database, copy: Database, folder: Path) -> None:
    """`pg_dump | psql`."""
    del folder
    with subprocess.Popen([_program("pg_dump"), origin.dsn], stdout=subprocess.PIPE) as dump:
        _run(
            "psql",
            "--quiet",
            "--no-psqlrc",
            "--set=ON_ERROR_STOP=1",
            "--output",
            os.devnull,
            copy.dsn,
            stdin=dump.stdout,
        )
    assert dump.returncode == 0


def by_pg_restore(origin: Database, copy: Database, folder: Path) -> None:
    """Restore by several jobs, which need a file."""
    _run("pg_dump", "--format=custom", f"--file={folder / 'dump'}", origin.dsn)
    _run("pg_restore", "--exit-on-error", "--jobs=4", f"--dbname={copy.dsn}", str(folder / "dump"))


@pytest.mark.parametrize("restore", [by_psql, by_pg_restore])
async def test_copy_made_beside_bridge_and_writers_has_a_bridge_of_its_own(
    database: Database, copy: Database, tmp_path: Path, restore: Callable[[Database, Database, Path], None]
) -> None:
    database.execute(TABLES)
    attach(database, *ATTACHED)
    async with running_bridge(database.dsn) as bridge, watching(database, bridge.url, *ATTACHED) as watcher:
        async with following(bridge.url, "room") as client:
            cursor = client.cursor
        journal = Journal(database)
        async with asyncio.TaskGroup() as tasks:
            copying = tasks.create_task(asyncio.to_thread(restore, database, copy, tmp_path))
            while not copying.done():
                for statement in WRITES:
                    await asyncio.to_thread(database.execute, statement)
        assert await watcher.was_told_once_and_in_order(journal) > 10  # also while the log was locked
        async with running_bridge(copy.dsn) as other, watching(copy, other.url, *ATTACHED) as copied:
            assert len(copied.tables["message"].rows) > 2900
            assert await beginning(other.url, cursor, "room") == "resync"
            assert await beginning(bridge.url, cursor, "room") == "resumed"
            journal = Journal(copy)
            for statement in WRITES:
                copy.execute(statement)
            assert await copied.was_told_once_and_in_order(journal) > 10
    assert problems(copy) == []


def _program(name: str) -> str:
    return str(bin_dir() / name)


def _run(name: str, *arguments: str, stdin: IO[bytes] | None = None) -> None:
    done = subprocess.run([_program(name), *arguments], stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
