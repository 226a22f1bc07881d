"""What the change log keeps: the policy over facts, then on a real log."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from cdc_bridge.admin import retention
from cdc_bridge.admin.maintenance import LogMaintenance
from cdc_bridge.admin.retention import LOG_FULL, RING, Log, Pruned, Segment, decide, prune, read_log
from cdc_bridge.capture.log_pages import asking, current_snapshot, is_forgotten
from cdc_bridge.model.change import Snapshot
from cdc_bridge.model.errors import DatabaseError, NotInstalled, SourceUnavailable
from tests.schema.telling import attach_tables
from tests.schema.test_modes import install_version_1
from tests.support.server import Database

DAY_S = 86_400.0
GIB = 2**30
EMPTY = Segment(0, 24_576, is_empty=True)


def log(current: int, *segments: Segment, closed: int = 0) -> Log:
    """Segments that are not named are empty."""
    named = {each.number: each for each in segments}
    every = tuple(named.get(n, Segment(n, EMPTY.size_bytes, is_empty=True)) for n in range(RING))
    return Log(current, closed, GIB // 6, is_gate_open=False, segments=every)


def held(number: int, size_bytes: int = 1000, oldest_s: float | None = 20.0, newest_s: float | None = 10.0) -> Segment:
    return Segment(number, size_bytes, is_empty=False, oldest_age_s=oldest_s, newest_age_s=newest_s)


# --- the policy ---


def test_log_in_which_nothing_is_old_or_large_stays() -> None:
    assert decide(log(3, held(2), held(3)), DAY_S, GIB) == ([], False)
    assert decide(log(0), DAY_S, GIB) == ([], False)


def test_segment_after_the_current_one_is_emptied_whatever_its_age() -> None:
    assert decide(log(7, held(7), held(0), held(1)), DAY_S, GIB) == ([held(0)], False)


def test_segment_whose_newest_change_is_too_old_is_forgotten() -> None:
    old, mixed = held(4, newest_s=DAY_S + 1), held(5, oldest_s=DAY_S + 1)
    assert decide(log(6, old, mixed, held(6)), DAY_S, GIB) == ([old], False)


def test_oldest_go_until_the_rest_fits() -> None:
    """Around the ring: after 1 come 3, 4, ... as the oldest."""
    found = decide(log(1, held(7, 400), held(0, 400), held(1, 400), held(6, 400)), DAY_S, 1000)
    assert found == ([held(6, 400), held(7, 400)], False)


def test_current_segment_that_is_too_large_by_itself_is_left() -> None:
    assert decide(log(1, held(1, 2000)), DAY_S, 1000) == ([], True)


def test_current_segment_is_left_after_a_sixth_of_the_time() -> None:
    assert decide(log(1, held(1, oldest_s=DAY_S / 6 + 1)), DAY_S, GIB) == ([], True)
    assert decide(log(1, held(1, oldest_s=DAY_S / 6 - 1)), DAY_S, GIB) == ([], False)


def test_segment_of_a_transaction_in_progress_does_not_go_for_its_age() -> None:
    """It has no row that can be seen, and soon it will have young ones."""
    assert decide(log(1, held(0, oldest_s=None, newest_s=None)), 1, GIB) == ([], False)


def test_no_age_at_all_forgets_everything() -> None:
    found = decide(log(1, held(0, oldest_s=None, newest_s=None), held(1)), 0, GIB)
    assert found == ([held(0, oldest_s=None, newest_s=None)], True)


def test_full_log_lets_writers_go_on() -> None:
    assert decide(log(1, held(1), closed=LOG_FULL), DAY_S, GIB) == ([], True)
    assert decide(log(1, held(1), held(2), closed=LOG_FULL), DAY_S, GIB) == ([held(2)], True)


@given(
    st.integers(0, 7),
    st.lists(st.tuples(st.booleans(), st.integers(0, 100), st.floats(0, 100)), min_size=RING, max_size=RING),
    st.floats(0, 100),
    st.integers(0, 500),
)
def test_what_is_decided_ends_within_bounds_and_spares_what_it_can(
    current: int, facts: list[tuple[bool, int, float]], older_than_s: float, keep_bytes: int
) -> None:
    """The law: never the current one; what stays fits, or is the current one alone; the next one is empty."""
    segments = [
        Segment(number, size, is_empty, None if is_empty else age, None if is_empty else age)
        for number, (is_empty, size, age) in enumerate(facts)
    ]
    forgotten, _ = decide(log(current, *segments), older_than_s, keep_bytes)
    gone = {each.number for each in forgotten}
    left = [each for each in segments if not each.is_empty and each.number not in gone]
    assert current not in gone
    assert all(each.number != (current + 1) % RING for each in left)
    assert sum(each.size_bytes for each in left) <= keep_bytes or {each.number for each in left} <= {current}
    assert all(each.number == current or (each.newest_age_s or 0) <= older_than_s for each in left)


# --- on a real log ---


@pytest.fixture
def conn(database: Database, plain: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    plain.execute("CREATE TABLE t (id int, text text)")
    attach_tables(database, "t")
    return plain


def write(conn: psycopg.Connection[Any], rows: int = 1, width: int = 10) -> None:
    conn.execute(
        "INSERT INTO t SELECT n, (SELECT string_agg(md5(concat(n, m, random())), '') FROM generate_series(1, %s) m)"
        " FROM generate_series(1, %s) n",
        [width, rows],
    )


def advance(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("SELECT cdc.advance_segment(cdc.current_segment())").fetchone()
    assert row
    return bool(row[0])


def backdate(conn: psycopg.Connection[Any], number: int, seconds: float) -> None:
    conn.execute(f"UPDATE cdc.change_log_{number} SET at = at - make_interval(secs => {seconds})".encode())


def numbers(done: Pruned) -> list[int]:
    return [each.number for each in done.forgotten]


def test_ages_and_sizes_are_those_of_the_rows(conn: psycopg.Connection[Any]) -> None:
    write(conn, 3000)
    backdate(conn, 0, 100)
    write(conn)
    found = read_log(conn, "cdc")
    (segment,) = [each for each in found.segments if not each.is_empty]
    assert (found.current, found.used, segment.number) == (0, 1, 0)
    assert found.oldest_age_s
    assert 100 <= found.oldest_age_s < 130
    assert segment.newest_age_s is not None
    assert segment.newest_age_s < 30
    assert segment.size_bytes > 500_000


def test_prune_forgets_by_age_in_steps_of_a_sixth(conn: psycopg.Connection[Any]) -> None:
    write(conn)
    assert prune(conn, "cdc", 600, GIB) == Pruned()
    backdate(conn, 0, 101)
    assert prune(conn, "cdc", 600, GIB) == Pruned(advanced=1)
    write(conn)
    backdate(conn, 0, 500)
    assert numbers(prune(conn, "cdc", 600, GIB)) == [0]
    assert read_log(conn, "cdc").used == 1


def test_prune_forgets_by_size_the_oldest_first(conn: psycopg.Connection[Any]) -> None:
    for _ in range(4):
        write(conn, 1000)
        advance(conn)
    one = max(each.size_bytes for each in read_log(conn, "cdc").segments)
    assert numbers(prune(conn, "cdc", DAY_S, one * 2 + one // 2)) == [0, 1]
    assert numbers(prune(conn, "cdc", DAY_S, one * 2 + one // 2)) == []


def test_publication_of_all_tables_keeps_nobody_from_pruning(conn: psycopg.Connection[Any]) -> None:
    """It has our own tables as well, so each from which rows are deleted needs an identity."""
    conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    for _ in range(4):
        write(conn)
        prune(conn, "cdc", 0, GIB)
    assert conn.execute("SELECT count(*) FROM cdc.change_log").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM cdc.forgotten WHERE oldest = '0'").fetchone() == (1,)
    conn.execute("DELETE FROM cdc.generation")
    conn.execute("SELECT cdc.begin_era()")


def test_prune_keeps_the_next_segment_empty_all_around_the_ring(conn: psycopg.Connection[Any]) -> None:
    for _ in range(20):
        write(conn)
        done = prune(conn, "cdc", DAY_S, GIB)
        assert done.locked == []
        assert advance(conn)
    assert read_log(conn, "cdc").used == RING - 1


def test_prune_of_everything_leaves_nothing(conn: psycopg.Connection[Any]) -> None:
    for _ in range(3):
        write(conn)
        advance(conn)
    write(conn)
    done = prune(conn, "cdc", 0, GIB)
    assert sorted(numbers(done)) == [0, 1, 2, 3]
    assert done.advanced == 1
    assert conn.execute("SELECT count(*) FROM cdc.change_log").fetchone() == (0,)
    assert prune(conn, "cdc", 0, GIB) == Pruned()
    assert conn.execute("SELECT count(*) FROM cdc.forgotten WHERE youngest IS NOT NULL").fetchone() == (4,)


def test_size_of_a_segment_is_recorded(conn: psycopg.Connection[Any]) -> None:
    for keep_bytes, expected in ((6_000_000, 1_000_000), (0, retention.SEGMENT_BYTES_MIN), (GIB, GIB // 6)):
        prune(conn, "cdc", DAY_S, keep_bytes)
        assert read_log(conn, "cdc").segment_bytes == expected


def test_locked_segment_is_left_and_the_others_are_forgotten(database: Database, conn: psycopg.Connection[Any]) -> None:
    """As pg_dump locks them, or a transaction that writes."""
    for _ in range(3):
        write(conn)
        advance(conn)
    with psycopg.connect(database.dsn) as dump:
        dump.execute("LOCK TABLE cdc.change_log_1 IN ACCESS SHARE MODE")
        done = prune(conn, "cdc", 0, GIB)
        assert (numbers(done), done.locked) == ([0, 2], [1])
        (holder,) = retention.holders(conn, "cdc", done.locked)
        assert holder.pid == dump.info.backend_pid
        dump.rollback()
        dump.execute("LOCK TABLE cdc.change_log_1 IN ACCESS EXCLUSIVE MODE")
        assert 1 not in {each.number for each in read_log(conn, "cdc").segments}
    assert numbers(prune(conn, "cdc", 0, GIB)) == [1]


def test_rows_of_a_transaction_in_progress_are_not_forgotten_and_are_told(
    database: Database, conn: psycopg.Connection[Any]
) -> None:
    with psycopg.connect(database.dsn) as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        assert prune(conn, "cdc", 1, GIB) == Pruned()
        assert prune(conn, "cdc", 0, GIB) == Pruned(advanced=1, locked=[0])
    assert conn.execute("SELECT count(*) FROM cdc.change_log").fetchone() == (1,)


def test_prune_works_whatever_the_session_says_of_transactions(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SET default_transaction_isolation = 'serializable'; SET search_path = nowhere")
    write_to = "INSERT INTO public.t VALUES (1)"
    conn.execute(write_to)
    assert numbers(prune(conn, "cdc", 0, GIB)) == [0]
    assert conn.isolation_level is None
    assert conn.execute("SELECT current_setting('search_path')").fetchone() == ("nowhere",)


def test_two_who_prune_at_once_do_not_forget_twice(database: Database, conn: psycopg.Connection[Any]) -> None:
    write(conn)
    done: list[Pruned] = []

    def prune_too() -> None:
        with psycopg.connect(database.dsn, autocommit=True) as other:
            done.append(prune(other, "cdc", 0, GIB))

    threads = [threading.Thread(target=prune_too) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(each.forgotten) for each in done) == 1
    assert all(each.forgotten or each.is_pruned_elsewhere or each == Pruned() for each in done)


def test_full_log_goes_on_once_the_next_segment_is_free(conn: psycopg.Connection[Any]) -> None:
    write(conn)
    conn.execute("SELECT cdc.close_log(1)")
    gap = conn.execute("SELECT pg_sequence_last_value('cdc.gap')").fetchone()
    write(conn)
    assert conn.execute("SELECT pg_sequence_last_value('cdc.gap')").fetchone() != gap
    assert read_log(conn, "cdc").is_full
    assert prune(conn, "cdc", DAY_S, GIB).advanced == 1
    assert not read_log(conn, "cdc").is_full
    write(conn)
    assert read_log(conn, "cdc").used == 2


def test_log_of_which_a_part_is_missing_is_an_error(conn: psycopg.Connection[Any]) -> None:
    conn.execute("ALTER TABLE cdc.change_log_5 RENAME TO mine")
    with pytest.raises(DatabaseError, match=r"the change log is not whole .* cdc-bridge status says what is missing"):
        prune(conn, "cdc", 0, GIB)


def test_nothing_is_pruned_where_there_is_no_log(plain: psycopg.Connection[Any]) -> None:
    with pytest.raises(NotInstalled):
        prune(plain, "cdc", 0, 0)
    install_version_1(plain)
    assert prune(plain, "cdc", 0, 0) == Pruned()


# --- what was forgotten ---


class History:
    """Transactions that begin, write and end at random, and segments that are forgotten. `seen`: every snapshot."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._next = 1000
        self._running: set[int] = set()
        self._segments: list[set[int]] = [set()]
        self.seen: list[Snapshot] = []
        self.forgotten: list[tuple[int | None, int | None, int, Snapshot]] = []

    def _snapshot(self) -> Snapshot:
        ended = max(set(range(1000, self._next)) - self._running, default=999)
        running = frozenset(xid for xid in self._running if xid <= ended)
        return Snapshot(min(running, default=ended + 1), ended + 1, running)

    def _begin(self) -> int:
        self._next += 1
        return self._next - 1

    def step(self) -> None:
        chance = self._random.random()
        if len(self._running) > 8:
            self._running.remove(min(self._running))
        elif chance < 0.3:
            self._running.add(self._begin())
        elif chance < 0.6 and self._running:
            self._segments[-1].add(max(self._random.choices(sorted(self._running), k=4)))
        elif chance < 0.9 and self._running:
            self._running.discard(max(self._random.choices(sorted(self._running), k=2)))  # some stay open for long
        elif chance < 0.95:
            self._segments.append(set())
        elif len(self._segments) > 4 and not self._segments[0] & self._running:
            gone = self._segments.pop(0)
            by = self._begin()
            self._running.add(by)
            by_hand = self._random.random() < 0.1
            if gone:
                ids = (None, None) if by_hand else (min(gone), max(gone))
                self.forgotten.append((*ids, by, self._snapshot()))
            self._running.discard(by)
        self.seen.append(self._snapshot())


