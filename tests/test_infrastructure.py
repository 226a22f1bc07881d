"""The tests' own tools: what they promise to the other tests."""

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.server import Database, own_cluster
from tests.support.wsclient import Client, Closed, connected


def test_cluster_keeps_committed_data_through_kill_and_restart(own_server: Cluster) -> None:
    """kill -9 of every process of the server, then a start that recovers."""
    with psycopg.connect(own_server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        backend = connection.info.backend_pid
        own_server.kill()
    assert not own_server.running
    assert not Path(f"/proc/{backend}").exists() or " Z " in Path(f"/proc/{backend}/stat").read_text()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_server.dsn(), connect_timeout=2)
    own_server.start()
    with psycopg.connect(own_server.dsn()) as connection:
        assert connection.execute("TABLE kept").fetchall() == [(1,)]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_cluster_keeps_its_port_and_data_through_a_restart(own_server: Cluster, mode) -> None:
    """Whoever reconnects finds the same server at the same place."""
    dsn = own_server.dsn()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    own_server.restart(mode)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("TABLE kept").fetchall() == [(1,)]


def test_deleted_cluster_leaves_no_file_and_no_process(own_server: Cluster) -> None:
    """Even if it was killed before."""
    process = own_server._process
    assert process is not None
    own_server.kill()
    own_server.delete()
    assert process.returncode == -signal.SIGKILL
    assert not own_server.folder.exists()
    own_server.delete()


@pytest.mark.database
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_cluster_ends_when_its_parent_is_killed() -> None:
    """A test run that is killed leaves no server behind."""
    program = (
        "from tests.support.server import own_cluster\n"
        "cluster = own_cluster(); cluster.start();"
        "print(cluster.folder, cluster.data_dir, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        folder, data_dir = map(Path, parent.stdout.readline().split())
        postmaster = os.pidfd_open(int((data_dir / "postmaster.pid").read_text().split()[0]))
        parent.kill()
    ended, _, _ = select.select([postmaster], [], [], 30)
    os.close(postmaster)
    own_cluster().delete()  # which also removes what was in memory
    assert data_dir.is_relative_to(folder) or not data_dir.exists()
    shutil.rmtree(folder)
    assert ended


def test_each_test_has_a_database_of_its_own(database: Database, server, template) -> None:
    """What one writes, another does not see; both begin as the template."""
    database.execute("CREATE TABLE mine (id int); INSERT INTO mine VALUES (1), (2)")
    assert database.execute("SELECT count(*) FROM mine WHERE id > %s", [1]) == [(1,)]
    other = server.create_database(template)
    try:
        assert other.execute("SELECT to_regclass('public.mine')") == [(None,)]
    finally:
        server.drop_database(other)
    with pytest.raises(psycopg.OperationalError):
        other.execute("SELECT 1")


async def test_database_connects_asynchronously(database: Database) -> None:
    """Keywords go to libpq; autocommit unless told otherwise."""
    async with await database.connect(application_name="elsewhere") as connection:
        cursor = await connection.execute("SELECT current_setting('application_name'), current_database()")
        assert await cursor.fetchone() == ("elsewhere", database.name)
        assert connection.autocommit


async def test_proxy_forwards_cuts_and_refuses(database: Database) -> None:
    """A cut ends open connections, a refusal only new ones."""
    async with Proxy.before(database.dsn) as proxy:
        dsn = proxy.dsn(database.dsn)
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(dsn, connect_timeout=5)
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")
        await proxy.accept()
        async with await psycopg.AsyncConnection.connect(dsn) as again:
            assert await (await again.execute("SELECT 2")).fetchone() == (2,)


async def test_frozen_proxy_holds_everything_until_it_thaws(database: Database) -> None:
    """A half-open line: nothing ends, nothing arrives, new connections hang."""
    async with Proxy.before(database.dsn) as proxy:
        dsn = proxy.dsn(database.dsn)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            proxy.freeze()
            question = asyncio.create_task(connection.execute("SELECT 1"))
            newcomer = asyncio.create_task(psycopg.AsyncConnection.connect(dsn))
            done, _ = await asyncio.wait({question, newcomer}, timeout=0.3)
            assert not done
            proxy.thaw()
            assert await (await question).fetchone() == (1,)
            await (await newcomer).close()


async def test_frozen_proxy_can_be_cut(database: Database) -> None:
    """The line that was half-open ends after all."""
    async with Proxy.before(database.dsn) as proxy:
        connection = await psycopg.AsyncConnection.connect(proxy.dsn(database.dsn), autocommit=True)
        proxy.freeze()
        question = asyncio.create_task(connection.execute("SELECT 1"))
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            await question
        await asyncio.gather(*proxy._connections, return_exceptions=True)
        assert proxy.connections == 0


async def test_proxy_swallows_notifications_and_nothing_else(database: Database) -> None:
    """Like a pooler whose server connections are not the client's: LISTEN succeeds and brings nothing."""
    async with Proxy.before(database.dsn, swallow=b"A") as proxy:
        connection = await psycopg.AsyncConnection.connect(proxy.dsn(database.dsn), autocommit=True)
        async with connection:
            await connection.execute("LISTEN news")
            rows = await (
                await connection.execute(
                    "SELECT pg_notify('news', 'lost'), repeat('x', 100000) FROM generate_series(1, 50)"
                )
            ).fetchall()
            assert len(rows) == 50
            assert [n async for n in connection.notifies(timeout=0.3)] == []
            proxy.swallow = b""
            database.execute("NOTIFY news, 'found'")
            notes = [n.payload async for n in connection.notifies(timeout=10, stop_after=1)]
            assert notes == ["found"]


async def _play(connection: ServerConnection) -> None:
    """A server that pings, expects the pong, sends rows, and closes."""
    await connection.send('{"type": "ping"}')
    assert json.loads(await connection.recv()) == {"type": "pong"}
    await connection.send('{"type": "subscription", "event": "init", "data": [1, 2]}')
    await connection.send('{"type": "subscription", "event": "create", "data": [3]}')
    await connection.send('{"type": "pong"}')
    await connection.close(1013, "slow")


async def test_client_answers_pings_and_hands_out_messages_in_order() -> None:
    """Until the server closes; then it says with which code."""
    async with serve(_play, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connected(f"ws://127.0.0.1:{port}") as client:
            assert await client.collect(3, type="subscription") == [1, 2, 3]
            await client.expect(type="pong")
            with pytest.raises(Closed) as closed:
                await client.next()
            assert (closed.value.code, closed.value.reason) == (1013, "slow")
            assert await client.closed() == 1013
        assert client.seen[0] == {"type": "ping"}


async def test_client_can_leave_pings_unanswered() -> None:
    """And says what came instead of what was expected."""

    async def ping(connection: ServerConnection) -> None:
        await connection.send('{"type": "ping"}')
        await connection.send(await connection.recv())

    async with serve(ping, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with await Client.connect(f"ws://127.0.0.1:{port}", answer_pings=False) as client:
            await client.send({"type": "echo"})
            with pytest.raises(AssertionError, match=r"expected .* got .*echo"):
                await client.expect(type="pong")


def test_own_cluster_is_not_started_by_itself() -> None:
    """Making one costs a folder, no process."""
    cluster = own_cluster()
    assert not cluster.running
    cluster.delete()
