"""Tables whose names change hands, and partitions that leave: what a subscriber of the name is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import Client

SWAP = """
BEGIN; ALTER TABLE a RENAME TO t_; ALTER TABLE b RENAME TO a; ALTER TABLE t_ RENAME TO b; COMMIT
"""


@asynccontextmanager
async def following(database: Database, *names: str, **request: Any) -> AsyncIterator[Client]:
    """A client that follows these collections, each by its name."""
    async with running_bridge(database.dsn) as bridge, await Client.connect(bridge.url) as client:
        for name in names:
            await client.send({"type": "subscribe", "collection": name, "uid": name, **request})
            await client.until(uid=name, event="init")
        yield client


def two_tables(database: Database) -> None:
    for name in "ab":
        database.execute(
            f"CREATE TABLE {name} (id int PRIMARY KEY, text text); INSERT INTO {name} VALUES (1, 'of {name}')"
        )
    attach(database, "a", "b")


async def test_subscribers_of_names_that_were_swapped_get_the_data_of_what_has_the_name(database: Database) -> None:
    two_tables(database)
    async with following(database, "a", "b") as client:
        database.execute(SWAP)
        found = {uid: message for uid in "ab" for message in [await client.until(event="init")] if uid}
        told = {message["uid"]: [row["text"] for row in message["data"]] for message in found.values()}
        assert told == {"a": ["of b"], "b": ["of a"]}
        assert {message["reason"] for message in found.values()} == {"resync"}
        database.execute("INSERT INTO a VALUES (2, 'more')")
        assert (await client.until(event="create"))["uid"] == "a"


async def test_rows_of_a_partition_that_was_detached_are_not_told(database: Database) -> None:
    """However soon after it was, and whatever else its transaction did."""
    database.execute(
        """
        CREATE TABLE p (id int PRIMARY KEY, text text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
        """
    )
    attach(database, "p")
    async with following(database, "p") as client:
        database.execute("INSERT INTO p VALUES (1, 'one'), (101, 'two')")
        await client.collect(2, event="create")
        database.execute("BEGIN; ALTER TABLE p DETACH PARTITION p2; INSERT INTO p2 VALUES (102, 'secret'); COMMIT")
        database.execute("INSERT INTO p2 VALUES (103, 'secret'); INSERT INTO p VALUES (2, 'three')")
        seen = []
        while "three" not in seen:
            seen += [row["text"] for row in (await client.next())["data"]]
        assert "secret" not in seen
