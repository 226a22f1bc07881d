"""Every error that cdc_bridge raises on purpose.

    BridgeError
    ├── UsageError                the command line, or what it names, is invalid (exit code 2)
    │   └── SettingsError         a setting is unknown or has a bad value
    ├── DatabaseError             the database lacks or refuses something (exit code 3)
    │   ├── DatabaseUnreachable   no server answers, or the log-in failed
    │   ├── AttachError           a table cannot be attached, or does not exist
    │   ├── NotOwner              a table or the schema of cdc_bridge belongs to another role
    │   ├── SchemaClosed          the role may not use the schema of cdc_bridge
    │   ├── LockNotAcquired       the application holds a table for too long (exit code 4)
    │   ├── NotInstalled          the schema of cdc_bridge is not in this database
    │   └── CannotListen          notifications do not arrive (exit code 5)
    │       └── SharedSession     a pooler in transaction mode is in between
    ├── CannotServe               the address or port to listen on is not available (exit code 5)
    ├── SubscriptionRefused       a bridge refuses a subscription (exit code 6)
    ├── CaptureLost               the stream of changes broke, and a gap follows
    │   └── DatabaseSilent        the database does not answer
    ├── PayloadError              a notification is not one of ours, or incomplete
    ├── SourceChanged             a table differs from the catalog
    ├── SourceUnavailable         the database cannot be read at the moment
    ├── Forgotten                 the log no longer holds all changes after a cursor
    ├── RequestError              a client's request is refused with this error
    └── ClusterFailed             the demo, or its PostgreSQL server, does not start

`str(error)` is one sentence for a person: what is wrong and what to do about it. It never shows a
secret. The facts of an error are attributes, so that no code parses the sentence.

Exceptions that never leave their package are defined there: `model.messages.InvalidMessage`,
`cli.command.ReaderGone`, `capture.log_pages.Unreadable`, `query.literals.NotNative`,
`access.authenticator.TokenRefused`, `access.policy_parser.NotUnderstood`, `access.policy_filter.UnsupportedPolicy` and
`engine.query_parser.NotYetKnown`.
"""

from __future__ import annotations

from dataclasses import dataclass


class BridgeError(Exception):
    """The root. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(BridgeError):
    """The command line, or what it names, is invalid."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown, or its value is invalid."""


class DatabaseError(BridgeError):
    """The database lacks or refuses something that the bridge needs."""

    exit_code = 3


class DatabaseUnreachable(DatabaseError):
    """No server answers, or the log-in failed."""


class AttachError(DatabaseError):
    """A relation cannot be captured."""


@dataclass(eq=False)
class NotOwner(DatabaseError):
    """Only the owner can do this. `what` is a table, or `the schema "cdc"`; `advice` is added to the message."""

    what: str
    owner: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f'{self.what} belongs to the role "{self.owner}": connect as that role, or as a member of it{advice}'


