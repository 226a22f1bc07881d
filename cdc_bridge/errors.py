"""Every error that cdc_bridge raises on purpose.

    BridgeError
    ├── UsageError            the caller asked for something that cannot be (exit code 2)
    │   └── SettingsError     a setting is unknown or has a bad value
    ├── DatabaseError         the database is not as we need it (exit code 3)
    │   ├── DatabaseUnreachable   nobody answers, or the log-in failed
    │   ├── RelationError     a table cannot be attached, or is not there
    │   ├── LockNotAcquired   the application holds the table for too long
    │   ├── NotInstalled      our schema is not in this database
    │   └── CannotListen      notifications do not arrive here (a transaction pooler)
    ├── CannotServe           the address or the port to listen on is not to be had (exit code 5)
    ├── CaptureLost           the stream of changes broke; what follows is a gap
    ├── PayloadError          a notification is not one of ours, or not whole
    └── RequestError          a client's request is refused; the client is told

`str(error)` is one sentence for a person: what is wrong and what to do about it. It never shows a
secret. The facts of an error are attributes, so that nobody parses the sentence.
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


class LockNotAcquired(DatabaseError):
    """A table was busy at every attempt."""

    exit_code = 4


class NotInstalled(DatabaseError):
    """The schema of cdc_bridge is not in this database."""


class CannotListen(DatabaseError):
    """LISTEN is accepted but notifications do not arrive."""

    exit_code = 5


class CannotServe(BridgeError):
    """The address or the port to listen on is not to be had."""

    exit_code = 5


class CaptureLost(BridgeError):
    """Listening ended. Changes may have happened unheard."""


class PayloadError(BridgeError):
    """A payload that this version cannot read, or of which a part is missing."""


@dataclass
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


def forbidden_field(field: str, collection: str) -> RequestError:
    """A field that is missing and one that is forbidden read the same."""
    return RequestError(
        "FORBIDDEN",
        f'You don\'t have permission to access field "{field}" in collection "{collection}"'
        " or it does not exist. Queried in root.",
    )
