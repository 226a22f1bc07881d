"""Who may listen: nobody who cannot read the channel's name."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.capture.ear import attach_tables, listening
from tests.support.server import Database


@pytest.fixture
def stranger(database: Database) -> Iterator[str]:
    """A role that may log in and write to the table, under default privileges that give away everything."""
    database.execute(
        "CREATE ROLE cdc_test_stranger_x LOGIN;".replace("_x", f"_{database.name[-12:]}")
        + "CREATE TABLE t (id int, text text); GRANT ALL ON t TO PUBLIC;"
    )
    name = f"cdc_test_stranger_{database.name[-12:]}"
    for given in ("ALL ON SCHEMAS", "ALL ON SEQUENCES", "ALL ON FUNCTIONS"):
        database.execute(f"ALTER DEFAULT PRIVILEGES GRANT {given} TO PUBLIC")
        database.execute(f"ALTER DEFAULT PRIVILEGES GRANT {given} TO {name}")
    attach_tables(database, "t")
    yield name
    database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT last_value FROM cdc.channel",
        "SELECT pg_sequence_last_value('cdc.channel')",
        "SELECT pg_sequence_last_value(oid) FROM pg_class WHERE relname = 'channel' AND relkind = 'S'",
        "SELECT currval('cdc.channel')",
        "SELECT nextval('cdc.channel')",
        "SELECT cdc.send('I', 0, '[]')",
        "SELECT cdc.version()",
        "SELECT setval('cdc.gap', 5)",
    ],
)
def test_stranger_may_not_read_or_call(database: Database, stranger: str, query: str):
    try:
        rows = database.execute(query, user=stranger)
    except psycopg.errors.InsufficientPrivilege:
        return
    assert rows == [(None,)]


@pytest.mark.parametrize(
    "view", ["pg_sequences", "pg_proc", "pg_stat_activity", "pg_trigger", "pg_description", "pg_sequence"]
)
def test_channel_is_in_no_view(database: Database, stranger: str, view: str):
    with listening(database) as ear:
        secret = ear.channel.removeprefix("cdc_")
        rows = database.execute(f"SELECT v::text FROM {view} v", user=stranger)
    assert rows
    assert all(secret not in row for (row,) in rows)


def test_stranger_cannot_make_a_trigger_of_ours(database: Database, stranger: str):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute(
            "CREATE TEMP TABLE mine (id int); CREATE TRIGGER x AFTER INSERT ON mine EXECUTE FUNCTION cdc.capture()",
            user=stranger,
        )


@pytest.mark.parametrize(
    "settings",
    [
        "SET client_min_messages = debug5; SET trace_notify = on",
        "SET client_min_messages = log; SET debug_print_plan = on; SET debug_print_parse = on; SET"
        " debug_print_rewritten = on",
        "SET client_min_messages = debug5; SET log_parser_stats = off",
    ],
)
def test_writer_that_asks_for_debug_output_does_not_see_the_channel(database: Database, stranger: str, settings: str):
    """PostgreSQL would print it: as such, or as the bytes of a constant in a plan."""
    seen: list[str] = []
    with listening(database) as ear:
        with psycopg.connect(database.dsn, user=stranger, autocommit=True) as conn:
            conn.add_notice_handler(lambda notice: seen.append(f"{notice.message_primary} {notice.message_detail}"))
            for part in settings.split(";"):
                try:
                    conn.execute(sql.SQL(part))
                except psycopg.errors.InsufficientPrivilege:
                    continue
            for number in range(8):  # plans are custom at first, generic later
                conn.execute("INSERT INTO t VALUES (%s, 'a')", [number])
        assert len(ear.told()) == 8
    digits = " ".join(str(byte) for byte in ear.channel.encode())
    assert seen
    assert not [text for text in seen if ear.channel in text or digits in text]


QUICK = {f"capture_durable_{event}" for event in ("insert", "update", "delete")}


def test_functions_with_the_rights_of_our_owner_pin_their_search_path(database: Database, stranger: str):
    """But for the quick ones, of which every name is qualified: see `test_sql_hostile.py`."""
    rows = database.execute(
        "SELECT p.proname, p.proconfig::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'cdc' AND p.prosecdef"
    )
    pinned = {name for name, config in rows if "search_path=pg_catalog, pg_temp" in (config or "")}
    assert pinned >= {"capture", "capture_row", "capture_durable", "capture_durable_row"}
    assert {name for name, _ in rows} - pinned == QUICK