@dataclass(eq=False)
class SchemaClosed(DatabaseError):
    """A role may not use the schema of cdc_bridge, which is open to its owner and the runtime role only."""

    role: str
    schema: str
    owner: str

    def __str__(self) -> str:
        return (
            f'role "{self.role}" may not use schema "{self.schema}": connect as its owner, "{self.owner}", or as the'
            " runtime role that cdc-bridge sql --roles makes"
        )


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session that holds a lock, or a prepared transaction, which has a `gid` and an `owner` instead of a process.

    PostgreSQL may hide some facts about the sessions of other roles.
    """

    pid: int | None
    application_name: str | None = None
    held_s: float | None = None
    gid: str | None = None
    owner: str | None = None

    def __str__(self) -> str:
        if self.gid is not None:
            gid = "'" + self.gid.replace("'", "''") + "'"
            since = f" {self.held_s:.0f} s ago" if self.held_s is not None else ""
            return (
                f"the prepared transaction {gid}, prepared{since}: COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}, as"
                f' the role "{self.owner}" or a superuser, ends it'
            )
        name = f' "{self.application_name}"' if self.application_name else ""
        since = f", in a transaction for {self.held_s:.0f} s" if self.held_s is not None else ""
        return f"process {self.pid}{name}{since}"


@dataclass(eq=False)
class LockNotAcquired(DatabaseError):
    """A table was busy at every attempt. `limit_s` is None when the limit was not ours."""

    exit_code = 4

    task: str
    limit_s: float | None = None
    holders: tuple[LockHolder, ...] = ()

    def __str__(self) -> str:
        if self.limit_s is None:
            return f"{self.task}; try again when the table is less busy"
        held_by = "; ".join(map(str, self.holders[:3])) or "nobody, just now"
        return (
            f"{self.task}: no lock within {self.limit_s:g} s. It is held by {held_by}."
            " Nothing was changed there; try again when that has ended"
        )


@dataclass(eq=False)
class NotInstalled(DatabaseError):
    """This database has no schema of cdc_bridge."""

    schema: str

    def __str__(self) -> str:
        return (
            f'this database has no schema "{self.schema}" of cdc_bridge: attach a table first (cdc-bridge attach TABLE)'
        )


class CannotListen(DatabaseError):
    """LISTEN is accepted but notifications do not arrive."""

    exit_code = 5


class SharedSession(CannotListen):
    """A pooler lends server sessions for one transaction, so that nothing that we set or ask for would last."""

    def __str__(self) -> str:
        return (
            "the connection string leads through a pooler in transaction mode (PgBouncer), where a session belongs to"
            " nobody: connect to PostgreSQL directly, or through a pool in session mode"
        )


@dataclass(eq=False)
class CannotServe(BridgeError):
    """The address or port to listen on is not available. `reason` is the operating system's."""

    exit_code = 5

    host: str
    port: int
    reason: str
    remedy: str = "choose another port with --port, 0 for any, or another address"

    def __str__(self) -> str:
        return f"cannot listen on {self.host}:{self.port} ({self.reason.lower()}): {self.remedy}"


class SubscriptionRefused(BridgeError):
    """The server refuses the subscription, or ended it."""

    exit_code = 6


class CaptureLost(BridgeError):
    """Listening ended. Changes may have been missed."""


class DatabaseSilent(CaptureLost):
    """The database does not answer, and does not say why: other connections may be dead as well."""


class PayloadError(BridgeError):
    """This version cannot read a payload, or a part of it is missing."""


class SourceChanged(BridgeError):
    """A table differs from the catalog. Read the catalog again and retry."""


class SourceUnavailable(BridgeError):
    """The database cannot be reached. Retry later."""


class Forgotten(BridgeError):
    """The log no longer holds all changes after a position. Begin with fresh data."""


@dataclass(eq=False)
class ClusterFailed(BridgeError):
    """A PostgreSQL server of the demo or the tests did not start. `log` is the end of its log."""

    what: str
    log: str = ""

    def __str__(self) -> str:
        return f"{self.what}\n{self.log}".rstrip()


@dataclass(eq=False)
class RequestError(BridgeError):
    """A client's request is refused.

    `code` is an error code of Directus, `message` the sentence for the client.
    """

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid_payload(reason: str) -> RequestError:
    return RequestError("INVALID_PAYLOAD", f"Invalid payload. {reason}.")


def invalid_query(reason: str) -> RequestError:
    return RequestError("INVALID_QUERY", f"Invalid query. {reason}.")


def forbidden_item() -> RequestError:
    return RequestError("FORBIDDEN", "You don't have permission to access this.")


def forbidden_collection(collection: str) -> RequestError:
    """A collection that does not exist and a forbidden one get the same answer."""
    return RequestError(
        "FORBIDDEN",
        f'You don\'t have permission to access collection "{collection}" or it does not exist. Queried in root.',
    )


def cannot_be_read() -> RequestError:
    """The reason is for the operator, in the log."""
    return RequestError("SERVICE_UNAVAILABLE", "The data cannot be read.")


def forbidden_event(event: str, collection: str) -> RequestError:
    return RequestError(
        "FORBIDDEN", f'You don\'t have permission to receive the event "{event}" of collection "{collection}".'
    )


def forbidden_field(field: str, collection: str, path: str = "") -> RequestError:
    """A field that does not exist and a forbidden one get the same answer. `path` leads to its collection."""
    place = f'"{path}"' if path else "root"
    return RequestError(
        "FORBIDDEN",
        f'You don\'t have permission to access field "{field[:200]}" in collection "{collection}"'
        f" or it does not exist. Queried in {place}.",
    )
