"""What the page about ORMs gives to copy works in a project of Django and beside Alembic."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.docs.blocks import blocks
from tests.neighbours.program import program, python
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.process import ROOT
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # nothing in it depends on the server's version

RENAME, INCLUDE_NAME = (
    block.text for block in blocks(ROOT / "docs" / "how-to" / "orms.md") if block.language == "python"
)
IN_DJANGO = f"""
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.db.migrations.loader import MigrationLoader
{RENAME}
loader = MigrationLoader(connection)
order = loader.project_state(list(loader.applied_migrations)).apps.get_model("shop", "Order").objects.first()
print('"%s"' % rename(order, "by the page"))
"""
BESIDE_ALEMBIC = f"""
import json, os
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, URL, create_engine
{INCLUDE_NAME}
def removed(**options):
    context = MigrationContext.configure(connection, opts={{"include_schemas": True}} | options)
    changes = compare_metadata(context, MetaData())
    return sorted({{change[1].schema or "" for change in changes if change[0] == "remove_table"}})
where = json.loads(os.environ["DATABASE"])
url = URL.create("postgresql+psycopg", where["user"], None, where["host"], where["port"], where["dbname"])
with create_engine(url).connect() as connection:
    print(json.dumps([removed(), removed(include_name=include_name)]))
"""


async def printed_by(script: str, database: Database) -> Any:
    async with python("-c", script, database=database) as process:
        printed, _ = await process.communicate()
        return json.loads(printed)


async def test_client_knows_the_event_of_its_own_change(database: Database) -> None:
    async with program("shop", database) as shop:
        await shop("migrate", "shop", "0001")
        await shop("write")
    attach(database, "shop_order")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "shop_order", "event": "update", "tx": True})
        assert (await client.next())["event"] == "init"
        xid = await printed_by(IN_DJANGO, database)
        message = await client.next()
        assert ([row["note"] for row in message["data"]], message["tx"]["id"]) == (["by the page"], xid)


async def test_alembic_leaves_our_schema_alone(database: Database) -> None:
    """With the function of the page; without it, it would drop our tables."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    attach(database, "orders")
    assert await printed_by(BESIDE_ALEMBIC, database) == [["", "cdc"], [""]]
