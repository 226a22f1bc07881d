"""The demo: what it shows, and that it leaves nothing, however it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc_bridge.client import Message
from cdc_bridge.demo.show import Screen, listen_command, story
from tests.cli.command import ROOT, assert_one_sentence, command, environment, run

pytestmark = [pytest.mark.once, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]

SHOWS_WITHIN_S = 60
ENDS_WITHIN_S = 20


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files. Another account, which the server of a root runs under, may enter it."""
    place = tmp_path_factory.mktemp("demo")
    for folder in (place, *list(place.parents)[:2]):
        folder.chmod(0o755)
    return place


class Demo:
    """A running demo and what it has said."""

    def __init__(self, *arguments: str, place: Path) -> None:
        self.said = ""
        self._place = place
        self.process = subprocess.Popen(
            command("demo", "--port", "0", *arguments),
            cwd=place.parent,
            env=environment({"TMPDIR": str(place)}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None, SHOWS_WITHIN_S)
        assert text in self.said, self.said

    def end(self, number: signal.Signals) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(ENDS_WITHIN_S)
        self._reader.join(ENDS_WITHIN_S)
        return code

    def leftovers(self) -> list[str]:
        """Files in its place, and processes at work there or of its group."""
        left = [str(path) for path in self._place.iterdir()]
        return left + [process for process in processes() if str(self._place) in process or self._owns(process)]

    def _owns(self, process: str) -> bool:
        with contextlib.suppress(ProcessLookupError):
            return os.getpgid(int(process.split(maxsplit=1)[0])) == self.process.pid
        return False

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line


def processes() -> list[str]:
    """Pid, working directory and command line of those that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = Path(entry, "cmdline").read_text(errors="replace").replace("\0", " ")
                if words:  # a zombie has none
                    found.append(f"{entry.name} {Path(entry, 'cwd').readlink()} {words}")
    return found


def wait_until(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def demo(place: Path) -> Iterator[Demo]:
    demo = Demo("--pause", "0.1", place=place)
    yield demo
    if demo.process.poll() is None:
        demo.end(signal.SIGKILL)


def test_story_brings_an_event_for_every_kind_of_change(place: Path) -> None:
    demo = Demo("--rounds", "1", "--pause", "0.3", place=place)
    assert demo.ended() == 0, demo.said
    for words in (
        "WebSocket  ws://127.0.0.1:",
        "Database   psql postgresql://",
    ):
        assert words in demo.said
    assert re.search(
        r"^Terminal   (cdc-bridge|'?/.*/cdc-bridge'?|'?/.*'? -m cdc_bridge) listen messages", demo.said, re.MULTILINE
    )
    for step in story():
        assert step.about in demo.said
    for event in ("messages create", "messages update", "messages delete", "rooms    update", "authors  delete"):
        assert f"event  {event}" in demo.said
    assert demo.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_it_and_leaves_nothing(demo: Demo, number: signal.Signals) -> None:
    demo.wait_for("event  ")
    assert demo.end(number) == 0
    assert "Traceback" not in demo.said
    assert demo.leftovers() == []


def test_kill_leaves_nothing(demo: Demo) -> None:
    demo.wait_for("event  ")
    demo.end(signal.SIGKILL)
    wait_until(lambda: not demo.leftovers(), ENDS_WITHIN_S)
    assert demo.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("delay_s", [0.0, 0.3, 0.8, 1.5])
def test_signal_while_it_starts_leaves_nothing(demo: Demo, number: signal.Signals, delay_s: float) -> None:
    demo.wait_for("Starting PostgreSQL")
    time.sleep(delay_s)
    assert demo.end(number) == (-signal.SIGKILL if number == signal.SIGKILL else 0), demo.said
    wait_until(lambda: not demo.leftovers(), ENDS_WITHIN_S if number == signal.SIGKILL else 0)
    assert demo.leftovers() == []
    assert "Traceback" not in demo.said


def test_what_a_signal_breaks_is_not_told() -> None:
    """A connection that a signal comes in between is broken for whatever is still to be said through it."""
    words = """
import logging, os, signal
from cdc_bridge.demo.show import Ending
with Ending():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        logging.warning("error ignored in rollback")
        raise OSError("another command is already in progress")
print("ended")
"""
    ended = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")


def test_it_ends_with_the_process_that_started_it(place: Path) -> None:
    words = " ".join(f"'{word}'" for word in command("demo", "--port", "0"))
    parent = subprocess.Popen(
        ["/bin/sh", "-c", f"{words}; true"],
        cwd=place.parent,
        env=environment({"TMPDIR": str(place)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    while "event  " not in parent.stdout.readline():
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    wait_until(lambda: not list(place.iterdir()), ENDS_WITHIN_S)
    assert list(place.iterdir()) == []


def test_command_that_is_not_found_is_shown_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a place" / "python"))
    assert listen_command("ws://127.0.0.1:8765/") == f"'{tmp_path}/a place/python' -m cdc_bridge listen messages"
    (tmp_path / "a place").mkdir()
    (tmp_path / "a place" / "cdc-bridge").touch(0o755)
    assert listen_command("ws://127.0.0.1:8765/") == f"'{tmp_path}/a place/cdc-bridge' listen messages"
    (tmp_path / "cdc-bridge").touch(0o755)
    assert listen_command("ws://127.0.0.1:1/websocket") == "cdc-bridge listen messages --url ws://127.0.0.1:1/websocket"


def test_only_events_of_the_writer_have_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    screen, message = Screen(), Message("", {"event": "delete", "data": [1]})
    screen.show_step(story()[0])
    screen.show_event("messages", message)
    screen.forget_step()
    screen.show_event("messages", message)
    own, other = capsys.readouterr().out.splitlines()[-2:]
    assert own.endswith(" ms")
    assert other.endswith("1")


def test_make_hands_options_on() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "-m cdc_bridge demo $(ARGS)\n" in makefile


def test_busy_port_is_told_before_anything_starts(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("demo", "--port", str(port), cwd=place, env={"TMPDIR": str(place)})
    said = assert_one_sentence(done, 5)
    assert f"127.0.0.1:{port}" in said
    assert 'cdc-bridge demo --port 0 (any free one), or make demo ARGS="--port 0"' in said
    assert list(place.iterdir()) == []


def test_server_that_cannot_be_made_says_why(place: Path) -> None:
    limited = ["sh", "-c", 'ulimit -f 4000; exec "$@"', "sh", *command("demo", "--port", "0")]  # smaller than its WAL
    done = subprocess.run(limited, env=environment({"TMPDIR": str(place)}), text=True, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "initdb failed" in done.stderr
    assert "File too large" in done.stderr
    assert list(place.iterdir()) == []
