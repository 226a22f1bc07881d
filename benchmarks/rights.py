"""Measure what it costs that everybody sees what they may, and nothing else.

    python -m benchmarks.rights [--rounds 5] [--changes 5000]

A bridge in a process of its own, all clients in another one, each with a socket and a token of its own, and a writer
here, on the same processors. The same events go to the same clients with row-level security and without: there each
asks by a filter for what else a policy would leave. Rounds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from websockets.asyncio.client import connect

from benchmarks import stage
from benchmarks.figures import headline, in_turn, show, show_ratio
from benchmarks.sharing import Client
from benchmarks.swarm import CONTEXT
from cdc_bridge.access.access_policy import AccessPolicy
from cdc_bridge.database.catalog_reader import PooledCatalogReader
from cdc_bridge.database.row_evaluator import PooledRowEvaluator
from cdc_bridge.database.sessions import prepare
from cdc_bridge.engine.evaluation import settle
from cdc_bridge.engine.hub import Hub
from cdc_bridge.engine.publisher import Publisher
from cdc_bridge.engine.query_parser import QueryParser
from cdc_bridge.engine.subscriber import Anchor
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.change import NO_ERA, Change, Operation, Snapshot
from cdc_bridge.model.row import Row
from cdc_bridge.model.security_context import Principal
from cdc_bridge.model.subscription import Subscription
from cdc_bridge.ports import InitialData
from cdc_bridge.query.forms import QueryLimits
from tests.support.cluster import Cluster

ROLE = "bench_user"
SECRET = "only for figures, and long enough for that"
USERS, MEMBERS, ROOMS = 1000, 100, 10
READY_WITHIN_S = 120.0
TELL_WITHIN_S = 300.0
BATCH = 64
"""Changes that the listener reads ahead."""

SCHEMA = f"""
CREATE ROLE {ROLE};
CREATE SCHEMA auth;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
CREATE TABLE open_notes (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, owner uuid, text text);
CREATE TABLE notes (LIKE open_notes INCLUDING ALL);
CREATE TABLE open_messages (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, room int, text text);
CREATE TABLE messages (LIKE open_messages INCLUDING ALL);
CREATE TABLE members (room int, person uuid, PRIMARY KEY (person, room));
INSERT INTO members SELECT n % {ROOMS}, lpad(n::text, 32, '0')::uuid FROM generate_series(0, {MEMBERS - 1}) n;
ANALYZE members;
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (owner = auth.uid());
CREATE POLICY of_members ON messages USING (
    EXISTS (SELECT FROM members m WHERE m.room = messages.room AND m.person = auth.uid()));
