"""`cdc-bridge top`: rates between two looks at a database and at bridges."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from rich.console import Console, Group

from cdc_bridge.admin.attach import Request, apply, plan
from cdc_bridge.admin.roles import RoleNames, script
from cdc_bridge.cli.scrape import Scrape, scrape, summary
from cdc_bridge.cli.top import bridge_view
from tests.cli.command import assert_one_sentence, run
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.server import Database
from tests.support.wsclient import connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

MEMBERS = {
    "at", "interval_s", "writes", "log", "gate_open", "notify", "notification_queue_usage", "new_gaps", "gaps",
    "oldest_write_s", "sees_all_transactions", "bridges", "metrics",
}  # fmt: skip
METRICS = {
    "url", "problem", "ready", "reasons", "late_topics", "changes_per_s", "deliveries_per_s", "sent_bytes_per_s",
    "closes_per_s", "connections", "subscriptions", "topics", "backlog_bytes", "oldest_undelivered_s", "new_gaps",
    "new_resyncs", "lag", "round_trip", "closed_as_slow", "policies",
}  # fmt: skip


async def test_what_happens_in_database_and_bridge(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE messages (id serial PRIMARY KEY, text text)")
    attach(database, "messages")

    stopped = asyncio.Event()

    async def write() -> None:
        async with await database.connect() as connection:
            while not stopped.is_set():
                await connection.execute("INSERT INTO messages (text) VALUES ('x')")
                await connection.execute("SELECT pg_stat_force_next_flush()")

    async with running_bridge(database.dsn) as running, connected(running.url) as client:
        await client.send({"type": "subscribe", "collection": "messages"})
        await client.expect(event="init")
        writing = asyncio.create_task(write())
        asked = ("top", "--dsn", database.dsn, "--url", running.http, "--url", "http://127.0.0.1:1", "--once")
        done = await asyncio.to_thread(run, *asked, "--json", "--interval", "1", cwd=tmp_path)
        shown = await asyncio.to_thread(run, *asked, cwd=tmp_path)
        stopped.set()
        await writing
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    members = json.loads(line)
    assert set(members) == MEMBERS
    [table] = members["writes"]
    assert (table["collection"], table["deletes_per_s"]) == ("messages", 0)
    assert table["inserts_per_s"] > 0
    assert members["log"]["rows_per_s"] > 0
    assert len(members["bridges"]) == 1
    of_bridge, of_nobody = members["metrics"]
    assert set(of_bridge) == METRICS
    assert of_bridge["changes_per_s"] > 0
    assert (of_bridge["ready"], of_bridge["connections"], of_bridge["subscriptions"]) == (True, 1, 1)
    assert {each["cause"] for each in of_bridge["lag"]} >= {"match"}
    assert of_nobody["problem"].startswith("no metrics: ")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "rows written a second" in shown.stdout
    assert "no metrics: " in shown.stdout
    assert "\x1b" not in shown.stdout


def test_figures_of_a_bridge_are_of_the_time_between_two_looks() -> None:
    def looked(at_s: float, quick: float, slow: float, changes: float) -> Scrape:
        times: dict[tuple[str, ...], float] = {
            ("read", "0.1"): quick,
            ("read", "1.0"): quick + slow,
            ("read", "+Inf"): quick + slow,
        }
        counted: dict[tuple[str, ...], float] = {("messages", "insert"): changes}
        values = {"cdc_lag_seconds_bucket": times, "cdc_changes_total": counted}
        return Scrape("http://bridge", at_s, values)

    found = summary(looked(10, 1000, 0, 50), looked(12, 1001, 9, 70))
    assert found["changes_per_s"] == 10
    assert found["lag"] == [{"cause": "read", "p50_s": 1.0, "p99_s": 1.0}]
    assert summary(looked(10, 5, 5, 50), looked(12, 5, 5, 1))["changes_per_s"] == 0  # it was started again
    assert summary(looked(10, 5, 5, 50), looked(12, 5, 5, 1))["lag"] == []


def test_clients_that_lag_and_busy_policies_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    late = {"collection": "messages", "subscribers": 9, "late": 2, "waiting_bytes": 500, "oldest_age_s": 3.25}
    policy: dict[tuple[str, ...], float] = {("notes", "of_members"): 0.5}
    state = {"ready": False, "reasons": ["not listening to the database"], "late_topics": [late]}
    before = Scrape("http://bridge", 10, {})
    after = Scrape("http://bridge", 12, {"cdc_policy_evaluation_seconds_sum": policy}, state=state)
    Console(highlight=False, width=120).print(Group(*bridge_view(summary(before, after))))
    shown = " ".join(capsys.readouterr().out.split())
    assert "ready not listening to the database" in shown
    assert "messages 2 of 9 500 bytes 3.2 s" in shown
    assert "notes of_members 25.0%" in shown


def test_runtime_role_sees_what_it_may_and_is_told_what_it_does_not(database: Database, tmp_path: Path) -> None:
    roles = RoleNames(f"own_{database.name}", f"run_{database.name}", ())
    database.execute(script(roles, "cdc"))
    try:
        with psycopg.connect(database.dsn, user=roles.owner, autocommit=True) as owner:
            owner.execute("CREATE SCHEMA own; CREATE TABLE own.messages (id int PRIMARY KEY)")
            apply(owner, plan(owner, Request(("own.messages",)), "cdc"), lock_limit_s=5)
        asked = (
            "top",
            "--dsn",
            make_conninfo(database.dsn, user=roles.runtime),
            "--once",
            "--url",
            "http://127.0.0.1:1",
        )
        with psycopg.connect(database.dsn) as other:
            other.execute("INSERT INTO own.messages VALUES (1)")
            done = run(*asked, cwd=tmp_path)
            other.rollback()
        assert (done.returncode, done.stderr) == (0, "")
        assert "others' are hidden from this role" in done.stdout
        assert re.search(r"^ gate +(open|shut)", done.stdout, re.MULTILINE)
    finally:
        both = f"{roles.owner}, {roles.runtime}"
        database.execute(f"DROP OWNED BY {both} CASCADE; DROP ROLE {both}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{nonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\ncut",
        b"\x00 no HTTP\r\n\r\n",
    ],
    ids=["no metrics", "cut off", "no HTTP"],
)
async def test_what_is_no_bridge_has_no_metrics(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        assert (await asyncio.to_thread(scrape, f"http://{host}:{port}")).problem.startswith("no metrics: ")


@pytest.mark.parametrize(
    "said", [b"5", b"[" * 100_000, b"\xff", b'{"reasons":[1]}', b'{"late_topics":[{}]}', b'{"late_topics":"x"}']
)
async def test_state_that_is_none_of_a_bridge_is_not_shown(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b"cdc_topics 1\n" if b"/metrics" in await reader.readuntil(b"\r\n\r\n") else said
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        found = await asyncio.to_thread(scrape, f"http://{host}:{port}")
    assert (found.problem, found.state) == ("", {})
    assert [*bridge_view(summary(found, found))]


def test_what_is_no_address_has_no_metrics() -> None:
    assert scrape("http://127.0.0.1:1/\x1b").problem.startswith("no metrics: no address")


def test_database_without_our_schema_is_refused(database: Database, tmp_path: Path) -> None:
    done = run("top", "--once", "--dsn", database.dsn, cwd=tmp_path)
    assert "attach a table first" in assert_one_sentence(done, 3)
