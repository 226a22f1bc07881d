"""Triggers that somebody has disabled: it is said for as long as they are, and ends in fresh data."""

from __future__ import annotations

import asyncio
import logging
import urllib.error
import urllib.request
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin import attach as attaching
from cdc_bridge.admin import detach as detaching
from cdc_bridge.admin.problems import missed
from cdc_bridge.admin.status import read_status
from cdc_bridge.admin.tables import Tree, as_trees, query_tables
from cdc_bridge.database.sessions import prepare
from cdc_bridge.model.errors import NotOwner
from tests.support.attach import attach
from tests.support.bridge import RunningBridge, running_bridge
from tests.support.follower import following
from tests.support.server import Database

pytestmark = pytest.mark.once  # slow, and nothing in it depends on the server's version

QUICK: dict[str, Any] = {"heartbeat_interval_s": 0.1, "reconnect_delay_max_s": 0.3}
WITHIN_S = 20.0
MESSAGE = "a table is not captured as it should be"


@pytest.fixture(autouse=True)
def _custody_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_bridge.bridge.CATALOG_INTERVAL_S", 0.1)


async def trees(session: psycopg.AsyncConnection[Any]) -> list[Tree]:
    return as_trees(await query_tables("cdc").all_async(session))


async def readiness(bridge: RunningBridge) -> str:
    def ask() -> str:
        try:
            with urllib.request.urlopen(f"{bridge.http}/readyz", timeout=10) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()

    return await asyncio.to_thread(ask)


async def says(bridge: RunningBridge, text: str) -> None:
    """Wait until /readyz says this. Nothing but asking tells."""
    async with asyncio.timeout(WITHIN_S):
        while text not in await readiness(bridge):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("harm", "fault", "mend"),
    [
        ("ALTER TABLE t DISABLE TRIGGER USER", "disabled", "ALTER TABLE t ENABLE TRIGGER USER"),
        ('DROP TRIGGER "00_cdc_bridge_insert" ON t', "missing", None),
    ],
)
async def test_triggers_that_do_not_fire_are_said_while_they_do_not(
    database: Database, caplog: pytest.LogCaptureFixture, harm: str, fault: str, mend: str | None
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
    attach(database, "t", "other")
    problem = f'changes of public.t may be missed: the trigger "00_cdc_bridge_insert" on public.t is {fault}'
    async with running_bridge(database.dsn, **QUICK) as bridge, following(bridge.url) as subscriber:
        await says(bridge, "ready")
        with caplog.at_level(logging.ERROR):
            database.execute(harm)
            await says(bridge, problem)
            database.execute("INSERT INTO t VALUES (1)")
            await asyncio.sleep(0.5)
            assert "other" not in await readiness(bridge)
        if mend:
            database.execute(mend)
        else:
            attach(database, "t")
        await says(bridge, "ready")
        await subscriber.knows(1)
        await subscriber.is_resynced()
    told = [record for record in caplog.records if record.getMessage() == MESSAGE]
    assert len(told) == 1


async def test_partition_is_said_with_its_table_and_what_bridges_mend_is_not(database: Database) -> None:
    database.execute(
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)"
    )
    attach(database, "p")
    async with await database.connect() as session:
        await prepare(session, "cdc")
        (tree,) = await trees(session)
        assert missed(tree) is None
        database.execute("CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3)")
        (tree,) = await trees(session)
        assert missed(tree) is None
        database.execute("ALTER TABLE p2 DISABLE TRIGGER ALL")
        (tree,) = await trees(session)
        assert missed(tree) == (
            'changes of public.p may be missed: the trigger "00_cdc_bridge_partition_insert" on public.p2 is disabled:'
            " run attach again (3 more: see cdc-bridge status)"
        )


async def test_what_this_role_may_not_mend_is_said(database: Database) -> None:
    database.execute(
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE t (id int);"
        "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    attach(database, "p", "t")
    role = f"reader_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA cdc TO {role};"
        "CREATE TABLE p1 PARTITION OF p DEFAULT;"
        "CREATE TRIGGER app AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    try:
        async with await database.connect() as session:
            await prepare(session, "cdc")
            assert [missed(tree) for tree in await trees(session)] == [None, None]
        async with await database.connect(user=role) as session:
            await prepare(session, "cdc")
            of_p, of_t = [missed(tree) for tree in await trees(session)]
        assert of_p == (
            "changes of public.p may be missed: the partition public.p1 has no triggers yet: run attach again"
        )
        assert of_t
        assert of_t.startswith('changes of public.t may be missed: public.t has the row trigger "app"')
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_table_given_to_another_role_is_said_until_its_rights_are(database: Database) -> None:
    """Its subscribers are refused, and nobody else would tell why."""
    owner, app = f"owner_{database.name}", f"app_{database.name}"
    database.execute(
        f"CREATE ROLE {owner} LOGIN; CREATE ROLE {app}; ALTER DATABASE {database.name} OWNER TO {owner};"
        f"CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO {owner}"
    )
    dsn = make_conninfo(database.dsn, user=owner)
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            attaching.apply(conn, attaching.plan(conn, attaching.Request(("t",))))
            async with running_bridge(dsn, **QUICK) as bridge:
                await says(bridge, "ready")
                database.execute(f"ALTER TABLE t OWNER TO {app}")
                problem = f'public.t belongs to the role "{app}"'
                await says(bridge, problem)
                status = await asyncio.to_thread(read_status, conn, reads_by_itself=True)
                assert any(each.startswith(problem) for each in status.problems)
                with pytest.raises(NotOwner, match="as that role, or as a member of it; nothing was detached"):
                    await asyncio.to_thread(detaching.plan, conn, detaching.Request(all_tables=True))
                database.execute(f"GRANT {app} TO {owner}")
                await says(bridge, "ready")
    finally:
        database.execute(f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER")
        database.execute(f"DROP OWNED BY {owner}, {app} CASCADE; DROP ROLE {owner}, {app}")
