"""`cdc-bridge explain`: why a client got a change of a row, or did not."""

import asyncio
import logging
import sys
import time
import urllib.error
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import msgspec
import typer

from cdc_bridge.admin.status import read_bridges, read_status
from cdc_bridge.admin.tables import require_table
from cdc_bridge.cli.command import Config, Dsn, SchemaName, connection, say, say_lines
from cdc_bridge.cli.listen import Event
from cdc_bridge.cli.scrape import fetch, scrape
from cdc_bridge.model.errors import UsageError
from cdc_bridge.model.subscription import EventKind


def explain(
    collection: Annotated[
        str,
        typer.Argument(metavar="COLLECTION", help="The collection, as messages or sales.orders; status lists them."),
    ],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The row's key; of several columns, a JSON object.")],
    claims: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="JSON", help="The claims of the client's token; without it, a client that has none."
        ),
    ] = None,
    filter_: Annotated[str | None, typer.Option("--filter", metavar="JSON", help="The client's filter.")] = None,
    fields: Annotated[str, typer.Option(metavar="A,B", help="The client's fields, separated by commas.")] = "",
    event: Annotated[Event | None, typer.Option(help="The client's event, if it asks for one kind only.")] = None,
    changes: Annotated[
        int, typer.Option(min=1, max=1000, metavar="NUMBER", help="How many changes of the log are explained.")
    ] = 10,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where a bridge answers, as http://127.0.0.1:8765, to ask it too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs; docs/cli.md has the members.")] = False,
    dsn: Dsn = None,
    schema_name: SchemaName = None,
    config: Config = None,
) -> None:
    """Explain why a client got a change of a row, or did not.

    It looks at the row's changes in the log, the triggers, and what grants, policies, rules and the client's query say.
    It changes nothing, and shows of rows only what that client may see.

    \b
    Example:
      cdc-bridge explain messages 7 --as '{"role":"web","sub":"1"}' --filter '{"room":{"_eq":1}}'
    """
    from cdc_bridge.cli import explained  # takes the engine along, which no other command waits for
    from cdc_bridge.explain.explanation import Question
    from cdc_bridge.explain.explanation import explain as explain_row

    for name in ("cdc_bridge", "psycopg"):
        logging.getLogger(name).addHandler(logging.NullHandler())  # it is said in other words
    names = tuple(name.strip() for name in fields.split(",") if name.strip())
    question = Question(collection, key, claims, filter_, names, EventKind(event) if event else None, changes)
    with connection("explain", dsn, schema_name, config) as (conn, settings):
        status, bridges = read_status(conn, settings.schema_name, settings.collections), read_bridges(conn)
        with _patience():
            found = asyncio.run(explain_row(settings, question))
        if found is None:
            require_table(conn, settings.schema_name, collection, "name a collection as cdc-bridge status does")
    now_s = time.time()
    around = explained.Surroundings(question, status, bridges, None if url is None else _ask(url), now_s)
    if as_json:
        members = explained.as_members(found, around)
        say(msgspec.json.format(msgspec.json.encode(members, enc_hook=str), indent=2).decode())
    else:
        say_lines(explained.lines(found, around))


def _patience() -> AbstractContextManager[object]:
    """Return what shows a person that this goes on: a large log takes some seconds."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("looking through the change log")


def _ask(url: str) -> Mapping[str, Any]:
    """Return what a bridge says of itself. Raises `UsageError`."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url is {url!r}: expected the address of a bridge, such as http://127.0.0.1:8765")
    is_ready: bool | None = True
    try:
        answer = fetch(f"{url.rstrip('/')}/readyz?verbose")
    except urllib.error.HTTPError as error:
        is_ready, answer = False, error.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        is_ready, answer = None, f"it cannot be reached: {getattr(error, 'reason', error)}"
    metrics = scrape(url)
    lag = None if metrics.problem else metrics.total("cdc_oldest_undelivered_age_seconds")
    backlog = None if metrics.problem else metrics.total("cdc_backlog_bytes")
    return {
        "url": url,
        "ready": is_ready,
        "answer": answer.strip(),
        "oldest_undelivered_s": lag,
        "backlog_bytes": backlog,
    }
