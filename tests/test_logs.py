"""Log lines: for people and for programs, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from cdc_bridge import logs
from cdc_bridge.logs import facts

log = logging.getLogger("cdc_bridge.test_logs")


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    """`setup` replaces the root's handlers, among them pytest's own."""
    root, ours = logging.getLogger(), logging.getLogger("cdc_bridge")
    before, level, own_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    ours.setLevel(own_level)


def test_json_lines_hold_message_and_facts() -> None:
    stream = io.StringIO()
    logs.setup("json", "info", stream)
    log.warning("capture lost", extra=facts(reason="it\nbroke", attempt=3, nothing=None))
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "cdc_bridge.test_logs",
        "message": "capture lost",
        "reason": "it\nbroke",
        "attempt": 3,
    }


def test_human_lines_are_one_line_each_and_plain_without_a_terminal() -> None:
    stream = io.StringIO()
    logs.setup("human", "info", stream)
    log.info("listening", extra=facts(url="ws://x", reason="two words\n"))
    assert stream.getvalue().endswith(' info listening  url=ws://x reason="two words\\n"\n')
    assert "\033" not in stream.getvalue()


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.setup("human", "warning", stream)
    log.info("not this")
    logging.getLogger("websockets").info("nor this")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_no_password_reaches_a_line(log_format: logs.Format) -> None:
    stream = io.StringIO()
    logs.setup(log_format, "info", stream)
    try:
        raise RuntimeError("password=sekret")
    except RuntimeError:
        log.exception("dsn postgresql://u:sekret@db/x", extra=facts(dsn="password=sekret", url="pg://u:sekret@h"))
    assert "RuntimeError" in stream.getvalue()
    assert "sekret" not in stream.getvalue()
