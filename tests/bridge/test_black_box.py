"""The installed command over real sockets, killed and signalled."""

from __future__ import annotations

import signal

import pytest
from psycopg.conninfo import make_conninfo

from cdc_bridge.admin.mode import Mode
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.server import Database, server_of
from tests.support.wsclient import Closed, connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

SUBSCRIBE = {"type": "subscribe", "collection": "t", "uid": "u"}


@pytest.fixture
def table(database: Database, mode: Mode) -> Database:
    return _with_table(database, mode)


@pytest.fixture
def own_table(own_server: Cluster, mode: Mode) -> Database:
    """The same on a server of the test's own."""
    return _with_table(server_of(own_server).create_database(), mode)


def _with_table(database: Database, mode: Mode) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    attach(database, "t", mode=mode)
    return database


async def test_killed_database_comes_back_and_ends_in_a_resync(own_server: Cluster, own_table: Database) -> None:
    async with BridgeProcess(own_table.dsn) as bridge:
        await bridge.ready()
        async with connected(bridge.url) as client:
            await client.send(SUBSCRIBE)
            await client.expect(event="init", data=[])
            own_server.kill()
            own_server.start()
            own_table.execute("INSERT INTO t VALUES (1, 'while it was away')")
            rows = [{"id": 1, "v": "while it was away"}]
            fresh = await client.expect(event="init", reason="resync", uid="u", timeout=60)
            if not fresh["data"]:  # the bridge was back before the row was written
                fresh = await client.expect(event="create")
            assert fresh["data"] == rows
            own_table.execute("INSERT INTO t VALUES (2, 'heard')")
            await client.expect(event="create", data=[{"id": 2, "v": "heard"}])
        bridge.terminate()
        assert await bridge.wait() == 0
    assert "Traceback" not in bridge.stderr


async def test_bridge_starts_before_its_database(own_server: Cluster, own_table: Database) -> None:
    own_server.stop()
    async with BridgeProcess(own_table.dsn) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        own_server.start()
        await client.expect(event="init", data=[], timeout=60)
    assert "Traceback" not in bridge.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_closes_clients_with_1012_and_exits_with_0(table: Database, number: signal.Signals) -> None:
    async with BridgeProcess(table.dsn) as bridge:
        await bridge.ready()
        async with connected(bridge.url) as client:
            await client.send(SUBSCRIBE)
            await client.expect(event="init")
            bridge.signal(number)
            assert await client.closed() == 1012
            with pytest.raises(Closed):
                await client.next()
        assert await bridge.wait(timeout=10) == 0
    assert "Traceback" not in bridge.stderr


async def test_what_waits_is_flushed_before_the_end(table: Database) -> None:
    async with BridgeProcess(table.dsn) as bridge:
        await bridge.ready()
        host, port = bridge.http.removeprefix("http://").split(":")
        async with (
            Proxy(host, int(port)) as proxy,
            connected(bridge.url.replace(port, str(proxy.port))) as far,
            connected(bridge.url) as near,
        ):
            for client in (far, near):
                await client.send(SUBSCRIBE)
                await client.expect(event="init")
            proxy.freeze()
            for number in range(3):
                table.execute("INSERT INTO t VALUES (%s)", [number])
                await near.expect(event="create", data=[{"id": number, "v": None}])
                table.execute("DELETE FROM t")
                await near.expect(event="delete", data=[number])
            bridge.terminate()
            assert await near.closed() == 1012
            proxy.thaw()
            assert await far.closed() == 1012
            said = [(message["event"], message["data"]) for message in far.seen[1:]]
            rows = [[{"id": number, "v": None}] for number in range(3)]
            assert said == [step for n in range(3) for step in (("create", rows[n]), ("delete", [n]))]
        assert await bridge.wait() == 0


async def test_table_that_is_attached_later_is_served(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    async with BridgeProcess(database.dsn) as bridge, connected(bridge.url) as client:
        await client.send(SUBSCRIBE)
        await client.expect(type="subscribe", status="error")
        await bridge.says("cdc-bridge attach")
        attach(database, "t")
        await client.send(SUBSCRIBE)
        await client.expect(event="init", data=[], timeout=60)


async def test_stuck_client_and_frozen_database_do_not_delay_the_end(table: Database) -> None:
    async with Proxy.before(table.dsn) as to_database, BridgeProcess(to_database.dsn(table.dsn)) as bridge:
        await bridge.ready()
        host, port = bridge.http.removeprefix("http://").split(":")
        async with Proxy(host, int(port)) as proxy, connected(bridge.url.replace(port, str(proxy.port))) as client:
            await client.send(SUBSCRIBE)
            await client.expect(event="init")
            to_database.freeze()
            await client.send({"type": "items", "action": "read", "collection": "t"})
            await client.send({"type": "ping"})
            await client.expect(type="pong")
            proxy.freeze()
            bridge.terminate()
            assert await bridge.wait(timeout=8) == 0
            proxy.cut()  # nobody is left who would close the client


async def test_role_that_may_not_use_our_schema_is_told_whose_it_is(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    role = f"reader_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN")
    try:
        async with BridgeProcess(make_conninfo(database.dsn, user=role)) as bridge:
            await bridge.says("connect as its owner")
    finally:
        database.execute(f"DROP ROLE {role}")
