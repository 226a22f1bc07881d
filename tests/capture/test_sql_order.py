"""Keys are told in the order that the catalog knows: by that a bridge notices that columns have swapped their names."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from cdc_bridge.database.catalog import read_catalog
from cdc_bridge.database.sessions import prepare
from tests.capture.ear import attach_tables, listening
from tests.support.server import Database

COLUMNS = {
    "plain": "a int, b int",
    "excluding": "a int, secret text, b int",
    "row by row": "a int, b int",
    "virtual": "a int, v int GENERATED ALWAYS AS (id * 2) VIRTUAL, b int",
}
TABLES = """
CREATE TABLE p (id int, {columns}) PARTITION BY LIST (id);
CREATE TABLE p1 (dropped int, b int, {columns_of_p1}, id int); ALTER TABLE p1 DROP dropped;
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p DEFAULT;
"""
APP = """
CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER app AFTER UPDATE ON p FOR EACH ROW EXECUTE FUNCTION nop();
"""
WRITES = """
INSERT INTO p (id, a, b) VALUES (1, 1, 1), (2, 1, 1);
INSERT INTO p (id, a, b) SELECT 2, 1, 1 FROM generate_series(1, 40);
INSERT INTO p1 (id, a, b) VALUES (1, 1, 1);
INSERT INTO p2 (id, a, b) VALUES (2, 1, 1);
UPDATE p SET a = 2; UPDATE p1 SET a = 3; UPDATE p2 SET a = 3;
DELETE FROM p1; DELETE FROM p2 WHERE b = 1; INSERT INTO p (id) VALUES (1); DELETE FROM p;
"""
SWAP = "ALTER TABLE p RENAME a TO x; ALTER TABLE p RENAME b TO a; ALTER TABLE p RENAME x TO b"
ALTERATIONS = [
    "",
    SWAP,
    "ALTER TABLE p ADD c int",
    "ALTER TABLE p DROP a; ALTER TABLE p ADD a int",
    "ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p1 RENAME a TO x; ALTER TABLE p1 RENAME b TO a;"
    "ALTER TABLE p1 RENAME x TO b; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1)",
]


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await database.connect() as conn:
        await prepare(conn, "cdc")
        yield conn


@pytest.mark.parametrize("kind", COLUMNS)
async def test_keys_are_in_the_order_of_the_catalog(
    database: Database, conn: psycopg.AsyncConnection[Any], kind: str, mode: Mode
):
    """Whatever is altered while a session writes, which has the plans of its triggers from before."""
    if kind == "virtual" and database.server.version < 180000:
        pytest.skip("virtual generated columns come with PostgreSQL 18")
    columns = COLUMNS[kind]
    database.execute(TABLES.format(columns=columns, columns_of_p1=columns.removesuffix(", b int")))
    if kind == "row by row":
        database.execute(APP)
    attach_tables(database, "p", exclude=("p.secret",) if kind == "excluding" else (), mode=mode)
    with listening(database) as ear, psycopg.connect(database.dsn, autocommit=True) as writer:
        for alteration in ALTERATIONS:
            writer.execute((alteration + ";" + WRITES).encode())
            p = (await read_catalog(conn, "cdc")).by_name["p"]
            told = {(heard.relation_id, tuple(row)) for heard in ear.heard() for row in heard.rows}
            assert told == {(relation_id, p.order(relation_id)) for relation_id, _ in told}
            assert len({order for _, order in told}) == 2, "nothing has another order than the table"
        assert ear.gap() == 0
