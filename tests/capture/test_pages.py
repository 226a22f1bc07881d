"""Reading the log page by page: everything between two snapshots, once, in order, and each change whole."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable

import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.capture.bulk_read import BulkRead
from cdc_bridge.capture.log_pages import Ask, asking, current_snapshot, pages
from cdc_bridge.model.change import Change, Era, Position, Snapshot
from cdc_bridge.model.row import Raw, Row
from cdc_bridge.ports import Page
from tests.capture.ear import attach_tables
from tests.core.facts import insert, snapshot
from tests.support.server import Database

ERA = Era(b"12345678", 0)


@pytest.fixture
def t(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int, text text); CREATE TABLE other (id int)")
    attach_tables(database, "t", "other", mode=Mode.DURABLE)
    return database


@pytest.fixture
async def reader(t: Database) -> AsyncIterator[Ask]:
    async with await t.connect() as connection:
        yield asking(connection, "cdc")


def relations(database: Database, *names: str) -> list[int]:
    return [oid for name in names for (oid,) in database.execute("SELECT %s::regclass::oid::bigint", [name])]


async def read(reader: Ask, tables: list[int], told: Position, upto: Snapshot | None = None) -> list[Page]:
    upto = upto or await current_snapshot(reader)
    return [page async for page in pages(reader, tables, (told,), upto)]


def ids(changes: Iterable[Change]) -> list[int]:
    return [int(bytes(row["id"])) for change in changes for row in change.new]


@pytest.mark.parametrize(
    "keys_max", [1, 32, 33, 34, 70, 20_000]
)  # a change has up to 33 rows, and is read a second time
@pytest.mark.parametrize("page_bytes_max", [1, 3000, 1_000_000])
async def test_everything_is_read_once_in_order_whatever_the_bounds(
    t: Database, reader: Ask, monkeypatch: pytest.MonkeyPatch, keys_max: int, page_bytes_max: int
) -> None:
    """A change of several rows is never torn, wherever the bounds fall."""
    monkeypatch.setattr("cdc_bridge.capture.log_pages.KEYS_MAX", keys_max)
    monkeypatch.setattr("cdc_bridge.capture.log_pages.PAGE_BYTES_MAX", page_bytes_max)
    begun = Position.of(ERA, await current_snapshot(reader))
    first = itertools.count(1)
    sizes = [1, 5, 33, 40, 1, 32, 2, 33, 33, 1, 100]
    for size in sizes:
        start = next(first)
        t.execute(
            "INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(%s::int, %s) n", [start, start + size - 1]
        )
        first = itertools.count(start + size)
    found = await read(reader, relations(t, "t"), begun)
    changes = [change for page in found for change in page.changes]
    assert ids(changes) == list(range(1, sum(sizes) + 1))
    assert [change.seq for change in changes] == sorted({change.seq for change in changes})
    assert [len(change.new) for change in changes] == sizes
    if page_bytes_max == 1:
        assert all(len(page.changes) == 1 for page in found)


async def test_what_the_last_snapshot_does_not_see_is_left_for_later(t: Database, reader: Ask) -> None:
    begun = Position.of(ERA, await current_snapshot(reader))
    async with await t.connect(autocommit=False) as open_one:
        await open_one.execute("INSERT INTO t VALUES (1)")
        t.execute("INSERT INTO t VALUES (2)")
        upto = await current_snapshot(reader)
        await open_one.commit()
    t.execute("INSERT INTO t VALUES (3)")
    assert [ids(page.changes) for page in await read(reader, relations(t, "t"), begun, upto)] == [[2]]
    later = await read(reader, relations(t, "t"), Position.of(ERA, upto))
    assert [ids(page.changes) for page in later] == [[1, 3]]


async def test_only_the_tables_that_are_asked_for_are_read(t: Database, reader: Ask) -> None:
    begun = Position.of(ERA, await current_snapshot(reader))
    t.execute("BEGIN; INSERT INTO t VALUES (1); INSERT INTO other VALUES (2); COMMIT")
    assert [ids(page.changes) for page in await read(reader, relations(t, "other"), begun)] == [[2]]
    both = await read(reader, relations(t, "t", "other"), begun)
    assert [ids(page.changes) for page in both] == [[1, 2]]


async def test_transaction_that_was_told_in_part_comes_with_what_was_told(t: Database, reader: Ask) -> None:
    """Whoever judges an order needs the changes that came before in the same transaction."""
    begun = Position.of(ERA, await current_snapshot(reader))
    t.execute("BEGIN; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); INSERT INTO t VALUES (3); COMMIT")
    upto = await current_snapshot(reader)
    [whole] = await read(reader, relations(t, "t"), begun, upto)
    for told, change in enumerate(whole.changes, start=1):
        half = Position.of(ERA, begun.seen, upto=upto, seq=change.seq)
        rest = await read(reader, relations(t, "t"), half, upto)
        expected = [(ids(whole.changes[:told]), ids(whole.changes[told:]))] if told < 3 else []
        assert [(ids(page.earlier), ids(page.changes)) for page in rest] == expected


async def test_bulk_read_carries_its_position_along_and_ends_at_its_snapshot() -> None:
    begun = Position.of(ERA, snapshot(100, 100))
    upto = snapshot(110, 110)
    one, two = (insert(Row(Raw('{"id":1}')), xid=xid, seq=seq) for xid, seq in [(105, 7), (103, 9)])
    bulk = BulkRead(frozenset({1}), begun, upto)
    had_page = bulk.has_page
    await bulk.pages.put((one,))
    assert (had_page, bulk.has_page) == (False, True)
    [first] = bulk.take()
    assert first.position is not None
    assert [first.position.has(each.xid, each.seq) for each in (one, two)] == [True, False]
    await bulk.pages.put((two,))
    [second] = bulk.take()
    assert second.position is not None
    assert [second.position.has(each.xid, each.seq) for each in (one, two)] == [True, True]
    assert bulk.delivered == second.position
    await bulk.pages.put(None)
    assert list(bulk.take()) == []
    assert bulk.delivered == Position.of(ERA, upto)
    assert bulk.is_done
