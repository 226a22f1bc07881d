"""Measure what the bridge's process needs to deliver changes: by sockets, by subscriptions, by rows of a statement.

The floor receives a notification of each row and writes it to all its clients (`floor.py`). It gets rows by turns with
the bridge, and as many sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import psycopg

from benchmarks.figures import Figure, Goal, in_turn
from benchmarks.floor import Floor, running_floor
from benchmarks.stage import (
    BridgeProcess,
    Effort,
    Subject,
    attach_durably,
    insert,
    process_cpu_s,
    running_bridge,
    set_up,
    wait_until_open,
)
from benchmarks.swarm import Swarm, subscribe, swarm
from benchmarks.writers import run_pgbench
from tests.support.cluster import Cluster

PAUSE_S = 0.01
BURST_WRITERS = 4
SUBSCRIPTIONS_A_SOCKET = 100
STATEMENT_ROWS = 1_000
SIDES = (Subject.ATTACHED, Subject.NAIVE)

ACCOUNTS = "INSERT INTO {} (account, amount) SELECT n, 1 FROM generate_series(0, {} - 1) n"
STATEMENT = """
INSERT INTO {} (account, note, amount, details)
SELECT n, 'what the customer had to say about it', n / 100.0, '{{"colour": "blue", "parts": [1, 2, 3]}}'
FROM generate_series(1, %s) AS n
"""
PLAIN = "CREATE TABLE plain (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, room int, text text, author int)"
PLAIN_STATEMENT = """
INSERT INTO plain (room, text, author)
SELECT n %% 7, 'what the customer had to say about it', n FROM generate_series(1, %s) AS n
"""


@dataclass(frozen=True, slots=True)
class Side:
    """The bridge or the floor, with its clients; they were there after `ready_s`."""

    process: BridgeProcess | Floor
    clients: Swarm
    ready_s: float

    def paced_us(self, rows: int, deliveries: int, send: Callable[[int], None]) -> float:
        """The processor time of a delivery, where each row is sent when all clients have the one before."""
        received, began_s = self.clients.rows, self.process.cpu_s()
        for row in range(rows):
            send(row)
            self.clients.wait_for(received + (row + 1) * deliveries)
            time.sleep(PAUSE_S)
        return (self.process.cpu_s() - began_s) / (rows * deliveries) * 1e6

    def burst(self, rows: int, sockets: int, send: Callable[[int], object]) -> tuple[float, float]:
        """Deliveries a second, and the processor time of one, of so many rows that are sent as fast as possible."""
        received, began_s, cpu_s = self.clients.rows, time.monotonic(), self.process.cpu_s()
        send(rows)
        self.clients.wait_for(received + rows * sockets)
        deliveries = rows * sockets
        return deliveries / (self.clients.last_s - began_s), (self.process.cpu_s() - cpu_s) / deliveries * 1e6


@contextmanager
def _sides(dsn: str, requests: Sequence[str], each: int, floor_clients: int) -> Iterator[dict[Subject, Side]]:
    """Both sides, with clients that make so many requests each."""
    with ExitStack() as opened:
        sides: dict[Subject, Side] = {}
        bridge, floor = opened.enter_context(running_bridge(dsn)), opened.enter_context(running_floor(dsn))
        for subject, process, asked in (
            (Subject.ATTACHED, bridge, requests),
            (Subject.NAIVE, floor, ["{}"] * floor_clients),
        ):
            began_s = time.monotonic()
            clients = opened.enter_context(swarm(process.url, asked, each if process is bridge else 1))
            sides[subject] = Side(process, clients, time.monotonic() - began_s)
        yield sides


def run_sockets(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Equal subscriptions on more and more sockets."""
    for count in effort.sockets:
        rows = max(10, min(200, effort.deliveries // 10 // count))
        burst = max(40, min(effort.deliveries // 25, 3 * effort.deliveries // count))
        dsn = set_up(cluster, f"sockets_{count}")
        costs: dict[Subject, list[float]] = {subject: [] for subject in SIDES}
        bursts: dict[Subject, list[tuple[float, float]]] = {subject: [] for subject in SIDES}
        with _sides(dsn, [subscribe("attached")] * count, 1, count) as sides, psycopg.connect(dsn) as connection:
            wait_until_open(connection)
            for number in range(effort.rounds):
                for subject in in_turn(SIDES, number):
                    costs[subject].append(sides[subject].paced_us(rows, count, partial(insert, connection, subject)))
            for number in range(effort.rounds):
                for subject in in_turn(SIDES, number):
                    write = partial(_write, cluster, dsn, subject)
                    bursts[subject].append(sides[subject].burst(burst, count, write))
        rates, burst_costs = ({side: [each[index] for each in bursts[side]] for side in SIDES} for index in (0, 1))
        goal = {1: Goal("<=", 2), 1_000: Goal("<=", 16, of_value=True)}.get(count)
        yield _figure("sockets", "CPU, one at a time", "us/delivery", costs, count, goal=goal)
        goal = Goal("<=", 1.7, of_value=True) if count == 1_000 else None
        yield _figure("sockets", "CPU, in a burst", "us/delivery", burst_costs, count, goal=goal)
        yield _figure("sockets", "deliveries, in a burst", "rows/s", rates, count)


def _figure(
    part: str, name: str, unit: str, found: dict[Subject, list[float]], count: int, *, goal: Goal | None = None
) -> Figure:
    ours, bare = found[Subject.ATTACHED], found[Subject.NAIVE]
    return Figure(part, name, unit, ours, bare, count, part, goal)


def _write(cluster: Cluster, dsn: str, subject: Subject, rows: int) -> None:
    each = f"-t {rows // BURST_WRITERS}".split()
    run_pgbench(cluster, dsn, subject, BURST_WRITERS, *each)


def run_subscriptions(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """More and more subscriptions, each with a filter of its own, one of which a row matches."""
    for count in effort.subscriptions:
        requests = [
            subscribe("attached", uid=number, limit=-1, filter={"account": {"_eq": number}}) for number in range(count)
        ]
        dsn = set_up(cluster, f"subscriptions_{count}")
        costs: dict[Subject, list[float]] = {subject: [] for subject in SIDES}
        with psycopg.connect(dsn) as connection:
            connection.execute(ACCOUNTS.format(Subject.ATTACHED, count))
            connection.commit()
            with _sides(dsn, requests, SUBSCRIPTIONS_A_SOCKET, 1) as sides:
                wait_until_open(connection)
                for number in range(effort.rounds):
                    for subject in in_turn(SIDES, number):
                        send = partial(_insert_matching, connection, subject, count)
                        costs[subject].append(sides[subject].paced_us(effort.commits, 1, send))
        goal = Goal("<=", 2.5) if count == 1_000 else None
        yield _figure("subscriptions", "the bridge's CPU, a change", "us", costs, count, goal=goal)
        if count == effort.subscriptions[-1]:
            made = [count / sides[Subject.ATTACHED].ready_s]
            name = "made a second, with a row each"
            yield Figure("subscriptions", name, "1/s", made, (), count, "subscriptions", Goal(">=", 5_000))


def _insert_matching(connection: psycopg.Connection, subject: Subject, count: int, row: int) -> None:
    insert(connection, subject, row * 7_919 % count)


def run_statements(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Statements of many rows each, to one client."""
    dsn = set_up(cluster, "statements")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(PLAIN)
        attach_durably(connection, "plain")
        with running_bridge(dsn) as bridge:
            for name, table, statement, goal in (
                ("a row of integers and text", "plain", PLAIN_STATEMENT, Goal("<=", 1.8)),
                ("a row with numeric and timestamps", "attached", STATEMENT.format(Subject.ATTACHED), None),
            ):
                with swarm(bridge.url, [subscribe(table)]) as client:
                    costs = [
                        _statements_us(bridge, client, connection, statement, effort) for _ in range(effort.rounds)
                    ]
                yield Figure("statements", f"the bridge's CPU, {name}", "us", costs, goal=goal)


def _statements_us(
    bridge: BridgeProcess, client: Swarm, connection: psycopg.Connection, statement: str, effort: Effort
) -> float:
    statements = effort.bulk_rows // STATEMENT_ROWS
    received, began_s = client.rows, bridge.cpu_s()
    for _ in range(statements):
        connection.execute(statement.encode(), [STATEMENT_ROWS], prepare=True)
    client.wait_for(received + STATEMENT_ROWS * statements)
    return (bridge.cpu_s() - began_s) / (STATEMENT_ROWS * statements) * 1e6


def run_connections(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Memory by connections that follow a table to which nobody writes, and processor time of a bridge that has one."""
    dsn = set_up(cluster, "connections")
    with _sides(dsn, [subscribe("attached")], 1, 1) as sides, psycopg.connect(dsn) as connection, ExitStack() as opened:
        wait_until_open(connection)
        yield from _idle(sides[Subject.ATTACHED], connection, effort)
        connected, at_first = 1, [sides[subject].process.memory_bytes() or 0 for subject in SIDES]
        for count in effort.connections:
            for subject, request in ((Subject.ATTACHED, subscribe("attached")), (Subject.NAIVE, "{}")):
                opened.enter_context(swarm(sides[subject].process.url, [request] * (count - connected)))
            connected = count
            time.sleep(effort.idle_s)
            now = [sides[subject].process.memory_bytes() or 0 for subject in SIDES]
            ours, bare = ([size / 1e6] for size in now)
            yield Figure("connections", "memory (RSS)", "MB", ours, bare, count, "connections")
        ours, bare = ([(size - first) / (connected - 1) / 1024] for size, first in zip(now, at_first, strict=True))
        goal = Goal("<=", 12, of_value=True)
        yield Figure("connections", "memory of each", "KiB", ours, bare, connected, "connections", goal)


def _idle(side: Side, connection: psycopg.Connection, effort: Effort) -> Iterator[Figure]:
    process, backends = [], []
    for _ in range(effort.rounds):
        began_s, backends_s, since_s = side.process.cpu_s(), _backends_cpu_s(connection), time.monotonic()
        time.sleep(effort.idle_s)
        took_s = time.monotonic() - since_s
        process.append((side.process.cpu_s() - began_s) / took_s * 1e3)
        backends.append((_backends_cpu_s(connection) - backends_s) / took_s * 1e3)
    yield Figure("connections", "an idle bridge's CPU", "ms/s", process, goal=Goal("<=", 2))
    yield Figure("connections", "its sessions' CPU in PostgreSQL", "ms/s", backends, goal=Goal("<=", 4))


def _backends_cpu_s(connection: psycopg.Connection) -> float:
    """The processor time of all other sessions of this database."""
    query = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    used_s = sum(process_cpu_s(pid) for (pid,) in connection.execute(query))
    connection.commit()
    return used_s
