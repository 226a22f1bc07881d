"""The command `cdc-bridge`.

Every error ends as one sentence on stderr and an exit code of `docs/cli.md`; a traceback appears only with
`--traceback` or `CDC_BRIDGE_TRACEBACK`. Whoever reads our output may stop reading at any time.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from cdc_bridge.cli.app import app
from cdc_bridge.cli.output import ReaderGone, complain
from cdc_bridge.conninfo import mask
from cdc_bridge.errors import BridgeError

INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--traceback"]  # it may stand anywhere
    try:
        code = app(arguments, prog_name="cdc-bridge", standalone_mode=False) or 0
    except ReaderGone:
        code = 0
        _forget_stdout()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if _traceback_wanted():
            raise
        code = _explain(error)
    sys.exit(code)


def _explain(error: Exception) -> int:
    """Say what happened, and return the exit code."""
    if isinstance(error, BridgeError):
        complain(_one_line(str(error)))
        return error.exit_code
    if hasattr(error, "format_message"):  # a usage error of Typer's, whose class has moved between its versions
        complain(f"{_one_line(error.format_message())} (cdc-bridge --help tells more)")
        return 2
    complain(
        f"unexpected {type(error).__name__}: {_one_line(mask(str(error))) or 'no details'}"
        " (--traceback shows where; please report it)"
    )
    return 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _traceback_wanted() -> bool:
    return "--traceback" in sys.argv or bool(os.environ.get("CDC_BRIDGE_TRACEBACK"))


def _forget_stdout() -> None:
    """Nobody reads it any more; without this the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
