"""Structured log lines on stderr, for people or as JSON, from the standard library's `logging`.

The convention, for every module:

    log = logging.getLogger(__name__)
    log.warning("capture lost", extra=facts(reason=str(error), attempt=3))

The message is a constant, so that it can be searched and counted; what varies are the facts. `setup` is
called once by the command line; a library that is imported configures nothing. Passwords are masked in
whatever is written, facts and tracebacks included.
"""

import datetime
import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

from cdc_bridge.conninfo import mask

Format = Literal["human", "json"]

_COLOURS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m", logging.CRITICAL: "\033[31m"}
_DIM, _PLAIN = "\033[2m", "\033[0m"

_DRIVES = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return one line, in which what moves the cursor, colours the screen or turns the writing's direction is escaped.

    Names in a database can contain all of that.
    """
    return _DRIVES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def facts(**values: object) -> dict[str, Mapping[str, object]]:
    """Return the facts of a log line, for `extra=`."""
    return {"facts": values}


def setup(log_format: Format = "human", level: str = "info", stream: TextIO | None = None) -> None:
    """Send the lines of all loggers to `stream` (stderr), ours from `level` up, others' from warning up."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(JsonLines() if log_format == "json" else HumanLines(colours=target.isatty()))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("cdc_bridge").setLevel(level.upper())
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # we say it too, and once


class HumanLines(logging.Formatter):
    """`12:34:56.789 warning capture lost  reason="server closed the connection" attempt=3`"""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self.colours = colours

    def format(self, record: logging.LogRecord) -> str:
        time = f"{datetime.datetime.fromtimestamp(record.created).astimezone():%H:%M:%S.%f}"[:-3]
        level = record.levelname.lower()
        pairs = " ".join(f"{name}={_quoted_when_needed(value)}" for name, value in _facts(record).items())
        if self.colours:
            time = f"{_DIM}{time}{_PLAIN}"
            level = f"{_COLOURS.get(record.levelno, '')}{level}{_PLAIN}"
            pairs = f"{_DIM}{pairs}{_PLAIN}" if pairs else ""
        message = printable(" ".join(record.getMessage().split()))  # others' messages may have several lines
        traceback = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return mask(f"{time} {level} {message}" + (f"  {pairs}" if pairs else "") + traceback)


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
        }
        for name, value in _facts(record).items():
            line.setdefault(name, value if isinstance(value, (int, float, bool)) else mask(str(value)))
        if record.exc_info:
            line["traceback"] = mask(self.formatException(record.exc_info).strip())
        return json.dumps(line, ensure_ascii=False)


def _facts(record: logging.LogRecord) -> Mapping[str, object]:
    return {name: value for name, value in getattr(record, "facts", {}).items() if value is not None}


def _quoted_when_needed(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(" \"'=") else json.dumps(text)
