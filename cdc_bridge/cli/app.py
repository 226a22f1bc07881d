"""The Typer application: which commands there are, and how they end. Each command stands in a module of its own."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from cdc_bridge import __version__
from cdc_bridge.cli import INTERRUPTED
from cdc_bridge.cli.bench import bench
from cdc_bridge.cli.command import ReaderGone, complain, note, say
from cdc_bridge.cli.doctor import doctor
from cdc_bridge.cli.explain import explain
from cdc_bridge.cli.install import attach, detach, sql, upgrade
from cdc_bridge.cli.listen import listen
from cdc_bridge.cli.maintain import prune, status
from cdc_bridge.cli.serve import serve
from cdc_bridge.cli.token import token
from cdc_bridge.cli.top import top
from cdc_bridge.conninfo import mask
from cdc_bridge.logs import printable
from cdc_bridge.model.errors import BridgeError, UsageError

HELP = """\
Row changes of a PostgreSQL database, live, to WebSocket clients.

\b
Try it without a database:
  cdc-bridge demo

\b
With yours:
  export CDC_BRIDGE_DSN=postgresql://user@host/database
  cdc-bridge attach --all
  cdc-bridge serve --insecure-public
  cdc-bridge listen messages
"""

EPILOG = """\
\b
Exit codes:
    0  done
    1  an unexpected error
    2  the command line or a setting is wrong
    3  the database refuses, lacks something or does not answer
    4  a table stayed locked by others
    5  no notification arrives, or the port cannot be listened on
    6  the bridge refused the subscription (listen)
    7  something is wrong (doctor)
  130  interrupted by Ctrl-C
  143  ended by SIGTERM (serve and demo end with 0)
"""

app = typer.Typer(
    help=HELP,
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"cdc-bridge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from, for a bug report.")
    ] = False,
) -> None:
    del version, traceback  # the one has acted by now, the other `run` has taken; it is here for --help


def demo(
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="NUMBER", help="Where the bridge listens; 0: any free port.")
    ] = 8765,
    rounds: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="End by itself after so many rounds of changes.")
    ] = None,
    pause: Annotated[float, typer.Option(min=0, metavar="NUMBER", help="Seconds between two changes.")] = 1.0,
) -> None:
    """Show it all on this machine, without a database of yours.

    It starts a PostgreSQL of its own, a bridge and a writer, and prints what arrives. Ctrl-C ends it and removes every
    trace. From a clone, install it with pip install '.[demo]'.

    \b
    Example:
      cdc-bridge demo --port 8765
    """
    from cdc_bridge.demo import show

    show.run(port, rounds, pause)


for command in (attach, upgrade, detach, status, top, doctor, explain, prune, bench, sql, serve, token, listen, demo):
    app.command()(command)


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    traceback_wanted = "--traceback" in arguments or bool(os.environ.get("CDC_BRIDGE_TRACEBACK"))
    try:
        # The flag may stand anywhere, also behind the command.
        words = [each for each in arguments if each != "--traceback"] or ["--help"]
        if undecoded := next((word for word in words if not _is_decoded(word)), None):
            raise UsageError(
                f"the argument {undecoded} is not valid in the terminal's encoding, which LANG or LC_ALL names"
            )
        return app(words, prog_name="cdc-bridge", standalone_mode=False) or 0
    except ReaderGone:
        # Its reader is gone, so Python would report an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if traceback_wanted:
            lines = mask("".join(traceback.format_exception(error))).rstrip().split("\n")
            note("\n".join(map(printable, lines)))
        return _explain(error)


def _explain(error: Exception) -> int:
    """Say what happened, and return the exit code."""
    if isinstance(error, BridgeError):
        complain(_one_line(str(error)))
        return error.exit_code
    if hasattr(error, "format_message"):  # a usage error of Typer's, whose class has moved between its versions
        command = getattr(getattr(error, "ctx", None), "command_path", "cdc-bridge")
        complain(f"{_one_line(error.format_message()).replace('Value error, ', '')} ({command} --help tells more)")
        return 2
    details = _one_line(str(error)) or "no details"
    complain(f"unexpected {type(error).__name__}: {details} (--traceback shows where; please report it)")
    return 1


def _is_decoded(word: str) -> bool:
    """Whether all bytes of an argument could be decoded. Otherwise Python has put surrogates in their place."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def _one_line(text: str) -> str:
    return " ".join(text.split())
