"""Instructions of the server that a write takes more than on an untouched table: `python -m benchmarks.instructions`.

Times jitter, instructions do not. valgrind's callgrind counts those of a single-user backend (`postgres --single`) that
runs a script with few transactions, then one with more; the difference is what one transaction takes. The random
numbers are the same in each run. It needs valgrind.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import psycopg

from benchmarks.figures import headline, show
from benchmarks.stage import Subject, set_up
from tests.support.cluster import QUICK, Cluster

FEW = 256
"""Past the first transactions of a session, for which PostgreSQL makes plans, also those of what is rare."""

MANY = 512
ROWS = 12_000
BULK_ROWS = 2_000
BULK_TIMES = (2, 4)
SUBJECTS = (Subject.UNTOUCHED, Subject.ATTACHED)
SLOW_CLOCK = (
    "DO $$ DECLARE definition text; BEGIN FOR definition IN SELECT pg_get_functiondef(oid) FROM pg_proc"
    " WHERE pronamespace = 'cdc'::regnamespace AND prosrc ~ '500 us|2 ms' AND proname <> 'write_to_segment' LOOP"
    " EXECUTE regexp_replace(definition, '500 us|2 ms', '10 min', 'g'); END LOOP; END $$"
)
"""Slower statements are written to the log in another way, and callgrind slows everything down fifty times."""

OPEN = "SELECT cdc.open_gate(1000000)"

Script = Callable[[str, int], list[str]]
"""The lines of one transaction, from a table's name and a number."""


def insert(table: str, number: int) -> list[str]:
    return [
        f"INSERT INTO {table} (account, note, amount, details) VALUES ({number}, 'what customer number {number} had to"
        f' say about it\', {number}.25, \'{{"colour": "blue", "parts": [1, 2, 3]}}\')'
    ]


def insert_long(table: str, number: int) -> list[str]:
    return insert(Subject.LONG if table == Subject.ATTACHED else table, number)


def update(table: str, number: int) -> list[str]:
    return [f"UPDATE {table} SET state = 'paid {number}' WHERE id = {number + 1}"]


def delete(table: str, number: int) -> list[str]:
    return [f"DELETE FROM {table} WHERE id = {ROWS - number}"]


def ten(table: str, number: int) -> list[str]:
    return ["BEGIN", *[line for each in range(10) for line in insert(table, 10 * number + each)], "COMMIT"]


def ten_updates(table: str, number: int) -> list[str]:
    return ["BEGIN", *[line for each in range(10) for line in update(table, number + each)], "COMMIT"]


def mixed(table: str, number: int) -> list[str]:
    first = 3 * number
    lines = [line for each in range(4) for line in insert(table, 4 * number + each)]
    lines += [line for each in range(3) for line in update(table, first + each)]
    lines += [line for each in range(3) for line in delete(table, first + each)]
    return ["BEGIN", *lines, "COMMIT"]


def bulk_insert(table: str, number: int) -> list[str]:
    return [
        f"INSERT INTO {table} (account, note, amount, details) SELECT n, 'what customer number ' || n || ' had to say"
        f' about it\', n / 100.0, \'{{"colour": "blue", "parts": [1, 2, 3]}}\' FROM generate_series(1, {BULK_ROWS}) n'
    ]


def bulk_update(table: str, number: int) -> list[str]:
    return [f"UPDATE {table} SET state = 'paid' WHERE id <= {BULK_ROWS}"]


def bulk_delete(table: str, number: int) -> list[str]:
    first = ROWS - BULK_ROWS * (number + 1)
    return [f"DELETE FROM {table} WHERE id > {first} AND id <= {first + BULK_ROWS}"]


