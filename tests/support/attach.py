"""What `cdc-bridge attach TABLE...` does, without a process."""

from __future__ import annotations

from typing import Any

import psycopg

from cdc_bridge.admin import attach as attaching
from cdc_bridge.admin.mode import Mode
from tests.support.server import Database

LOCK_LIMIT_S = 5


def attach(
    database: Database, *tables: str, schema: str = "cdc", mode: Mode | None = Mode.DURABLE, **options: Any
) -> attaching.Plan:
    """Plan and apply; the plan is handed back. Options are fields of `cdc_bridge.admin.attach.Request`."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        plan = attaching.plan(connection, attaching.Request(tables, mode=mode, **options), schema)
        attaching.apply(connection, plan, lock_limit_s=LOCK_LIMIT_S)
        return plan
