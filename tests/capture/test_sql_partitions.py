"""Partitioned tables: one collection, wherever the write goes."""

import pytest

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import attach_tables, changes, listening
from tests.support.server import Database


@pytest.fixture
def events(database: Database) -> Database:
    """Two levels of partitions; the inner ones number their columns in another way."""
    database.execute(
        "CREATE TABLE events (id int, region text, secret text) PARTITION BY LIST (region);"
        "CREATE TABLE events_eu PARTITION OF events FOR VALUES IN ('de', 'fr') PARTITION BY LIST (region);"
        "CREATE TABLE events_de (dropped int, secret text, region text, id int); ALTER TABLE events_de DROP dropped;"
        "ALTER TABLE events_eu ATTACH PARTITION events_de FOR VALUES IN ('de');"
        "CREATE TABLE events_fr PARTITION OF events_eu FOR VALUES IN ('fr');"
        "CREATE TABLE events_us PARTITION OF events FOR VALUES IN ('us')"
    )
    return database


@pytest.mark.parametrize("table", ["events", "events_eu", "events_de"])
def test_write_to_root_or_partition_is_told_once(events: Database, table: str, mode: Mode):
    attach_tables(events, "events", mode=mode)
    told = changes(events, f"INSERT INTO {table} (id, region) VALUES (1, 'de'); DELETE FROM {table}")
    assert told == [(op, [{"id": 1, "region": "de", "secret": None}]) for op in "ID"]


def test_row_that_moves_to_another_partition_is_updated(events: Database, mode: Mode):
    attach_tables(events, "events", mode=mode)
    events.execute("INSERT INTO events VALUES (1, 'de', NULL), (2, 'fr', NULL)")
    told = changes(events, "UPDATE events SET region = 'us'")
    rows = [(old["region"], new["region"]) for _, rows in told for old, new in zip(rows[::2], rows[1::2], strict=True)]
    assert ([operation for operation, _ in told], rows) == (["U"], [("de", "us"), ("fr", "us")])


def test_row_that_another_partition_does_not_let_in_is_a_gap(events: Database, mode: Mode):
    """It is deleted, with an old row and no new one: there is nothing to pair it with."""
    events.execute(
        "CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep_out BEFORE INSERT ON events_us FOR EACH ROW EXECUTE FUNCTION keep_out();"
        "INSERT INTO events VALUES (1, 'de', NULL), (2, 'fr', NULL)"
    )
    attach_tables(events, "events", mode=mode)
    with listening(events) as ear:
        events.execute("UPDATE events SET region = CASE id WHEN 1 THEN 'fr' ELSE 'us' END")
        assert ear.gap() == 1
        ear.heard()


def test_excluded_column_stays_out_of_partitions_with_other_numbers(events: Database, mode: Mode):
    attach_tables(events, "events", exclude=("events.secret",), mode=mode)
    told = changes(
        events, "INSERT INTO events VALUES (1, 'de', 'hush'); INSERT INTO events_de (id, region) VALUES (2, 'de')"
    )
    assert told == [("I", [{"id": 1, "region": "de"}]), ("I", [{"id": 2, "region": "de"}])]


def test_excluded_column_of_partition_stays_out_after_rename(events: Database, mode: Mode):
    attach_tables(events, "events", exclude=("events.secret",), mode=mode)
    told = changes(
        events,
        "ALTER TABLE events RENAME secret TO public; INSERT INTO events_de (id, region, public) VALUES (1, 'de', 'x')",
    )
    assert told == [("I", [{"id": 1, "region": "de"}])]


def test_truncate_of_root_names_root_and_partitions(events: Database, mode: Mode):
    attach_tables(events, "events", mode=mode)
    with listening(events) as ear:
        events.execute("TRUNCATE events_us")
        events.execute("TRUNCATE events")
        told = [heard.relation_id for heard in ear.heard()]
    rows = events.execute("SELECT relname, oid::bigint FROM pg_class WHERE relname ~ '^events'")
    oids: dict[str, int] = {name: oid for name, oid in rows}  # noqa: C416 - typed
    assert told[0] == oids["events_us"]
    assert sorted(told[1:]) == sorted(oids.values())


def test_table_with_row_triggers_tells_each_partition_once(events: Database, mode: Mode):
    events.execute(
        "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER app AFTER UPDATE ON events_de FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    attach_tables(events, "events", exclude=("events.secret",), mode=mode)
    told = changes(
        events,
        "SET session_replication_role = replica; INSERT INTO events VALUES (1, 'de', 'x'), (2, 'us', 'x');"
        "UPDATE events_de SET id = 3; TRUNCATE events_us",
    )
    assert told == [
        ("I", [{"id": 1, "region": "de"}]),
        ("I", [{"id": 2, "region": "us"}]),
        ("U", [{"id": 1, "region": "de"}, {"id": 3, "region": "de"}]),
        ("T", []),
    ]


def test_new_partition_of_table_with_row_triggers_is_captured_at_once(events: Database, mode: Mode):
    events.execute(
        "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER app AFTER UPDATE ON events FOR EACH ROW EXECUTE FUNCTION nop()"
    )
    attach_tables(events, "events", mode=mode)
    told = changes(
        events,
        "CREATE TABLE events_jp PARTITION OF events FOR VALUES IN ('jp'); SET session_replication_role = replica;"
        "INSERT INTO events_jp VALUES (1, 'jp', NULL)",
    )
    assert told == [("I", [{"id": 1, "region": "jp", "secret": None}])]
