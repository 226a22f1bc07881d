"""A connection to the database for one command, and what its errors mean to the person who typed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_bridge.conninfo import mask, of_command, server
from cdc_bridge.model.errors import DatabaseError, DatabaseUnreachable, LockNotAcquired
from cdc_bridge.settings import Settings

_NEXT_STEPS = (
    ("password authentication failed", "check the user and the password"),
    ("no password supplied", "add a password to the connection string, or set PGPASSWORD"),
    ("Connection refused", "is the server running there, and is the port right?"),
    (
        "No such file or directory",
        "no server on this machine's socket; name one with --dsn or CDC_BRIDGE_DSN",
    ),
    ("could not translate host name", "check the host in the connection string"),
    ("failed to resolve host", "check the host in the connection string"),
    ("timeout", "check the host and the port, and whether a firewall is in the way"),
    ("no pg_hba.conf entry", "the server's pg_hba.conf must let this user in from here"),
)


@contextmanager
def connection(settings: Settings, command: str) -> Iterator[psycopg.Connection]:
    """Connected in autocommit mode; every psycopg error leaves as one of ours."""
    dsn = settings.conninfo
    try:
        conn = psycopg.connect(_completed(settings, command), autocommit=True)
    except psycopg.Error as error:
        raise unreachable(error, dsn) from None
    try:
        with conn:
            yield conn
    except psycopg.Error as error:
        raise refused(error, dsn) from None


def unreachable(error: psycopg.Error, dsn: str) -> DatabaseUnreachable:
    """Return the error that says why there is no connection, and what to do."""
    reason = mask(_first_line(error), dsn)
    step = next((step for sign, step in _NEXT_STEPS if sign in str(error)), "check --dsn or CDC_BRIDGE_DSN")
    return DatabaseUnreachable(f"cannot connect to {mask(server(dsn), dsn)}: {reason}; {step}")


def refused(error: psycopg.Error, dsn: str) -> DatabaseError:
    """Return the error that says why a statement failed."""
    reason = mask(_first_line(error), dsn)
    match error:
        case errors.LockNotAvailable():
            return LockNotAcquired(reason)
        case errors.InsufficientPrivilege():
            return DatabaseError(
                f"{reason}; connect as the owner of the tables and of our schema; see cdc-bridge sql --roles"
            )
        case errors.ReadOnlySqlTransaction():
            return DatabaseError(
                f"{reason}: this is a hot standby, or default_transaction_read_only is on; connect to the primary"
            )
        case errors.AdminShutdown() | errors.CrashShutdown() | errors.CannotConnectNow():
            return DatabaseUnreachable(f"{reason}; try again when the server is up")
        case psycopg.OperationalError() if error.sqlstate is None:
            return DatabaseUnreachable(f"the connection broke: {reason}; try again")
    return DatabaseError(f"the database refused: {reason}")


def _completed(settings: Settings, command: str) -> str:
    """The connection string with what it does not say itself."""
    ours = {
        "connect_timeout": str(max(2, round(settings.connect_timeout_s))),
        "application_name": of_command(command),
    }
    return make_conninfo("", **{**ours, **conninfo_to_dict(settings.conninfo)})


def _first_line(error: psycopg.Error) -> str:
    if error.diag.message_primary:
        return error.diag.message_primary
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].removeprefix("connection failed: ").strip()
