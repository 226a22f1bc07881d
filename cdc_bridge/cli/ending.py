"""End a command: with an exit code and a sentence."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from cdc_bridge.cli import INTERRUPTED
from cdc_bridge.cli.app import app
from cdc_bridge.cli.output import ReaderGone, complain, note
from cdc_bridge.conninfo import mask
from cdc_bridge.model.errors import BridgeError


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    traceback_wanted = "--traceback" in arguments or bool(os.environ.get("CDC_BRIDGE_TRACEBACK"))
    try:
        # The flag may stand anywhere, also behind the command.
        words = [each for each in arguments if each != "--traceback"] or ["--help"]
        return app(words, prog_name="cdc-bridge", standalone_mode=False) or 0
    except ReaderGone:
        _forget_stdout()
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if traceback_wanted:
            note(mask("".join(traceback.format_exception(error))).rstrip())
        return _explain(error)


def _explain(error: Exception) -> int:
    """Say what happened, and return the exit code."""
    if isinstance(error, BridgeError):
        complain(mask(_one_line(str(error))))
        return error.exit_code
    if hasattr(error, "format_message"):  # a usage error of Typer's, whose class has moved between its versions
        command = getattr(getattr(error, "ctx", None), "command_path", "cdc-bridge")
        complain(f"{_one_line(error.format_message()).replace('Value error, ', '')} ({command} --help tells more)")
        return 2
    complain(
        f"unexpected {type(error).__name__}: {_one_line(mask(str(error))) or 'no details'}"
        " (--traceback shows where; please report it)"
    )
    return 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _forget_stdout() -> None:
    """Nobody reads it any more; without this the parser would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