SCRIPTS: dict[str, tuple[Script, list[str], str]] = {
    "INSERT": (insert, [SLOW_CLOCK], "at most 100"),
    "UPDATE": (update, [SLOW_CLOCK], "at most 140"),
    "DELETE": (delete, [SLOW_CLOCK], "at most 105"),
    "ten INSERTs in one transaction": (ten, [SLOW_CLOCK], "at most 1,300"),
    "ten UPDATEs in one transaction": (ten_updates, [SLOW_CLOCK], "at most 1,300"),
    "four INSERTs, three UPDATEs, three DELETEs": (mixed, [SLOW_CLOCK], "at most 1,300"),
    "INSERT, and an interval column more": (insert_long, [SLOW_CLOCK], ""),
    "INSERT while the gate is open": (insert, [SLOW_CLOCK, OPEN], "at most 180"),
    "UPDATE while the gate is open": (update, [SLOW_CLOCK, OPEN], ""),
    "DELETE while the gate is open": (delete, [SLOW_CLOCK, OPEN], ""),
}
BULK: dict[str, tuple[Script, str]] = {
    "bulk INSERT": (bulk_insert, "at most 1.7"),
    "bulk UPDATE": (bulk_update, "at most 1.9"),
    "bulk DELETE": (bulk_delete, "at most 7"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="the beginning of a line's title; all without one")
    parser.add_argument("--pg-bin", type=Path, help="the server's programs; else the embedded PostgreSQL")
    parser.add_argument("--keep", type=Path, help="a folder for callgrind's files")
    options = parser.parse_args()
    with Cluster(options.pg_bin, settings=QUICK) as cluster:
        dsn = set_up(cluster, "counted")
        with psycopg.connect(dsn, autocommit=True) as connection:
            version = connection.info.parameter_status("server_version")
            for subject in (*SUBJECTS, Subject.LONG):
                statements = [insert(subject, number)[0] for number in range(ROWS)]
                connection.execute(";".join(statements).encode())
            connection.execute("VACUUM ANALYZE")
        cluster.stop()
        headline(f"Thousands of instructions a transaction above an untouched table, PostgreSQL {version}")
        for title, (script, first, target) in SCRIPTS.items():
            if _is_wanted(title, options.parts):
                base, ours = (
                    _of_one(cluster, script, subject, first, (FEW, MANY), keep=options.keep) for subject in SUBJECTS
                )
                show(title, f"{(ours - base) / 1000:,.1f}", target=target, note=f"untouched {base / 1000:,.0f}")
        headline(f"Instructions of a statement of {BULK_ROWS:,} rows, to those on an untouched table")
        for title, (script, target) in BULK.items():
            if _is_wanted(title, options.parts):
                base, ours = (
                    _of_one(cluster, script, subject, [], BULK_TIMES, keep=options.keep) for subject in SUBJECTS
                )
                show(title, f"{ours / base:.2f}", target=target, note=f"untouched {base / BULK_ROWS / 1000:,.1f} a row")


def _is_wanted(title: str, parts: list[str]) -> bool:
    return not parts or any(title.startswith(part) for part in parts)


def _of_one(
    cluster: Cluster, script: Script, subject: Subject, first: list[str], counts: tuple[int, int], *, keep: Path | None
) -> float:
    """Return how many instructions one transaction takes, from the two counts of transactions."""
    few, many = (
        _count(cluster, [*first, *chain.from_iterable(script(subject, number) for number in range(count))], keep)
        for count in counts
    )
    return (many - few) / (counts[1] - counts[0])


def _count(cluster: Cluster, lines: list[str], keep: Path | None) -> int:
    """Return how many instructions a backend takes that runs these lines, each a statement, on a copy of the data."""
    data = cluster.folder / "counted"
    shutil.rmtree(data, ignore_errors=True)
    subprocess.run(["cp", "-a", cluster.data_dir, data], check=True)
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={keep / 'callgrind.%p' if keep else '/dev/null'}"]
    command += [str(cluster.bin_dir / "postgres"), "--single", "-D", str(data)]
    command += [f"--{name}={value}" for name, value in {**cluster.settings, "autovacuum": "off"}.items()]
    made = subprocess.run(
        [*command, "counted"],
        input="\n".join(["SELECT setseed(0.5)", *lines, ""]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        cwd=cluster.folder,
        env={"HOME": str(cluster.folder), "PATH": "/usr/bin:/bin"},
        user=cluster.account.uid if cluster.account else None,
        group=cluster.account.gid if cluster.account else None,
        extra_groups=[] if cluster.account else None,
    )
    if errors := re.findall(r"ERROR: .*|FATAL: .*", made.stderr):
        raise RuntimeError(f"{len(errors)} statements failed: {errors[0]}")
    found = re.search(r"Collected : (\d+)", made.stderr)
    assert found, made.stderr
    return int(found[1])


if __name__ == "__main__":
    main()
