"""Sessions of a bridge that read: they render values as the triggers do, and names mean PostgreSQL's own."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from cdc_bridge.statements import statement


async def prepare(connection: AsyncConnection[Any], schema: str) -> None:
    """To be done once with a connection in autocommit mode, before anything is read through it."""
    await connection.execute(statement("queries/session"), {"schema": schema})
