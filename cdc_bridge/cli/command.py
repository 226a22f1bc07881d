"""Parts that commands share: output, options, the step from flags to `Settings`, and a connection to the database.

Results go to stdout, and everything about them to stderr.
"""

import inspect
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import psycopg
import typer
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_bridge import settings as s
from cdc_bridge.conninfo import mask, server
from cdc_bridge.logs import printable
from cdc_bridge.model.errors import DatabaseError, DatabaseUnreachable, LockNotAcquired
from cdc_bridge.settings import Settings


class ReaderGone(Exception):
    """The reader of our stdout has stopped reading, as `head` does. This is no error."""


def say(text: str) -> None:
    """Write a result that programs may read; on a terminal without what would drive that. Raises `ReaderGone`."""
    _write("\n".join(map(printable, text.split("\n"))) if sys.stdout.isatty() else text)


def say_lines(lines: Iterable[str], style: Callable[[str], str] = str) -> None:
    """Write a result for people. Each line stays one, whatever is in it. Raises `ReaderGone`."""
    _write("\n".join(style(printable(line)) for line in lines))


def _write(text: str) -> None:
    """Write at once, so that the reader of a pipe has it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def note(text: str) -> None:
    """Write what a person should know to stderr, where no program that reads stdout stumbles over it."""
    print(text, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Write an error or a warning, under our name and without a password."""
    note(printable(f"cdc-bridge: {mask(text)}"))


PATIENCE_S = 1.0
"""The time after which a person wonders."""


@contextmanager
def progress(label: str, steps: int, patience_s: float = PATIENCE_S) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step. After `patience_s` a terminal shows how many are done."""
    with ExitStack() as stack:
        begun_s, done = time.monotonic(), 0
        bar: Any = None

        def tick() -> None:
            nonlocal done, bar
            done += 1
            if bar is not None:
                bar.update(1)
            elif sys.stderr.isatty() and time.monotonic() - begun_s >= patience_s:
                bar = stack.enter_context(typer.progressbar(length=steps, label=label, file=sys.stderr))
                bar.update(done)

        yield tick


# --- options and settings ---

Dsn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--dsn", metavar="CONNINFO", help="The database; else CDC_BRIDGE_DSN, else libpq's own PG* variables."
    ),
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="A TOML file with settings; by default cdc-bridge.toml, if there is one."
    ),
]
SchemaName: TypeAlias = Annotated[
    str | None,
    typer.Option("--schema-name", metavar="NAME", help="The schema of cdc_bridge in the database.  [cdc]"),
]
Tables: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TABLE",
        help="Tables, as messages or sales.orders; quote as in SQL: '\"Order Details\"'.",
        show_default=False,
    ),
]


def load(config: Path | None, flags: Mapping[str, object]) -> Settings:
    """Settings of all sources; warnings about them go to stderr."""
    for sentence in s.unknown_variables():
        complain(f"warning: {sentence}")
    return s.load(flags, config)


# --- a flag for each setting ---


def with_a_flag_for_each_setting(command: Callable[[Path | None, dict[str, object]], None]) -> Callable[..., None]:
    """Give `command(config, flags)` the signature from which Typer reads one flag for each setting.

    Values stay text until `Settings` judges them, so that all sources obey the same rules.
    """

    def typed(config: Path | None, **flags: object) -> None:
        command(config, flags)

    annotations = {"config": Config} | {name: _option(name) for name in s.FIELDS}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=None, annotation=each) for name, each in annotations.items()]
    typed.__name__, typed.__doc__ = command.__name__, command.__doc__
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = annotations
    return typed


def _option(name: str) -> Any:
    info, flag = s.FIELDS[name], s.flag(name)
    shows_default = isinstance(info.default, (str, int, float)) and info.default != ""
    help_text = f"{info.description}" + (f"  [{info.default}]" if shows_default else "")
    if info.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text)]
    if get_origin(info.annotation) is Literal:
        metavar = f"<{'|'.join(filter(None, get_args(info.annotation)))}>"
    else:
        kinds: dict[Any, str] = {int: "NUMBER", float: "NUMBER"}
        metavar = "JSON" if info.annotation == dict[str, str] else kinds.get(info.annotation, "TEXT")
    return Annotated[str | None, typer.Option(flag, metavar=metavar, help=help_text)]


# --- the database of a command ---

_NEXT_STEPS = {
    "password authentication failed": "check the user and the password",
    "no password supplied": "add a password to the connection string, or set PGPASSWORD",
    "Connection refused": "is the server running there, and is the port right?",
    "No such file or directory": "no server on this machine's socket; name one with --dsn or CDC_BRIDGE_DSN",
    "could not translate host name": "check the host in the connection string",
    "failed to resolve host": "check the host in the connection string",
    "timeout": "check the host and the port, and whether a firewall is in the way",
    "no pg_hba.conf entry": "the server's pg_hba.conf must let this user in from here",
}


@contextmanager
def connection(
    command: str, dsn: str | None, schema: str | None, config: Path | None
) -> Iterator[tuple[psycopg.Connection, Settings]]:
    """Connect in autocommit mode as the settings say. Every psycopg error leaves as one of ours."""
    settings = load(config, {"dsn": dsn, "schema": schema})
    dsn = settings.conninfo
    ours = {
        "connect_timeout": str(max(2, round(settings.connect_timeout_s))),
        "application_name": f"cdc-bridge {command}",
    }
    try:
        conn = psycopg.connect(make_conninfo("", **(ours | conninfo_to_dict(dsn))), autocommit=True)
    except psycopg.Error as error:
        step = next((step for sign, step in _NEXT_STEPS.items() if sign in str(error)), "check --dsn or CDC_BRIDGE_DSN")
        place = mask(server(dsn), dsn)
        raise DatabaseUnreachable(f"cannot connect to {place}: {_reason(error, dsn)}; {step}") from None
    try:
        with conn:
            yield conn, settings
    except psycopg.Error as error:
        raise _refusal(error, dsn) from None


def _refusal(error: psycopg.Error, dsn: str) -> DatabaseError:
    """Return the error that says why a statement failed."""
    reason = _reason(error, dsn)
    match error:
        case errors.LockNotAvailable():
            return LockNotAcquired(reason)
        case errors.InsufficientPrivilege():
            return DatabaseError(
                f"{reason}; connect as a role that may do this: docs/cli.md has them under 'Which role'"
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


def _reason(error: psycopg.Error, dsn: str) -> str:
    """Return the first line of what libpq or the server says, without a secret."""
    lines = (error.diag.message_primary or str(error).strip()).splitlines() or [type(error).__name__]
    return mask(lines[0].removeprefix("connection failed: ").strip(), dsn)