def told(snapshot: Snapshot) -> str:
    return f"{snapshot.xmin}:{snapshot.xmax}:{','.join(str(xid) for xid in sorted(snapshot.in_progress))}"


@pytest.mark.parametrize("seed", range(8))
async def test_what_was_forgotten_is_merged_and_no_position_is_judged_differently(
    database: Database, conn: psycopg.Connection[Any], seed: int
) -> None:
    """Be it older or younger than what is merged."""
    history = History(seed)
    for _ in range(1500):
        history.step()
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cdc.forgotten (segment, oldest, youngest, by, seen) VALUES"
            " (0, %s::text::xid8, %s::text::xid8, %s::text::xid8, %s::pg_snapshot)",
            [
                (oldest and str(oldest), youngest and str(youngest), str(by), told(seen))
                for oldest, youngest, by, seen in history.forgotten
            ],
        )
    async with await database.connect() as reader:
        asked = history.seen[::5]
        before = [await is_forgotten(asking(reader, "cdc"), seen) for seen in asked]
        for _ in range(2):  # merged is merged again
            prune(conn, "cdc", DAY_S, GIB)
            assert [await is_forgotten(asking(reader, "cdc"), seen) for seen in asked] == before
    assert before[0]
    assert not before[-1]
    (left,) = conn.execute("SELECT count(*) FROM cdc.forgotten").fetchone() or (0,)
    assert left < len(history.forgotten)


