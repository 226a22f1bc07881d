"""Which statements are told, as what, and in which order."""

import psycopg
import pytest

from cdc_bridge.admin.mode import Mode
from tests.capture.ear import attach_tables, changes, listening
from tests.support.server import Database


@pytest.fixture
def messages(database: Database, mode: Mode) -> Database:
    return _messages(database, mode)


def _messages(database: Database, mode: Mode) -> Database:
    database.execute("CREATE TABLE messages (id int PRIMARY KEY, text text)")
    attach_tables(database, "messages", mode=mode)
    return database


def test_insert_tells_new_rows(messages: Database):
    told = changes(messages, "INSERT INTO messages VALUES (1, 'a'), (2, NULL)")
    assert told == [("I", [{"id": 1, "text": "a"}, {"id": 2, "text": None}])]


def test_update_tells_old_and_new_row_in_turn(messages: Database):
    messages.execute("INSERT INTO messages VALUES (1, 'a'), (2, 'b')")
    told = changes(messages, "UPDATE messages SET id = id + 10, text = upper(text)")
    assert told == [
        ("U", [{"id": 1, "text": "a"}, {"id": 11, "text": "A"}, {"id": 2, "text": "b"}, {"id": 12, "text": "B"}])
    ]


def test_delete_tells_old_rows(messages: Database):
    messages.execute("INSERT INTO messages VALUES (1, 'a'), (2, 'b')")
    assert changes(messages, "DELETE FROM messages WHERE id = 2") == [("D", [{"id": 2, "text": "b"}])]


def test_truncate_is_told_without_rows(messages: Database):
    assert changes(messages, "TRUNCATE messages") == [("T", [])]


def test_statement_without_rows_is_silent(messages: Database):
    nothing = "UPDATE messages SET text = 'x'; DELETE FROM messages; INSERT INTO messages SELECT 1, 'a' WHERE false"
    assert changes(messages, nothing) == []


def test_copy_is_told(messages: Database):
    with listening(messages) as ear:
        with psycopg.connect(messages.dsn) as conn, conn.cursor().copy("COPY messages FROM STDIN") as copy:
            copy.write_row((1, "a"))
            copy.write_row((2, "b"))
        assert ear.told() == [("I", [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}])]


def test_identical_rows_in_one_transaction_are_all_told(database: Database, mode: Mode):
    """PostgreSQL folds equal notifications of a transaction into one."""
    database.execute("CREATE TABLE marks (n int)")
    attach_tables(database, "marks", mode=mode)
    told = changes(database, "INSERT INTO marks VALUES (1), (1); INSERT INTO marks VALUES (1), (1)")
    assert told == [("I", [{"n": 1}, {"n": 1}])] * 2


def test_rolled_back_savepoint_is_silent(messages: Database):
    told = changes(
        messages,
        "BEGIN; INSERT INTO messages VALUES (1, 'a'); SAVEPOINT s; INSERT INTO messages VALUES (2, 'b');"
        "ROLLBACK TO s; INSERT INTO messages VALUES (3, 'c'); COMMIT",
    )
    assert [row["id"] for _, rows in told for row in rows] == [1, 3]


def test_rolled_back_transaction_is_silent(messages: Database):
    assert changes(messages, "BEGIN; INSERT INTO messages VALUES (1, 'a'); ROLLBACK") == []


def test_on_conflict_tells_update_and_insert(messages: Database):
    messages.execute("INSERT INTO messages VALUES (1, 'a')")
    told = changes(
        messages,
        "INSERT INTO messages VALUES (1, 'x'), (2, 'y') ON CONFLICT (id) DO UPDATE SET text = excluded.text",
    )
    assert sorted(told, key=str) == [
        ("I", [{"id": 2, "text": "y"}]),
        ("U", [{"id": 1, "text": "a"}, {"id": 1, "text": "x"}]),
    ]


def test_on_conflict_do_nothing_is_silent(messages: Database):
    messages.execute("INSERT INTO messages VALUES (1, 'a')")
    assert changes(messages, "INSERT INTO messages VALUES (1, 'x') ON CONFLICT DO NOTHING") == []


def test_merge_tells_each_kind_of_change(messages: Database):
    if messages.server.version < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    messages.execute("INSERT INTO messages VALUES (1, 'a'), (2, 'b')")
    told = changes(
        messages,
        "MERGE INTO messages m USING (VALUES (1, 'x'), (2, NULL), (3, 'z')) v(id, text) ON m.id = v.id"
        " WHEN MATCHED AND v.text IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET text = v.text"
        " WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.text)",
    )
    assert sorted(told, key=str) == [
        ("D", [{"id": 2, "text": "b"}]),
        ("I", [{"id": 3, "text": "z"}]),
        ("U", [{"id": 1, "text": "a"}, {"id": 1, "text": "x"}]),
    ]


