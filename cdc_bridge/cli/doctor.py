"""`cdc-bridge doctor`: what is wrong with a database and its bridges, and what to do."""

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from cdc_bridge.admin.problems import Finding, Severity
from cdc_bridge.cli.command import Config, Dsn, SchemaName, connection, progress, say, say_lines
from cdc_bridge.model.errors import DatabaseUnreachable

SICK = 7
"""The exit code when something is wrong."""

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan", Severity.UNKNOWN: "magenta"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs; docs/cli.md has the members.")] = False,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Look for what is wrong, and say how to mend it.

    It changes nothing. With the settings of the bridge it also looks at roles, policies and the certificate. It ends
    with 7 if something is wrong; docs/doctor.md explains each finding.

    \b
    Example:
      cdc-bridge doctor --json
    """
    from cdc_bridge.doctor.context import Context
    from cdc_bridge.doctor.examination import STEPS, examine

    logging.getLogger("cdc_bridge").addHandler(logging.NullHandler())  # what is logged is found as well
    try:
        with connection("doctor", dsn, schema_name, config) as (conn, settings):
            context = Context(settings)
            with progress("looking", STEPS, patience_s=0) as tick:
                found = examine(conn, context, tick)
    except DatabaseUnreachable as error:
        sentence, _, remedy = str(error).rpartition("; ")
        found = [Finding("unreachable", "the database", sentence, remedy)]
        _report(found, as_json=as_json)
        raise typer.Exit(error.exit_code) from None
    _report(found, as_json=as_json)
    if not is_healthy(found):
        raise typer.Exit(SICK)


def is_healthy(found: Sequence[Finding]) -> bool:
    return not any(finding.severity in {Severity.ERROR, Severity.WARNING} for finding in found)


def _report(found: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        findings = [
            {
                "id": finding.id,
                "severity": finding.severity,
                "subject": finding.subject,
                "sentence": finding.sentence,
                "remedy": finding.remedy,
            }
            for finding in found
        ]
        say(json.dumps({"healthy": is_healthy(found), "findings": findings}, ensure_ascii=False, indent=2))
    else:
        say_lines(_lines(found), _coloured)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    for finding in found:
        yield f"{finding.severity} {finding.id}: {finding.sentence}"
        yield f"    {finding.remedy}"
    counts = Counter(finding.severity for finding in found)
    yield ", ".join(f"{severity}: {counts[severity]}" for severity in Severity if counts[severity]) or "All is well."


def _coloured(line: str) -> str:
    """Return a line whose first word has its colour, if that is a severity."""
    word, space, rest = line.partition(" ")
    if word not in _COLOURS or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return line
    return f"{typer.style(word, fg=_COLOURS[Severity(word)], bold=True)}{space}{rest}"
