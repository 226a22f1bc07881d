"""Connections that are watched by keepalives, and never waited for once they are given up."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncConnection

KEEPALIVES: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]


async def connect(conninfo: str, purpose: str, timeout_s: float) -> Connection:
    """Open a connection in autocommit mode. `purpose` is its `application_name`."""
    return await AsyncConnection.connect(
        conninfo,
        autocommit=True,
        prepare_threshold=None,  # poolers
        connect_timeout=max(2, round(timeout_s)),
        application_name=purpose,
        client_encoding="UTF8",
        **KEEPALIVES,
    )


def drop(connection: AsyncConnection[Any]) -> None:
    """Break the socket of a connection, so that whoever waits for an answer gets an error at once.

    Cancelling the task that waits is no way: psycopg then asks the server to cancel the query and waits up to five
    seconds for that, and as long again for the query to end. A server that is away answers neither.
    """
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