def test_writes_inside_cte_are_told(messages: Database):
    messages.execute("INSERT INTO messages VALUES (1, 'a')")
    told = changes(
        messages,
        "WITH gone AS (DELETE FROM messages RETURNING *) INSERT INTO messages SELECT id + 1, text FROM gone",
    )
    assert sorted(told, key=str) == [("D", [{"id": 1, "text": "a"}]), ("I", [{"id": 2, "text": "a"}])]


def test_foreign_key_cascade_is_told(database: Database, mode: Mode):
    database.execute(
        "CREATE TABLE rooms (id int PRIMARY KEY); CREATE TABLE messages (id int PRIMARY KEY,"
        " room int REFERENCES rooms ON DELETE CASCADE ON UPDATE CASCADE);"
        "INSERT INTO rooms VALUES (1); INSERT INTO messages VALUES (7, 1), (8, 1)"
    )
    attach_tables(database, "rooms", "messages", mode=mode)
    told = changes(database, "UPDATE rooms SET id = 2")
    assert sorted(told, key=str) == [
        ("U", [{"id": 1}, {"id": 2}]),
        ("U", [{"id": 7, "room": 1}, {"id": 7, "room": 2}, {"id": 8, "room": 1}, {"id": 8, "room": 2}]),
    ]
    assert sorted(changes(database, "DELETE FROM rooms"), key=str) == [
        ("D", [{"id": 2}]),
        ("D", [{"id": 7, "room": 2}, {"id": 8, "room": 2}]),
    ]


def test_cascade_inside_one_table_is_told(database: Database, mode: Mode):
    database.execute(
        "CREATE TABLE nodes (id int PRIMARY KEY, parent int REFERENCES nodes ON DELETE CASCADE);"
        "INSERT INTO nodes VALUES (1, NULL), (2, 1), (3, 2)"
    )
    attach_tables(database, "nodes", mode=mode)
    told = changes(database, "DELETE FROM nodes WHERE id = 1")
    assert sorted(row["id"] for operation, rows in told if operation == "D" for row in rows) == [1, 2, 3]


def test_replicating_session_is_told(messages: Database):
    told = changes(messages, "SET session_replication_role = replica; INSERT INTO messages VALUES (1, 'a')")
    assert told == [("I", [{"id": 1, "text": "a"}])]


PIECES = {
    # At most a thousand rows or a megabyte.
    Mode.LIVE: {"first": 1000, "count": 3, "large": [3, 3, 1]},
    # Batches end when they are about a megabyte, of which each row counts for a kilobyte more than it has.
    Mode.DURABLE: {"first": 981, "count": 3, "large": [4, 3]},
}
SLOWLY = "generate_series(1, {}) n, LATERAL (SELECT pg_sleep(CASE n WHEN 1 THEN 0.003 ELSE 0 END)) AS s"
"""A statement of two milliseconds or less is one change."""


def test_many_rows_of_a_statement_are_told_in_pieces(messages: Database, mode: Mode):
    told = changes(messages, "INSERT INTO messages SELECT n, 'x' FROM " + SLOWLY.format(2500))
    sizes = [len(rows) for _, rows in told]
    assert (sizes[0], len(sizes)) == (PIECES[mode]["first"], PIECES[mode]["count"])
    assert max(sizes) <= 1000
    assert [row["id"] for _, rows in told for row in rows] == list(range(1, 2501))


def test_large_rows_of_a_statement_are_told_in_pieces(messages: Database, mode: Mode):
    told = changes(messages, "INSERT INTO messages SELECT n, repeat('x', 300000) FROM " + SLOWLY.format(7))
    assert [len(rows) for _, rows in told] == PIECES[mode]["large"]


