"""A site in Wagtail, whose migrations are among the longest there are: they run on attached tables as on others."""

from __future__ import annotations

import pytest

from tests.neighbours.journal import Journal
from tests.neighbours.program import program
from tests.neighbours.watcher import watching
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database

pytestmark = pytest.mark.once

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
WELCOME = [["0001", "Root"], ["00010001", "Welcome to your new Wagtail site!"]]


async def test_migrations_run_on_attached_tables_and_a_tree_of_pages_is_followed(database: Database) -> None:
    """All of Wagtail's own apps, by halves: the second half finds every table of the first one attached."""
    async with program("pages", database) as site:
        assert await site("migrate half") > 150
        attach(database, all_of_schemas=("public",))
        async with running_bridge(database.dsn) as bridge:
            assert await site("migrate") == []  # none is left
            attach(database, all_of_schemas=("public",))
            tables = [name for (name,) in database.execute(TABLES)]
            async with watching(database, bridge.url, *tables) as watcher:
                assert [row["title"] for row in watcher.tables["wagtailcore_page"].rows.values()] == [
                    title for _, title in WELCOME
                ]
                journal = Journal(database)
                tree = await site("write")
                assert await watcher.was_told_once_and_in_order(journal) > 300
                known = sorted([row["path"], row["title"]] for row in watcher.tables["wagtailcore_page"].rows.values())
    assert known == tree
    assert len(tree) == 17
    assert tree[:2] == WELCOME
