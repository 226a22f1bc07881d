"""docs/queries.md, from top to bottom: its SQL is run, its requests are sent, and its answers are those that come."""

from __future__ import annotations

import asyncio
import enum
import json
import re
import sys
from typing import Any

import pytest

from cdc_bridge.model.filter import Function, Operator, Quantifier
from cdc_bridge.model.subscription import AggregateFunction, Meta
from cdc_bridge.query.fields import DEEP
from cdc_bridge.query.parser import KNOWN
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.process import PIPE, ROOT, environment, line_of
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once  # what it is about is the same on each version of PostgreSQL

PAGE = (ROOT / "docs" / "queries.md").read_text()
BLOCKS = re.findall(r"^```(sql|json)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


async def test_the_page_is_what_happens(database: Database) -> None:
    (_, schema), *blocks = BLOCKS
    database.execute(schema)
    attach(database, "authors", "messages")
    async with running_bridge(database.dsn) as bridge, connected(bridge.url) as client:
        for language, text in blocks:
            if language == "sql":
                database.execute(text)
            else:
                for line in text.splitlines():
                    await follow(client, json.loads(line))
        await client.send({"type": "ping", "uid": "end"})
        assert await client.next() == {"type": "pong", "uid": "end"}


async def follow(client: Client, line: dict[str, Any]) -> None:
    """A request is sent, an answer is awaited; a query alone is asked for its rows, and has some or none."""
    if "type" not in line:
        await client.send({"type": "items", "action": "read", "collection": "messages", "query": line})
        assert "data" in await client.next(), line
    elif line["type"] in ("subscribe", "unsubscribe") or "action" in line:
        await client.send(line)
    else:
        assert await client.next() == line


@pytest.mark.parametrize("words", [Operator, Function, Quantifier, AggregateFunction, Meta])
def test_every_word_of_the_language_is_on_the_page(words: type[enum.Enum]) -> None:
    told = set(re.findall(r"`([^`\s]+)`", PAGE))
    known = {f"_{word.value}" if words is Quantifier else word.value for word in words}
    assert known - {"_joined"} <= told


def test_every_member_of_a_query_is_on_the_page() -> None:
    told = set(re.findall(r"`([^`\s]+)`", PAGE))
    assert KNOWN | DEEP | {"_alias", "_and", "_or", "_json", "$NOW", "$CURRENT_USER", "$CURRENT_ROLE"} <= told


async def test_pasted_lines_are_sent_by_the_client_that_the_page_names(database: Database) -> None:
    """It prints what it hears."""
    assert "`python -m websockets ws://127.0.0.1:8765/websocket`" in PAGE
    (_, schema), (_, first), *_ = BLOCKS
    request, answer = first.splitlines()
    database.execute(schema)
    attach(database, "authors", "messages")
    async with running_bridge(database.dsn) as bridge:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "websockets", bridge.url, stdin=PIPE, stdout=PIPE, env=environment()
        )
        assert client.stdin is not None
        client.stdin.write(request.encode() + b"\n")
        while "{" not in (heard := await line_of(client.stdout)):
            assert heard
        assert json.loads(heard[heard.index("{") : heard.rindex("}") + 1]) == json.loads(answer)
        client.stdin.close()
        await client.wait()