@pytest.mark.parametrize("size_bytes", [1, 2000, *range(7740, 8100, 7), 15600, 23400])
def test_text_of_many_bytes_a_character_arrives_whole(database: Database, size_bytes: int):
    """In live mode, where a notification can come in parts; `test_sql_tell.py` does the same for the change log."""
    messages = _messages(database, Mode.LIVE)
    text = ("ä€𝄞" * (size_bytes // 9 + 1)).encode()[:size_bytes].decode(errors="ignore")
    with listening(messages) as ear:
        messages.execute("INSERT INTO messages VALUES (1, %s)", [text])
        (heard,) = ear.heard()
    assert heard.rows == [{"id": 1, "text": text}]
    assert heard.parts == len(heard.body.encode()) // 7801 + 1


def test_five_megabytes_of_text_arrive_whole(messages: Database):
    text = "0123456789abcdé" * 350_000
    with listening(messages) as ear:
        messages.execute("INSERT INTO messages VALUES (1, %s)", [text])
        assert ear.told() == [("I", [{"id": 1, "text": text}])]


def test_twenty_megabytes_of_bytea_arrive_whole(database: Database, mode: Mode):
    database.execute("CREATE TABLE files (id int, content bytea)")
    attach_tables(database, "files", mode=mode)
    content = bytes(range(256)) * 80_000
    with listening(database) as ear:
        database.execute("INSERT INTO files VALUES (1, %s)", [content])
        assert ear.told() == [("I", [{"id": 1, "content": "\\x" + content.hex()}])]
        database.execute("UPDATE files SET id = 2")
        ((operation, rows),) = ear.told()
    assert (operation, [row["id"] for row in rows]) == ("U", [1, 2])


def test_head_names_transaction_relation_and_storage(messages: Database):
    with listening(messages) as ear, psycopg.connect(messages.dsn) as conn:
        facts = conn.execute(
            "INSERT INTO messages VALUES (1, 'a')"
            " RETURNING pg_current_xact_id()::text, tableoid::bigint, pg_relation_filenode(tableoid)::bigint"
        ).fetchone()
        conn.commit()
        (heard,) = ear.heard()
    assert facts == (str(heard.xid), heard.relation_id, heard.filenode)


def test_sequence_numbers_ascend_in_one_transaction(messages: Database):
    with listening(messages) as ear:
        messages.execute("; ".join(f"INSERT INTO messages VALUES ({n}, 'a')" for n in range(20)))
        numbers = [heard.seq for heard in ear.heard()]
    assert numbers == sorted(set(numbers))


STATEMENTS = "INSERT INTO messages VALUES (1, 'a'); DELETE FROM messages; " * 40
IDS_TAKEN = (
    "CREATE TEMP TABLE before AS SELECT pg_current_xact_id()::text::bigint AS id; COMMIT;"
    "SELECT pg_current_xact_id()::text::bigint - (SELECT id FROM before)"
)
SUBTRANSACTION_OF_ITS_OWN = "SAVEPOINT s; CREATE TEMP TABLE own (); RELEASE s;"


def test_statements_captured_live_take_no_subtransaction_ids(database: Database):
    messages = _messages(database, Mode.LIVE)
    assert messages.execute(f"BEGIN; {STATEMENTS} {IDS_TAKEN}") == [(1,)]
    assert messages.execute(f"BEGIN; {SUBTRANSACTION_OF_ITS_OWN} {IDS_TAKEN.replace('before', 'again')}") == [(2,)]


LOOP = """
DO $$
BEGIN
    FOR number IN 1..2000 LOOP
        INSERT INTO messages VALUES (number, 'a');
        UPDATE messages SET text = 'b' WHERE id = number;
    END LOOP;
END
$$
"""
MULTIPLE = """
DO $$
BEGIN
    FOR number IN 1..2000 LOOP
        INSERT INTO messages VALUES (number, 'a'), (-number, 'a');
        UPDATE messages SET text = 'b' WHERE abs(id) = number;
    END LOOP;
END
$$
"""


@pytest.mark.parametrize("is_open", [False, True], ids=["gate shut", "gate open"])
@pytest.mark.parametrize(
    "statements", [[LOOP], [MULTIPLE], STATEMENTS.split(";")[:-1] * 25], ids=["loop", "rows", "one by one"]
)
def test_transaction_with_many_writes_takes_at_most_64_subtransaction_ids(
    database: Database, statements: list[str], is_open: bool
):
    """More of them in one transaction would slow down every session of the server."""
    messages = _messages(database, Mode.DURABLE)
    messages.execute("CREATE INDEX ON messages (abs(id))")
    if is_open:
        messages.execute("SELECT cdc.open_gate(60)")
    with listening(messages) as ear, psycopg.connect(messages.dsn) as writer:
        ((first,),) = writer.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
        for statement in statements:
            writer.execute(statement.encode())
        writer.commit()
        ((last,),) = writer.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
        assert last - first - 1 <= 64
        assert len(ear.heard()) == (4000 if len(statements) == 1 else 2000)
        assert ear.gap() == 0


def test_settings_of_a_transaction_end_with_it(database: Database):
    messages = _messages(database, Mode.DURABLE)
    with psycopg.connect(messages.dsn) as conn:
        for number in range(320):
            conn.execute("INSERT INTO messages VALUES (%s, 'a')", [number])
        assert conn.execute("SELECT current_setting('cdc_bridge.hold')").fetchone() == ("on",)
        conn.commit()
        assert conn.execute("SELECT current_setting('cdc_bridge.hold')").fetchone() == ("",)
