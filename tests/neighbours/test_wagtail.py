"""A site in Wagtail, whose migrations are among the longest there are: they run on attached tables as on others."""

from __future__ import annotations

import pytest

from tests.neighbours.journal import Journal
from tests.neighbours.program import program
from tests.neighbours.watcher import problems, watching
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database

pytestmark = pytest.mark.once

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
WELCOME = [["0001", "Root"], ["00010001", "Welcome to your new Wagtail site!"]]


def tables_of(database: Database) -> list[str]:
    return [name for (name,) in database.execute(TABLES)]


async def test_migrations_run_on_attached_tables_and_a_tree_of_pages_is_followed(database: Database) -> None:
    """All of Wagtail's own apps, by halves: the second half finds every table of the first attached and followed."""
    async with program("pages", database) as site:
        assert await site("migrate half") > 150
        attach(database, all_of_schemas=("public",))
        async with running_bridge(database.dsn) as bridge:
            async with watching(database, bridge.url, *tables_of(database)) as early:
                assert await site("migrate") == []  # none is left
                assert early.tables.keys() <= {*tables_of(database)}
                await early.catches_up()
            attach(database, all_of_schemas=("public",))
            async with watching(database, bridge.url, *tables_of(database)) as watcher:
                pages = watcher.tables["wagtailcore_page"].rows
                assert sorted([row["path"], row["title"]] for row in pages.values()) == WELCOME
                journal = Journal(database)
                tree = await site("write")
                assert await watcher.was_told_once_and_in_order(journal) > 300
                known = sorted([row["path"], row["title"]] for row in pages.values())
    assert known == tree
    assert len(tree) == 17
    assert problems(database) == []
