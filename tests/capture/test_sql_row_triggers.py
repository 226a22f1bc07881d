"""Tables with an AFTER ROW trigger of the application's, which may write to the same table."""

import pytest

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import attach_tables, changes, listening
from tests.support.server import Database


@pytest.fixture
def tasks(database: Database, mode: Mode) -> Database:
    """A trigger that numbers a row after its INSERT, and clears a flag after its UPDATE."""
    database.execute(
        "CREATE TABLE tasks (id int PRIMARY KEY, number int, dirty bool);"
        "CREATE FUNCTION settle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF TG_OP = 'INSERT' THEN UPDATE tasks SET number = 10 * id WHERE id = new.id;"
        " ELSIF new.dirty THEN UPDATE tasks SET dirty = false WHERE id = new.id; END IF; RETURN NULL; END $$;"
        "CREATE TRIGGER a_settle AFTER INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION settle()"
    )
    attach_tables(database, "tasks", mode=mode)
    return database


def test_nested_update_is_told_after_the_insert_that_caused_it(tasks: Database):
    before, after = ({"id": 1, "number": number, "dirty": None} for number in (None, 10))
    assert changes(tasks, "INSERT INTO tasks VALUES (1)") == [("I", [before]), ("U", [before, after])]


def test_nested_update_is_told_after_the_update_that_caused_it(tasks: Database):
    tasks.execute("INSERT INTO tasks VALUES (1)")
    states = [{"id": 1, "number": 10, "dirty": dirty} for dirty in (None, True, False)]
    told = changes(tasks, "UPDATE tasks SET dirty = true")
    assert told == [("U", states[0:2]), ("U", states[1:3])]


def test_delete_and_truncate_are_told(tasks: Database):
    tasks.execute("INSERT INTO tasks VALUES (1), (2)")
    with listening(tasks) as ear:
        tasks.execute("DELETE FROM tasks WHERE id = 1")
        tasks.execute("TRUNCATE tasks")
        assert ear.told() == [("D", [{"id": 1, "number": 10, "dirty": None}]), ("T", [])]


def test_excluded_column_stays_out(tasks: Database, mode: Mode):
    attach_tables(tasks, "tasks", exclude=("tasks.number",), mode=mode)
    told = changes(tasks, "INSERT INTO tasks VALUES (1); DELETE FROM tasks")
    row = {"id": 1, "dirty": None}
    assert told == [("I", [row]), ("U", [row, row]), ("D", [row])]


def test_replicating_session_is_told(tasks: Database):
    told = changes(tasks, "SET session_replication_role = replica; INSERT INTO tasks VALUES (1)")
    assert told == [("I", [{"id": 1, "number": None, "dirty": None}])]


def test_large_row_arrives_whole(tasks: Database):
    tasks.execute("ALTER TABLE tasks ADD text text")
    told = changes(tasks, "INSERT INTO tasks (id, text) VALUES (1, repeat('ä', 100000))")
    assert [len(row["text"]) for _, rows in told for row in rows] == [100000] * 3


def test_row_that_cannot_be_rendered_does_not_fail_the_write(tasks: Database):
    tasks.execute(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql"
        " AS 'BEGIN RAISE EXCEPTION ''no''; END'; CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);"
        "ALTER TABLE tasks ADD mood mood"
    )
    with listening(tasks) as ear:
        tasks.execute("INSERT INTO tasks VALUES (1, NULL, NULL, 'sad')")
        assert ear.told() == []
        assert ear.gap() == 2
    assert tasks.execute("SELECT number FROM tasks") == [(10,)]