async def test_merging_what_was_forgotten_spares_what_a_long_transaction_may_ask_about(
    database: Database, conn: psycopg.Connection[Any]
) -> None:
    """A cursor that waits for it, and that all which was forgotten means nothing to, holds as long as it runs."""
    with psycopg.connect(database.dsn) as long:
        long.execute("SELECT pg_current_xact_id()")
        async with await database.connect() as reader:
            for _ in range(3 * RING):
                write(conn)
                prune(conn, "cdc", 0, GIB)
            now = await current_snapshot(asking(reader, "cdc"))
            assert now.in_progress
            assert not await is_forgotten(asking(reader, "cdc"), now)
            (many,) = conn.execute("SELECT count(*) FROM cdc.forgotten").fetchone() or (0,)
            assert many >= 3 * RING
            long.commit()
            for _ in range(RING):
                write(conn)
                prune(conn, "cdc", 0, GIB)
            assert await is_forgotten(asking(reader, "cdc"), now)
            assert not await is_forgotten(asking(reader, "cdc"), await current_snapshot(asking(reader, "cdc")))
    (few,) = conn.execute("SELECT count(*) FROM cdc.forgotten").fetchone() or (0,)
    assert few <= 4


# --- as the bridge does it ---


def maintenance(dsn: str, **retention: Any) -> LogMaintenance:
    """For a test that prunes and does not watch: the pool stays closed."""
    return LogMaintenance(AsyncConnectionPool(dsn, open=False), dsn, "cdc", **retention)


