"""Every error that cdc_bridge raises on purpose.

    BridgeError
    ├── UsageError                the caller asked for something that cannot be (exit code 2)
    │   └── SettingsError         a setting is unknown or has a bad value
    ├── DatabaseError             the database is not as we need it (exit code 3)
    │   ├── DatabaseUnreachable   nobody answers, or the log-in failed
    │   ├── RelationError         a table cannot be attached, or is not there
    │   ├── NotOwner              a table or our schema belongs to somebody else
    │   ├── SchemaClosed          our role may not use our schema
    │   ├── LockNotAcquired       the application holds the table for too long (exit code 4)
    │   ├── NotInstalled          our schema is not in this database
    │   └── CannotListen          notifications do not arrive here (a transaction pooler) (exit code 5)
    ├── CannotServe               the address or the port to listen on is not to be had (exit code 5)
    ├── SubscriptionRefused       a bridge does not let us subscribe (exit code 6)
    ├── CaptureLost               the stream of changes broke; what follows is a gap
    ├── PayloadError              a notification is not one of ours, or not whole
    ├── SourceChanged             a table is not what the catalog said
    ├── SourceUnavailable         the database cannot be read just now
    ├── Forgotten                 the log no longer holds what came after a cursor
    ├── RequestError              a client's request is refused; the client is told
    ├── ClusterFailed             the PostgreSQL that demo and tests bring along does not start
    └── DemoFailed                so the demo does not either

`str(error)` is one sentence for a person: what is wrong and what to do about it. It never shows a
secret. The facts of an error are attributes, so that nobody parses the sentence.

Others never leave their part of the program, and so stand there: `model.messages.InvalidMessage`,
`cli.output.ReaderGone`, `capture.reading.Unreadable`, `query.scalars.Undecided`, `query.spelling.NotNative`,
`access.refusal.Refused`, `access.policy_tokens.NotUnderstood`, `access.guard.Unjudgeable` and
`engine.query_parser.NotYetKnown`.
"""

from __future__ import annotations

from dataclasses import dataclass


class BridgeError(Exception):
    """The root. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(BridgeError):
    """The command line, or what it names, makes no sense."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown or its value is refused."""


class DatabaseError(BridgeError):
    """The database refuses or lacks something that we need."""

    exit_code = 3


class DatabaseUnreachable(DatabaseError):
    """No server answers, or it does not let us in."""


class RelationError(DatabaseError):
    """A relation cannot be captured."""


@dataclass(eq=False)
class NotOwner(DatabaseError):
    """Only the owner can do this. `what` is a table, or `the schema "cdc"`."""

    what: str
    owner: str

    def __str__(self) -> str:
        return f'{self.what} belongs to the role "{self.owner}": connect as that role, or as a member of it'


@dataclass(eq=False)
class SchemaClosed(DatabaseError):
    """Our schema is open to its owner and to the runtime role only."""

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
    """A session that is in the way. Of other roles' sessions PostgreSQL may not show everything."""

    pid: int
    application_name: str | None = None
    held_s: float | None = None

    def __str__(self) -> str:
        name = f' "{self.application_name}"' if self.application_name else ""
        since = f", in a transaction for {self.held_s:.0f} s" if self.held_s is not None else ""
        return f"process {self.pid}{name}{since}"


@dataclass(eq=False)
class LockNotAcquired(DatabaseError):
    """A table was busy at every attempt. `limit_s` is None when it was not we who chose how long to wait."""

    exit_code = 4

    task: str
    relation: str | None = None
    limit_s: float | None = None
    holders: tuple[LockHolder, ...] = ()

    def __str__(self) -> str:
        if self.limit_s is None:
            return f"{self.task}; try again when {self.relation or 'the table'} is less busy"
        held_by = "; ".join(map(str, self.holders[:3])) or "nobody, just now"
        return (
            f"{self.task}: no lock within {self.limit_s:g} s. It is held by {held_by}."
            " Nothing was changed there; try again when that has ended"
        )


@dataclass(eq=False)
class NotInstalled(DatabaseError):
    """The schema of cdc_bridge is not in this database."""

    schema: str

    def __str__(self) -> str:
        return (
            f'this database has no schema "{self.schema}" of cdc_bridge: attach a table first (cdc-bridge attach TABLE)'
        )


class CannotListen(DatabaseError):
    """LISTEN is accepted but notifications do not arrive."""

    exit_code = 5


@dataclass(eq=False)
class CannotServe(BridgeError):
    """The address or the port to listen on is not to be had. `reason` is the operating system's, `remedy` ours."""

    exit_code = 5

    host: str
    port: int
    reason: str
    remedy: str = "choose another port with --port, 0 for any, or another address"

    def __str__(self) -> str:
        return f"cannot listen on {self.host}:{self.port} ({self.reason.lower()}): {self.remedy}"


class SubscriptionRefused(BridgeError):
    """The server does not let us subscribe, now or later."""

    exit_code = 6


class CaptureLost(BridgeError):
    """Listening ended. Changes may have happened unheard."""


class PayloadError(BridgeError):
    """A payload that this version cannot read, or of which a part is missing."""


class SourceChanged(BridgeError):
    """The table is not what the catalog said. Read the catalog and try again."""


class SourceUnavailable(BridgeError):
    """The database cannot be reached. Try again later."""


class Forgotten(BridgeError):
    """The log no longer holds all that came after a position. Begin with fresh data."""


@dataclass(eq=False)
class ClusterFailed(BridgeError):
    """A server of our own could not be created or started; `log` holds the end of what it said."""

    what: str
    log: str = ""

    def __str__(self) -> str:
        return f"{self.what}\n{self.log}".rstrip()


class DemoFailed(BridgeError):
    """The database of the demo does not start."""


@dataclass(eq=False)
class RequestError(BridgeError):
    """A client's request is refused.

    `code` is one of Directus's error codes, `message` the sentence for the client.
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
    """A collection that is missing and one that is forbidden read the same."""
    return RequestError(
        "FORBIDDEN",
        f'You don\'t have permission to access collection "{collection}" or it does not exist. Queried in root.',
    )


def cannot_be_read() -> RequestError:
    """Why is for the operator: the log has it."""
    return RequestError("SERVICE_UNAVAILABLE", "The data cannot be read.")


def forbidden_event(event: str, collection: str) -> RequestError:
    return RequestError(
        "FORBIDDEN", f'You don\'t have permission to be told of the event "{event}" of collection "{collection}".'
    )


def forbidden_field(field: str, collection: str, path: str = "") -> RequestError:
    """A field that is missing and one that is forbidden read the same. `path` leads to its collection."""
    place = f'"{path}"' if path else "root"
    return RequestError(
        "FORBIDDEN",
        f'You don\'t have permission to access field "{field[:200]}" in collection "{collection}"'
        f" or it does not exist. Queried in {place}.",
    )