GRANT USAGE ON SCHEMA public, auth TO {ROLE};
GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE};
"""
TABLES = ("open_notes", "notes", "open_messages", "messages")


def user(number: int) -> str:
    return str(UUID(f"{number:032d}"))


def token(sub: str) -> str:
    return jwt.encode({"role": ROLE, "sub": sub}, SECRET, algorithm="HS256")


@dataclass(frozen=True, slots=True)
class Audience:
    """So many users, each of whom follows a table, with the filter that stands for the policy."""

    users: int
    table: str
    filter: Callable[[int], dict[str, Any]] = lambda number: {}

    def request(self, number: int) -> str:
        query = {"limit": 0, "filter": self.filter(number)}
        return json.dumps({"type": "subscribe", "collection": self.table, "uid": "u", "query": query})


# --- the clients ----------------------------------------------------------------------------------------------------


class Message(msgspec.Struct):
    """The members of a message that matter; `data` of an event are rows."""

    type: str = ""
    event: str = ""
    reason: str = ""
    data: list[msgspec.Raw] = []


@dataclass(frozen=True, slots=True)
class Shared:
    ready: Event
    rows: Synchronized[int]
    resyncs: Synchronized[int]


def follow_all(url: str, requests: Sequence[tuple[str, str]], shared: Shared) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_follow_all(url, requests, shared))


async def _follow_all(url: str, requests: Sequence[tuple[str, str]], shared: Shared) -> None:
    decode = msgspec.json.Decoder(Message).decode
    waiting = len(requests)

    async def follow(bearer: str, request: str) -> None:
        nonlocal waiting
        address = f"{url}?access_token={bearer}"
        async with connect(address, max_size=None, compression=None, proxy=None, open_timeout=60) as socket:
            await socket.send(request)
            async for text in socket:
                message = decode(text)
                if message.type == "ping":
                    await socket.send('{"type":"pong"}')
                elif message.event == "init":
                    shared.resyncs.value += message.reason == "resync"
                    waiting -= 1
                    if not waiting:
                        shared.ready.set()
                else:
                    shared.rows.value += len(message.data)

    await asyncio.gather(*(follow(*each) for each in requests))


@contextlib.contextmanager
def following(url: str, audience: Audience) -> Iterator[Shared]:
    shared = Shared(CONTEXT.Event(), CONTEXT.Value("q", 0), CONTEXT.Value("q", 0))
    requests = [(token(user(number)), audience.request(number)) for number in range(audience.users)]
    process = CONTEXT.Process(target=follow_all, args=(url, requests, shared), daemon=True)
    process.start()
    try:
        if not shared.ready.wait(READY_WITHIN_S):
            raise RuntimeError("no initial data came")
        yield shared
    finally:
        process.terminate()
        process.join()


# --- the runs -------------------------------------------------------------------------------------------------------


def write(dsn: str, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
    """A transaction for each row, as fast as one session can."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        with connection.pipeline(), connection.cursor() as cursor:
            for each in values:
                cursor.execute(statement.encode(), each)


def events_per_s(dsn: str, bridge: stage.BridgeProcess, audience: Audience, rows: Sequence[Any], told: int) -> float:
    column = "owner" if audience.table.endswith("notes") else "room"
    with following(bridge.url, audience) as shared:
        began, cpu_s = time.monotonic(), bridge.cpu_s()
        write(dsn, f"INSERT INTO {audience.table} ({column}, text) VALUES (%s, 'what is said')", [(v,) for v in rows])
        while shared.rows.value < told:
            if time.monotonic() - began > TELL_WITHIN_S or shared.resyncs.value:
                raise RuntimeError(f"told of {shared.rows.value} rows of {told}, {shared.resyncs.value} resyncs")
            time.sleep(0.002)
        took_s = time.monotonic() - began
        each_us = (bridge.cpu_s() - cpu_s) / len(rows) * 1e6
        show(
            f"    {audience.table}, {audience.users} users",
            f"{told / took_s:,.0f} events/s",
            note=f"{len(rows) / took_s:,.0f} changes/s, {each_us:.0f} us of the bridge's processor each",
        )
        return told / took_s


def compare(title: str, dsn: str, bridge: stage.BridgeProcess, options: Options, pair: Pair) -> None:
    headline(title)
    secured: list[float] = []
    plain: list[float] = []
    for number in range(options.rounds):
        for audience, found in in_turn([(pair.plain, plain), (pair.secured, secured)], number):
            found.append(events_per_s(dsn, bridge, audience, pair.rows(options.changes), pair.told(options.changes)))
    show_ratio("with row-level security to without", secured, plain, target=pair.target)


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    changes: int


@dataclass(frozen=True, slots=True)
class Pair:
    """The same events with and without policies. `told`: how many there are of so many changes."""

    plain: Audience
    secured: Audience
    rows: Callable[[int], list[Any]]
    told: Callable[[int], int]
    target: str


OWN = Pair(
    Audience(USERS, "open_notes", lambda number: {"owner": {"_eq": user(number)}}),
    Audience(USERS, "notes"),
    lambda count: [user(number % USERS) for number in range(count)],
    lambda count: count,
    "at least 0.5",
)
OF_MEMBERS = Pair(
    Audience(MEMBERS, "open_messages", lambda number: {"room": {"_eq": number % ROOMS}}),
    Audience(MEMBERS, "messages"),
    lambda count: [number % ROOMS for number in range(count)],
    lambda count: count * MEMBERS // ROOMS,
    "at least 0.2",
)


# --- equal claims ---------------------------------------------------------------------------------------------------