async def test_pruner_warns_of_what_it_forgets_too_early(
    database: Database, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    pruner = maintenance(database.dsn, retention_age_s=DAY_S, retention_bytes=100_000)
    write(conn)
    assert await pruner.prune() == Pruned()
    assert caplog.records == []
    write(conn, 1000)
    assert 0 in numbers(await pruner.prune())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the change log was full" in caplog.text


async def test_pruner_warns_once_of_a_lock(
    database: Database, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    pruner = maintenance(database.dsn, retention_age_s=DAY_S, retention_bytes=100_000)
    write(conn, 1000)
    with psycopg.connect(database.dsn) as dump:
        dump.execute("LOCK TABLE cdc.change_log_0 IN ACCESS SHARE MODE")
        assert [(await pruner.prune()).locked for _ in range(3)] == [[0]] * 3
    assert caplog.text.count("is locked and cannot be pruned") == 1


async def test_pruner_of_a_role_without_the_right_leaves_it_to_others(
    database: Database, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    role = f"reader_{database.name}"
    write(conn)
    conn.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA cdc TO {role}".encode())
    try:
        dsn = make_conninfo(database.dsn, user=role)
        pruner = maintenance(dsn, retention_age_s=1, retention_bytes=0)
        assert [await pruner.prune() for _ in range(2)] == [Pruned(), Pruned()]
        assert caplog.text.count("this role cannot prune the change log") == 1
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


async def test_pruner_tells_that_the_database_is_away() -> None:
    pruner = maintenance("host=127.0.0.1 port=1", retention_age_s=1, retention_bytes=0)
    with pytest.raises(SourceUnavailable):
        await pruner.prune()


async def test_pruner_has_nothing_to_do_where_nothing_is_installed(database: Database) -> None:
    pruner = maintenance(database.dsn, retention_age_s=1, retention_bytes=0)
    assert await pruner.prune() == Pruned()
