"""A session that reads: its settings are those of the triggers."""

from __future__ import annotations

from typing import Any

import psycopg

from cdc_bridge import statements
from cdc_bridge.schema.session import prepare
from cdc_bridge.statements import statement
from tests.support.server import Database

# Only writers have messages to keep to themselves; only readers have statements that jit would compile.
OF_WRITERS, OF_READERS = {"client_min_messages"}, {"jit"}


async def test_session_has_the_settings_of_the_trigger_functions(database: Database) -> None:
    """One list, three times: what is read and what is told would else be different texts for one value."""
    database.execute("SET lc_monetary = 'C'; " + statements.script("cdc"))
    async with await database.connect(options="-c lc_monetary=POSIX") as connection:
        cursor = await connection.execute(statement("queries/session"), {"schema": "cdc"})
        ours: dict[str, str] = dict(await cursor.fetchall())
        for function in ("capture", "capture_row"):
            theirs = _settings_of(database, function)
            assert ours.keys() - OF_READERS == theirs.keys() - OF_WRITERS
            for name in theirs.keys() - OF_WRITERS:
                assert (name, await _setting(connection, name)) == (name, theirs[name])


async def test_session_is_prepared_where_nothing_is_installed(database: Database) -> None:
    async with await database.connect(options="-c lc_monetary=POSIX -c jit=on") as connection:
        await prepare(connection, "cdc")
        assert await _setting(connection, "TimeZone") == "UTC"
        assert await _setting(connection, "jit") == "off"
        assert await _setting(connection, "lc_monetary") == "POSIX"


def _settings_of(database: Database, function: str) -> dict[str, str]:
    ((settings,),) = database.execute(
        "SELECT proconfig FROM pg_proc WHERE pronamespace = 'cdc'::regnamespace AND proname = %s", [function]
    )
    return dict(setting.split("=", 1) for setting in settings)


async def _setting(connection: psycopg.AsyncConnection[Any], name: str) -> str:
    row = await (await connection.execute("SELECT current_setting(%s)", [name])).fetchone()
    assert row
    return str(row[0])
