"""The demo's story, and what it prints: each statement as it is run, then the events that it caused."""

import itertools
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cdc_bridge.client import Message
from cdc_bridge.statements import read

_STYLES = {"create": "green", "update": "yellow", "delete": "red"}


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of the story, and what it is about."""

    about: str
    statement: str


def story() -> list[Step]:
    """Return one round of the writer's steps."""
    steps = []
    for paragraph in read("demo/story").split("\n\n"):
        lines = paragraph.strip().splitlines()
        comments = list(itertools.takewhile(lambda line: line.startswith("-- "), lines))
        if statement := "\n".join(lines[len(comments) :]):
            steps.append(Step(" ".join(line.removeprefix("-- ") for line in comments), statement.removesuffix(";")))
    return steps


def listen_command(url: str) -> str:
    """Return the command that prints the same events in another terminal: by its name, or where that is not found,
    by its path.
    """
    command, beside = "cdc-bridge", Path(sys.executable).with_name("cdc-bridge")
    if not shutil.which(command):
        command = shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m cdc_bridge"
    return f"{command} listen messages" + ("" if ":8765/" in url else f" --url {url}")


class Screen:
    """Remembers when the last statement was sent, so that an event can say how long it took."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.sent_at: float | None = None

    def say(self, text: str, style: str = "") -> None:
        self._print(Text(text, style))

    def show_ways_in(self, url: str, dsn: str) -> None:
        """Print how to take part from another program."""
        ways = {"WebSocket": url, "Database": f"psql {dsn}", "Terminal": listen_command(url)}
        self.say("")
        for name, way in ways.items():
            self._print(Text.assemble((f"{name:<11}", "bold"), way))
        self.say(
            "\nA writer now changes rows by plain SQL, and a subscriber hears of it over the WebSocket."
            "\nThe time is from sending the writer's statement to receiving its event. Ctrl-C ends the demo.",
            "dim",
        )

    def show_step(self, step: Step) -> None:
        self.say("")
        self.say(step.about, "dim")
        statement = step.statement.replace("\n", "\n       ")
        self.say(f"SQL    {statement}", "bold")
        self.sent_at = time.perf_counter()

    def forget_step(self) -> None:
        """Forget when the last statement was sent: later events are not attributed to it."""
        self.sent_at = None

    def show_event(self, collection: str, message: Message) -> None:
        took = f"  {(time.perf_counter() - self.sent_at) * 1000:.1f} ms" if self.sent_at else ""
        for row in message.describe():
            self._print(
                Text.assemble(
                    ("event  ", "bold"),
                    f"{collection:<9}",
                    (f"{message.event:<7}", _STYLES.get(message.event, "cyan")),
                    row,
                    (took, "dim"),
                )
            )

    def _print(self, line: Text) -> None:
        self.console.print(line)
        self.console.file.flush()  # a pipe gets it now, not when it has gathered some
