"""A ledger in SQLAlchemy: every row that its unit of work writes arrives once, and Alembic migrates as if alone."""

from __future__ import annotations

import pytest

from cdc_bridge.admin.mode import Notify
from tests.neighbours.journal import Journal
from tests.neighbours.program import program
from tests.neighbours.watcher import problems, watching
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database, Server

pytestmark = pytest.mark.once

TABLES = ("account", "entry", "label")
STORY = {
    ("migrate", "upgrade", "first"): set(),
    ("migrate", "upgrade", "second"): {"account", "entry"},
    ("migrate", "downgrade", "first"): {"account", "entry"},
}
"""Steps, and which tables have fresh data after them. After each of them rows are written."""


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_unit_of_work_and_migrations_go_on_beside_a_bridge(
    database: Database, decoding_server: Server, driver: str
) -> None:
    alone = decoding_server.create_database()
    async with program("ledger", alone, DRIVER=driver) as ledger:
        expected = [[await ledger(*step), await ledger("write")] for step in STORY]
        proposed = await ledger("differences")
    decoding_server.drop_database(alone)

    async with program("ledger", database, DRIVER=driver) as ledger:
        said = [[await ledger("migrate", "upgrade", "first"), await ledger("write")]]
        attach(database, *TABLES)
        async with running_bridge(database.dsn) as bridge, watching(database, bridge.url, *TABLES) as watcher:
            journal = Journal(database)
            for step, altered in [*STORY.items()][1:]:
                result = await ledger(*step)
                await watcher.has_fresh_data(*altered)
                journal.take()
                said.append([result, await ledger("write")])
                assert await watcher.was_told_once_and_in_order(journal) > 2000
        assert await ledger("differences") == proposed
    assert said == expected
    assert problems(database) == []


async def test_table_that_a_migration_made_anew_is_followed_once_it_is_attached_again(database: Database) -> None:
    """The triggers went with the old table. A deployment runs `attach` after its migrations."""
    async with program("ledger", database, DRIVER="psycopg") as ledger:
        await ledger("migrate", "upgrade", "second")
        await ledger("write")
        attach(database, *TABLES)
        async with running_bridge(database.dsn) as bridge, watching(database, bridge.url, "label") as watcher:
            journal = Journal(database)
            await ledger("write")
            assert await watcher.was_told_once_and_in_order(journal) == 1
            await ledger("migrate", "upgrade", "third")
            attach(database, *TABLES)
            await watcher.has_fresh_data("label")
            journal.take()
            await ledger("write")
            assert await watcher.was_told_once_and_in_order(journal) == 1


async def test_session_of_two_phases_goes_on_where_nothing_notifies(database: Database) -> None:
    async with program("ledger", database, DRIVER="psycopg") as ledger:
        await ledger("migrate", "upgrade", "first")
        attach(database, *TABLES, notify=Notify.OFF)
        async with running_bridge(database.dsn) as bridge, watching(database, bridge.url, *TABLES) as watcher:
            journal = Journal(database)
            await ledger("write in two phases")
            assert await watcher.was_told_once_and_in_order(journal) == 4
