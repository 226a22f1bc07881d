"""What a change costs the bridge's process on its way: `python -m benchmarks.short_path [PART ...]`.

Prints processor time per row or frame, with the floor of the same minutes beside it (`floor.py`: libpq to
`transport.write`, with no semantics). Absolute figures are this machine's. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg

from benchmarks.commits import Writers
from benchmarks.figures import headline, in_turn, show
from benchmarks.floor import running_floor
from benchmarks.latency import INSERT, wait_until_open
from benchmarks.stage import BridgeProcess, Subject, attach_durably, process_cpu_s, running_bridge, server, set_up
from benchmarks.subscriber import subscribed
from benchmarks.swarm import subscribe, swarm
from tests.support.cluster import Cluster

ROUNDS = 5
LONE_ROWS = 200
LONE_PAUSE_S = 0.01
BULK_ROWS = 1_000
BULK_STATEMENTS = 100
EQUAL = 1_000
FILTERS = 1_000
IDLE_S = 20.0
IDLE_CONNECTIONS = 5_000
SILENCE_S = 0.5

BULK = """
INSERT INTO {} (account, note, amount, details)
SELECT n, 'what the customer had to say about it', n / 100.0, '{{"colour": "blue", "parts": [1, 2, 3]}}'
FROM generate_series(1, %s) AS n
"""
PLAIN = "CREATE TABLE plain (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, room int, text text, author int)"
PLAIN_ROWS = """
INSERT INTO plain (room, text, author)
SELECT n %% 7, 'what the customer had to say about it', n FROM generate_series(1, %s) AS n
"""


def main() -> None:
    parts: dict[str, Callable[[Cluster], None]] = {
        "lone": lone,
        "log": log,
        "bulk": bulk,
        "equal": equal,
        "filters": filters,
        "idle": idle,
        "memory": memory,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.short_path", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; without one, all of them")
    chosen = parser.parse_args().parts or list(parts)
    size()
    with server(None) as cluster:
        for name in chosen:
            parts[name](cluster)


def size() -> None:
    headline("Size")
    modules = [path for path in Path("cdc_bridge").rglob("*.py") if path.name != "__init__.py"]
    lines = sum(path.read_text().count("\n") for path in modules)
    classes = sum(isinstance(node, ast.ClassDef) for path in modules for node in ast.walk(ast.parse(path.read_text())))
    show("modules; lines; classes", f"{len(modules)}; {lines:,}; {classes}", target="at most 120; 17,000")


def lone(cluster: Cluster) -> None:
    """A row at a time, 100 a second, to one subscriber; the floor between its rows."""
    headline(f"A lone row, 100 a second, one subscriber ({ROUNDS} rounds of {LONE_ROWS} rows)")
    _beside_floor(set_up(cluster, "lone"), [subscribe("attached")], target="at most 2x the floor")


def filters(cluster: Cluster) -> None:
    headline(f"{FILTERS:,} equality filters, one matching, 100 rows a second")
    requests = [subscribe("attached", filter={"account": {"_eq": number}}) for number in range(FILTERS)]
    _beside_floor(set_up(cluster, "filters"), requests, target="at most 2.5x the floor")


def _beside_floor(dsn: str, requests: Sequence[str], *, target: str) -> None:
    """Insert a row at a time, for clients with these requests, and for the floor by turns."""
    with (
        running_bridge(dsn) as bridge,
        running_floor(dsn) as floor,
        swarm(bridge.url, requests) as ours,
        swarm(floor.url, ["{}"]) as bare,
        psycopg.connect(dsn) as connection,
    ):
        wait_until_open(connection)
        found: dict[Subject, list[float]] = {Subject.ATTACHED: [], Subject.NAIVE: []}
        for number in range(ROUNDS):
            for subject in in_turn(list(found), number):
                clients, cpu_s = (ours, bridge.cpu_s) if subject is Subject.ATTACHED else (bare, floor.cpu_s)
                rows, began_s = clients.rows, cpu_s()
                for row in range(LONE_ROWS):
                    insert(connection, subject, row)
                    time.sleep(LONE_PAUSE_S)
                clients.wait_for(rows + LONE_ROWS)
                found[subject].append((cpu_s() - began_s) / LONE_ROWS * 1e6)
    costs, floor_costs = found[Subject.ATTACHED], found[Subject.NAIVE]
    ratios = [one / other for one, other in zip(costs, floor_costs, strict=True)]
    show(
        "a row",
        f"{statistics.median(costs):.0f} us",
        target=target,
        note=f"floor {statistics.median(floor_costs):.0f} us, {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f}-{max(ratios):.2f})",
    )


def insert(connection: psycopg.Connection, subject: Subject, account: int) -> None:
    connection.execute(INSERT.format(subject), [account], prepare=True)
    connection.commit()


def log(cluster: Cluster) -> None:
    headline("A row of the log, 16 pgbench writers, one subscriber")
    dsn = set_up(cluster, "log")
    with running_bridge(dsn) as bridge, subscribed(bridge.url, Subject.ATTACHED) as subscriber:
        writers = Writers(cluster, dsn, 3, 16, subscriber)
        found = []
        for _ in range(ROUNDS):
            rows, began_s = subscriber.rows, bridge.cpu_s()
            writers.run(Subject.ATTACHED)
            found.append((bridge.cpu_s() - began_s) / (subscriber.rows - rows) * 1e6)
    _us("a row", found, target="at most 10 us")


def bulk(cluster: Cluster) -> None:
    headline(f"A row of statements of {BULK_ROWS:,} rows, one subscriber")
    dsn = set_up(cluster, "bulk")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(PLAIN)
        attach_durably(connection, "plain")
        with running_bridge(dsn) as bridge:
            _us("a row of integers and text", _bulk(bridge, connection, "plain", PLAIN_ROWS), target="at most 1.8 us")
            found = _bulk(bridge, connection, Subject.ATTACHED, BULK.format(Subject.ATTACHED))
            _us("a row with bigint, numeric and timestamps, which are rewritten", found, target="")


def _bulk(bridge: BridgeProcess, connection: psycopg.Connection, table: str, statement: str) -> list[float]:
    found = []
    with subscribed(bridge.url, table) as subscriber:
        for _ in range(ROUNDS):
            rows, began_s = subscriber.rows, bridge.cpu_s()
            for _ in range(BULK_STATEMENTS):
                connection.execute(statement.encode(), [BULK_ROWS], prepare=True)
            subscriber.wait_for(rows + BULK_ROWS * BULK_STATEMENTS)
            found.append((bridge.cpu_s() - began_s) / (BULK_ROWS * BULK_STATEMENTS) * 1e6)
    return found


def equal(cluster: Cluster) -> None:
    headline(f"To {EQUAL:,} equal subscribers")
    dsn = set_up(cluster, "equal")
    with (
        running_bridge(dsn) as bridge,
        swarm(bridge.url, [subscribe("attached")] * EQUAL) as clients,
        psycopg.connect(dsn) as connection,
    ):
        wait_until_open(connection)
        found, bursts = [], []
        for _ in range(ROUNDS):
            rows, began_s = clients.rows, bridge.cpu_s()
            for row in range(20):
                insert(connection, Subject.ATTACHED, row)
                clients.wait_for(rows + EQUAL * (row + 1))
            clients.wait_for_silence(SILENCE_S / 5)
            found.append((bridge.cpu_s() - began_s) / (EQUAL * 20) * 1e6)
        for _ in range(ROUNDS):
            clients.wait_for_silence(SILENCE_S)
            began_s = bridge.cpu_s()
            for row in range(300):
                insert(connection, Subject.ATTACHED, row)
            time.sleep(SILENCE_S)
            clients.wait_for_silence(SILENCE_S)
            bursts.append(bridge.cpu_s() - began_s)
    _us("a frame to each, one change at a time", found, target="at most 16 us")
    show(
        "300 single-row commits at once, for all",
        f"{statistics.median(bursts):.2f} s",
        target="at most 0.5 s",
        note=f"{min(bursts):.2f}-{max(bursts):.2f}",
    )


def idle(cluster: Cluster) -> None:
    headline(f"An idle bridge, {IDLE_S:g} s")
    dsn = set_up(cluster, "idle")
    with running_bridge(dsn) as bridge, swarm(bridge.url, [subscribe("attached")]), psycopg.connect(dsn) as connection:
        wait_until_open(connection)
        time.sleep(5)
        backends_s, began_s, since_s = _backends_cpu_s(connection), bridge.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        took_s = time.monotonic() - since_s
        ours = (bridge.cpu_s() - began_s) / took_s * 1e3
        theirs = (_backends_cpu_s(connection) - backends_s) / took_s * 1e3
        [count] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchone() or (0,)
    show("its process", f"{ours:.1f} ms/s", target="at most 2")
    show("its backends", f"{theirs:.1f} ms/s", target="at most 4", note=f"{count} connections")


def _backends_cpu_s(connection: psycopg.Connection) -> float:
    """The processor time of all other sessions of this database."""
    return sum(map(process_cpu_s, _backends(connection)))


def _backends(connection: psycopg.Connection) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    pids = [pid for (pid,) in connection.execute(query)]
    connection.commit()
    return pids


def memory(cluster: Cluster) -> None:
    headline(f"{IDLE_CONNECTIONS:,} idle connections with a subscription each")
    dsn = set_up(cluster, "memory")
    with running_bridge(dsn) as bridge, psycopg.connect(dsn) as connection:
        with swarm(bridge.url, [subscribe("attached")]):
            wait_until_open(connection)
        before = _settled_memory_bytes(bridge)
        with swarm(bridge.url, [subscribe("attached")] * IDLE_CONNECTIONS):
            each = (_settled_memory_bytes(bridge) - before) / IDLE_CONNECTIONS / 1024
    show("RSS of the bridge, each", f"{each:.1f} KiB", target="at most 12 KiB")


def _settled_memory_bytes(bridge: BridgeProcess) -> int:
    time.sleep(3)
    return bridge.memory_bytes() or 0


def _us(title: str, found: list[float], *, target: str) -> None:
    show(title, f"{statistics.median(found):.1f} us", target=target, note=f"{min(found):.1f}-{max(found):.1f}")


if __name__ == "__main__":
    main()