async def compare_equal(dsn: str, rounds: int) -> None:
    """In this process, with the database: weighed, asked and encoded, for as many as have the same token."""
    headline(
        f"A change under a membership policy, for equal principals ({BATCH} at a time): microseconds of wall clock"
    )
    keywords = {"autocommit": True, "prepare_threshold": None}
    async with AsyncConnectionPool(dsn, min_size=1, max_size=3, kwargs=keywords, configure=_prepare) as pool:
        catalog = await PooledCatalogReader(pool, dsn, "cdc", {}, roles=[ROLE]).read()
        evaluator = PooledRowEvaluator(pool)
        found: dict[int, list[float]] = {1: [], 1000: []}
        publishers = {count: await publisher_with(count, catalog, evaluator) for count in found}
        for number in range(rounds * 5):
            for count in in_turn(list(found), number):
                found[count].append(await asked_us(publishers[count], catalog, evaluator))
        show_ratio("1,000 with equal claims to 1", found[1000], found[1], target="at most 1.5")
        show("  for 1", f"{statistics.median(found[1]):.0f} us")


async def _prepare(connection: AsyncConnection[Any]) -> None:
    await prepare(connection, "cdc")


async def publisher_with(count: int, catalog: Catalog, evaluator: PooledRowEvaluator) -> Publisher:
    hub = Hub(1 << 24)
    publisher = Publisher(hub.collections, hub.subscribers)
    hub.adopt(catalog, lambda known, _: known)
    principal = Principal(ROLE, ROLE, json.dumps({"role": ROLE, "sub": user(1)}))
    parser = QueryParser(evaluator, QueryLimits(100, 10_000, 10, 100, 10_000), AccessPolicy())
    read = await parser.parse({}, "messages", catalog, principal, to_follow=True)
    client = Client()
    for number in range(count):
        wanted = Subscription(read.collection, read.query, uid=str(number), context=read.context, rights=read.rights)
        data = InitialData(Snapshot(1, 1, frozenset()), (), more=False)
        hub.begin(hub.follow(client, wanted), Anchor(NO_ERA, bytes(8)), data)
    publisher.take_heartbeat(Snapshot(1 << 60, 1 << 60, frozenset()))
    return publisher


async def asked_us(publisher: Publisher, catalog: Catalog, evaluator: PooledRowEvaluator) -> float:
    relation_id = catalog.by_name["messages"].relation_id
    filenode = catalog.by_name["messages"].filenodes[relation_id]
    changes = [
        Change(Operation.INSERT, number, number + 10, relation_id, filenode, new=(message(number),))
        for number in range(BATCH)
    ]
    began = time.perf_counter()
    for change in changes:
        publisher.apply(change)
    matches = [match for inquiry in publisher.inquiries for match in inquiry.matches]
    publisher.inquiries = []
    await settle(evaluator, matches)
    told = [events for match in matches for _, events in match.events(None)]
    assert len(told) == len([number for number in range(BATCH) if number % ROOMS == 1]), told
    return (time.perf_counter() - began) / BATCH * 1e6


def message(number: int) -> Row:
    fields = {"id": number, "room": number % ROOMS, "text": "what is said"}
    return Row(msgspec.Raw(msgspec.json.encode(fields)))


def run(cluster: Cluster, options: Options) -> None:
    dsn = cluster.dsn("rights")
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE rights")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEMA)
        stage.attach_durably(connection, *TABLES)
    with stage.running_bridge(dsn, "--jwt-secret", SECRET, "--roles", ROLE, "--auth-mode", "public") as bridge:
        compare(f"Policy on a column, {USERS} users, each told of its own rows", dsn, bridge, options, OWN)
        compare(f"Policy with a subquery, {MEMBERS} users in {ROOMS} rooms", dsn, bridge, options, OF_MEMBERS)
    asyncio.run(compare_equal(dsn, options.rounds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rights", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--changes", type=int, default=5000)
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    options = parser.parse_args()
    with stage.server(options.pg_bin) as cluster:
        run(cluster, Options(options.rounds, options.changes))


if __name__ == "__main__":
    main()
