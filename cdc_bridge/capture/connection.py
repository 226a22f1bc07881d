"""Connections of a capture: their own, in autocommit mode, watched by keepalives."""

from __future__ import annotations

from typing import Any, TypeAlias

from psycopg import AsyncConnection, errors, sql

from cdc_bridge.model.errors import DatabaseError, NotInstalled, SchemaClosed
from cdc_bridge.statements import statement

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

KEEPALIVES: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


async def connect(conninfo: str, purpose: str, timeout_s: float) -> Connection:
    return await AsyncConnection.connect(
        conninfo,
        autocommit=True,
        prepare_threshold=None,  # poolers
        connect_timeout=max(2, round(timeout_s)),
        application_name=purpose,
        client_encoding="UTF8",
        **KEEPALIVES,
    )


async def require_ours(connection: Connection, schema: str) -> None:
    """Raises `NotInstalled`, `SchemaClosed`, and `DatabaseError` where a part of it is closed without a word."""
    try:
        number = await value(connection, statement("queries/channel", schema))
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        raise NotInstalled(schema) from None
    except errors.InsufficientPrivilege:
        query = statement("queries/version", schema)
        row = await (await connection.execute(query, {"schema": schema})).fetchone()
        raise SchemaClosed(connection.info.user, schema, row[-1] if row else "?") from None
    unreadable = await value(connection, statement("queries/unreadable"), {"schema": schema})
    if unreadable is not None:
        raise DatabaseError(
            f'role "{connection.info.user}" may not read the sequence {schema}.{unreadable}: cdc-bridge sql --roles'
            " prints what a bridge needs, and attach gives it to the runtime role"
        )
    if number is None:
        raise NotInstalled(schema)


async def value(connection: Connection, query: sql.Composed, parameters: dict[str, Any] | None = None) -> Any:
    """The first column of the first row, or None."""
    row = await (await connection.execute(query, parameters)).fetchone()
    return row[0] if row else None
