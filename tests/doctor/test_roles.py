"""Rights, and what a doctor sees who may see little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from cdc_bridge.admin import attach
from cdc_bridge.admin.problems import Severity
from cdc_bridge.admin.roles import RoleNames, script
from tests.doctor.examining import found
from tests.schema.test_detach import dump
from tests.support.server import Database


@dataclass(frozen=True)
class Place:
    """A database with the roles that `cdc-bridge sql --roles` makes; `t` is attached, and clients can be `anon`."""

    database: Database
    owner: str
    runtime: str
    anon: str


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    place = Place(database, *(f"{name}_{database.name}" for name in ("owner", "runtime", "anon")))
    database.execute(f"CREATE ROLE {place.anon}")
    database.execute(script(RoleNames(place.owner, place.runtime, (place.anon,)), "cdc"))
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t OWNER TO {place.owner}")
    with psycopg.connect(database.dsn, user=place.owner, autocommit=True) as conn:
        attach.apply(conn, attach.plan(conn, attach.Request(("t",))))
    database.execute(
        f"GRANT SELECT ON t TO {place.anon}; UPDATE cdc.setting SET value = 'off' WHERE name = 'notify';"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of_them ON t USING (true)"
    )
    yield place
    everybody = f"{place.owner}, {place.runtime}, {place.anon}"
    database.execute(f"DROP OWNED BY {everybody} CASCADE; DROP ROLE {everybody}")


def seen_by_runtime(place: Place, **options: Any) -> dict[str, Any]:
    after = found(place.database, role=place.runtime, roles=[place.anon], **options)
    return {name: each for name, each in after.items() if name not in {"no-bridge", "disk"}}


def test_runtime_role_finds_nothing_wrong_and_says_what_it_may_not_see(place: Place) -> None:
    assert seen_by_runtime(place) == {}
    disk = found(place.database, role=place.runtime)["disk"]
    assert disk.severity is Severity.UNKNOWN
    with psycopg.connect(place.database.dsn) as other:
        other.execute("INSERT INTO t VALUES (1, 'a secret')")
        transactions = seen_by_runtime(place, long_s=0)["transactions"]
        assert transactions.severity is Severity.UNKNOWN
        assert "1 transactions of other roles" in transactions.sentence
        place.database.execute(f"GRANT pg_monitor TO {place.owner}")
        assert "long-transaction" in found(place.database, role=place.owner, long_s=0)


def test_what_the_runtime_role_has_lost_is_found_by_everybody(place: Place) -> None:
    place.database.execute(f"REVOKE SELECT ON cdc.forgotten FROM {place.runtime}")
    for role in (None, place.runtime, place.owner):
        right = found(place.database, role=role)["missing-right"]
        assert right.subject == "cdc.forgotten"
        assert "lacks SELECT" in right.sentence


def test_connected_role_that_could_not_run_a_bridge_is_found(place: Place) -> None:
    place.database.execute(f"GRANT USAGE ON SCHEMA cdc TO {place.anon}; ALTER ROLE {place.anon} LOGIN")
    right = found(place.database, role=place.anon)["missing-right"]
    assert right.subject == place.anon
    assert "SELECT on cdc.change_log" in right.sentence
    place.database.execute(f"REVOKE USAGE ON SCHEMA cdc FROM {place.anon}")
    after = found(place.database, role=place.anon)
    assert f'"{place.owner}"' in after["schema-closed"].remedy
    assert "rights" not in after


def test_right_that_our_triggers_lack_is_found(place: Place) -> None:
    place.database.execute(f"REVOKE INSERT ON cdc.change_log_2 FROM {place.owner}")
    right = seen_by_runtime(place)["log-right"]
    assert (right.subject, "lacks INSERT" in right.sentence) == ("cdc.change_log_2", True)


def test_function_that_was_given_away_is_found(place: Place) -> None:
    place.database.execute(f"ALTER FUNCTION cdc.capture_durable() OWNER TO {place.anon}")
    assert f'belongs to the role "{place.anon}"' in seen_by_runtime(place)["function-rights"].sentence


def test_table_that_was_given_away_is_found_by_a_bridge_that_reads_as_itself(place: Place) -> None:
    assert "owner-changed" not in found(place.database, role=place.owner)
    place.database.execute("ALTER TABLE t OWNER TO pg_monitor")
    try:
        lost = found(place.database, role=place.owner)["owner-changed"]
        assert (lost.subject, 'GRANT "pg_monitor"' in lost.remedy) == ("public.t", True)
    finally:
        place.database.execute("DROP TABLE t")


def test_runtime_role_names_who_has_locked_the_log_and_does_not_know_since_when(place: Place) -> None:
    with psycopg.connect(place.database.dsn, application_name="pg_dump") as other:
        other.execute("LOCK TABLE cdc.change_log_3 IN ACCESS SHARE MODE")
        log = seen_by_runtime(place)["log"]
        assert (log.severity, '"pg_dump"' in log.sentence) == (Severity.UNKNOWN, True)
        assert "log-locked" in found(place.database, long_s=0)
        other.rollback()


def test_table_that_is_locked_is_waited_for_by_nobody(place: Place) -> None:
    """And what could not be looked at is said; the rest is."""
    with psycopg.connect(place.database.dsn) as other:
        other.execute("LOCK TABLE t, cdc.change_log_3 IN ACCESS EXCLUSIVE MODE")
        after = seen_by_runtime(place)
        assert after.keys() == {"transactions", "log", "policies"}
        assert {each.severity for each in after.values()} == {Severity.UNKNOWN}
        other.rollback()


def test_nothing_is_changed_and_no_lock_is_kept(place: Place) -> None:
    place.database.execute("INSERT INTO t VALUES (1, 'x')")
    values = "SELECT pg_current_xact_id_if_assigned(), (SELECT array_agg(v) FROM t)"
    before = dump(place.database), place.database.execute(values)
    with psycopg.connect(place.database.dsn, autocommit=True) as watching:
        [(first,)] = watching.execute("SELECT pg_current_xact_id()::text::bigint")
        found(place.database)
        [(last,)] = watching.execute("SELECT pg_current_xact_id()::text::bigint")
        assert last == first + 1, "the doctor has written nothing, not even a transaction id"
    assert (dump(place.database), place.database.execute(values)) == before
