"""What a database says of itself, to be compared with what it says later."""

from __future__ import annotations

from typing import Any

from tests.support.server import Database

CATALOGS = ("pg_namespace", "pg_class", "pg_proc", "pg_database", "pg_auth_members", "pg_authid")
OF_VACUUM = (
    "relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid", "relminmxid", "datfrozenxid", "datminmxid"
)  # fmt: skip
"""It writes these whenever it likes."""


def everything(database: Database) -> list[Any]:
    """Schemas, relations, functions, databases and roles, with their rights."""
    return [
        database.execute(f"SELECT (to_jsonb(x) - %s::text[])::text FROM {catalog} x ORDER BY 1", [list(OF_VACUUM)])
        for catalog in CATALOGS
    ]
