"""What somebody can do to the change log by hand, and what is said of it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from cdc_bridge import statements
from cdc_bridge.admin import status
from cdc_bridge.admin.problems import log_problems
from cdc_bridge.database.sessions import prepare
from tests.schema.telling import attach_tables
from tests.support.server import Database

ADDED = "on cdc.change_log_5 is not ours, and can keep changes from being logged: remove it"
NOP = "CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
HARMS = {
    "ALTER TABLE cdc.change_log_5 RENAME TO mine": "cdc.change_log_5, a part of the change log, is missing: ",
    "ALTER VIEW cdc.change_log RENAME TO mine": "cdc.change_log, a part of the change log, is missing",
    "DROP SEQUENCE cdc.gate CASCADE": "cdc.gate, a part of the change log, is missing",
    "DROP TABLE cdc.forgotten": "cdc.forgotten, a part of the change log, is missing",
    "DROP FUNCTION cdc.forget_segment": "cdc.forget_segment, a part of the change log, is missing",
    "ALTER TABLE cdc.change_log_5 RENAME COLUMN old TO older": "cdc.change_log_5 does not have the columns",
    "ALTER TABLE cdc.change_log_5 ADD more int": "cdc.change_log_5 does not have the columns",
    "ALTER TABLE cdc.change_log_5 ALTER old SET NOT NULL": "cdc.change_log_5 does not have the columns",
    "ALTER TABLE cdc.change_log_5 SET UNLOGGED": "cdc.change_log_5 is UNLOGGED",
    "ALTER TABLE cdc.change_log_5 ENABLE ROW LEVEL SECURITY": f"row-level security {ADDED}",
    "ALTER TABLE cdc.change_log_5 ADD CONSTRAINT mine CHECK (relation > 0)": f'constraint "mine" {ADDED}',
    "CREATE UNIQUE INDEX mine ON cdc.change_log_5 (relation)": f'unique index "cdc.mine" {ADDED}',
    "CREATE RULE mine AS ON INSERT TO cdc.change_log_5 DO INSTEAD NOTHING": f'rule "mine" {ADDED}',
    f"{NOP} CREATE TRIGGER mine BEFORE INSERT ON cdc.change_log_5 EXECUTE FUNCTION nop()": f'trigger "mine" {ADDED}',
    "CREATE OR REPLACE VIEW cdc.change_log AS SELECT 0 AS segment, * FROM cdc.change_log_0": "the view cdc.change_log ",
}


@pytest.mark.parametrize("harm", HARMS)
async def test_log_that_was_altered_by_hand_is_a_problem(
    database: Database, plain: psycopg.Connection[Any], harm: str
) -> None:
    plain.execute("CREATE TABLE t (id int)")
    attach_tables(database, "t")
    assert log_problems("cdc").all(plain) == []
    plain.execute(harm.encode())
    (problem,) = status.read_status(plain).problems
    assert problem.startswith(HARMS[harm])
    async with await database.connect() as bridge:
        await prepare(bridge, "cdc")
        assert [str(each) for each in await log_problems("cdc").all_async(bridge)] == [problem]


def test_rights_that_the_triggers_lack_are_a_problem(database: Database, plain: psycopg.Connection[Any]) -> None:
    role = f"owner_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database.name} TO {role}")
    try:
        database.execute(statements.script("cdc"), user=role)
        assert log_problems("cdc").all(plain) == []
        plain.execute(
            f"REVOKE INSERT ON cdc.change_log_2 FROM {role}; REVOKE UPDATE ON SEQUENCE cdc.gate FROM {role}".encode()
        )
        assert [str(each) for each in log_problems("cdc").all(plain)] == [
            f'the role "{role}", as which our triggers run, lacks INSERT on cdc.change_log_2: grant it',
            f'the role "{role}", as which our triggers run, lacks UPDATE on cdc.gate: grant it',
        ]
    finally:
        database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_emptied_generation_is_no_problem(database: Database, plain: psycopg.Connection[Any]) -> None:
    """As a crash leaves it."""
    plain.execute(statements.script("cdc").encode())
    plain.execute("TRUNCATE cdc.generation")
    assert log_problems("cdc").all(plain) == []


def test_looking_for_problems_waits_for_nobody(database: Database, plain: psycopg.Connection[Any]) -> None:
    plain.execute(statements.script("cdc").encode())
    with psycopg.connect(database.dsn) as other:
        other.execute("LOCK TABLE cdc.change_log_0, cdc.setting IN ACCESS EXCLUSIVE MODE")
        plain.execute("SET lock_timeout = '1ms'")
        assert log_problems("cdc").all(plain) == []
