"""A shop in Django: every row that its ORM writes arrives once, and its migrations run as if nobody listened."""

from __future__ import annotations

import pytest

from tests.neighbours.journal import Journal
from tests.neighbours.program import program
from tests.neighbours.watcher import problems, watching
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database, Server

pytestmark = pytest.mark.once

TABLES = ("shop_customer", "shop_product", "shop_product_related", "shop_order", "shop_line")
STORY = {
    ("migrate", "shop", "0001"): set(),
    ("migrate", "shop", "0002"): {"shop_customer", "shop_order"},
    ("migrate", "shop", "0003"): {"shop_product"},
    ("flush",): set(TABLES),
    ("migrate", "shop", "0002", "back"): {"shop_product"},
    ("migrate", "shop", "0001", "back"): {"shop_customer", "shop_order"},
}
"""Steps, and which tables have fresh data after them. After each of them rows are written."""


async def test_orm_and_migrations_of_django_go_on_beside_a_bridge(database: Database, decoding_server: Server) -> None:
    alone = decoding_server.create_database()
    async with program("shop", alone) as shop:
        expected = [[await shop(*step), await shop("write")] for step in STORY]
    decoding_server.drop_database(alone)

    async with program("shop", database) as shop:
        said = [[await shop("migrate", "shop", "0001"), await shop("write")]]
        attach(database, *TABLES)
        async with running_bridge(database.dsn) as bridge, watching(database, bridge.url, *TABLES) as watcher:
            journal = Journal(database)
            for step, altered in [*STORY.items()][1:]:
                result = await shop(*step)
                await watcher.has_fresh_data(*altered)
                journal.take()
                said.append([result, await shop("write")])
                assert await watcher.was_told_once_and_in_order(journal) > 600
    assert said == expected
    assert problems(database) == []


async def test_table_of_a_model_that_is_renamed_is_followed_by_its_new_name(database: Database) -> None:
    async with program("shop", database) as shop:
        await shop("migrate", "shop", "0002")
        attach(database, "shop_review")
        async with running_bridge(database.dsn) as bridge, watching(database, bridge.url, "shop_review") as watcher:
            journal = Journal(database)
            await shop("rate", "Review")
            assert await watcher.was_told_once_and_in_order(journal) == 1
            await shop("migrate", "shop", "0003")
            await shop("rate", "Rating")
            await watcher.until(lambda: watcher.tables["shop_review"].error == "FORBIDDEN")
            async with watching(database, bridge.url, "shop_rating") as renamed:
                assert len(renamed.tables["shop_rating"].rows) == 2
                journal.take()
                await shop("rate", "Rating")
                assert await renamed.was_told_once_and_in_order(journal) == 1
