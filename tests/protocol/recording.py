"""A recorded conversation with a real Directus, as phases: what happens, and what the client then hears.

The recordings in `transcripts/` are data: one JSON object a line, `dir` says what it is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRANSCRIPTS = Path(__file__).parent / "transcripts"
Message = dict[str, Any]
Step = dict[str, Any]

_LENGTH = re.compile(r"original length (\d+)")
_KEPT = re.compile(r"REST returned (\d+) rows; create events came one message per row \(only the first")
_OUTCOMES = ("open", "http_reject", "error")


@dataclass(slots=True)
class Phase:
    """What happens, without a pause for answers, and what is heard before something else happens."""

    steps: list[Step] = field(default_factory=list)
    expected: list[Message] = field(default_factory=list)

    def did(self, words: str) -> bool:
        """Whether one of its steps is this action."""
        return any(words in step.get("action", "") for step in self.steps)


@dataclass(frozen=True, slots=True)
class Recording:
    name: str
    phases: list[Phase]

    def first(self, words: str) -> Phase:
        """The first phase with this action."""
        return next(phase for phase in self.phases if phase.did(words))

    def subscribes(self) -> list[Message]:
        """Every `subscribe` that was sent, in order."""
        sent = [step["msg"] for phase in self.phases for step in phase.steps if step["dir"] == "send"]
        return [message for message in sent if isinstance(message, dict) and message["type"] == "subscribe"]


def load(name: str, missing_actions: dict[int, str] | None = None) -> Recording:
    """`missing_actions`: SQL for what the recorder left out, by the number of the line that it comes before."""
    phases = [Phase()]
    rest: Step = {}
    for number, line in enumerate((TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines(), 1):
        step = json.loads(line)
        if action := (missing_actions or {}).get(number):
            phases.append(Phase([{"dir": "sql", "action": action}]))
        match step["dir"]:
            case "recv":
                phases[-1].expected.append(_whole(step))
            case "rest_response":
                rest["response"] = step["msg"]
            case kind if kind in _OUTCOMES:
                connect = next(s for p in phases for s in p.steps if s["dir"] == "connect" and _same_socket(s, step))
                connect.setdefault("outcome", step.get("status", kind))
            case "sql_done":
                pass
            case "note" if found := _KEPT.match(step["msg"]):
                for message in phases[-1].expected:
                    message["_length"] = int(found[1])
            case _:
                if phases[-1].expected:
                    phases.append(Phase())
                phases[-1].steps.append(step)
                rest = step if step["dir"] == "rest" else rest
    return Recording(name, phases)


def _same_socket(one: Step, other: Step) -> bool:
    return one.get("sock") == other.get("sock")


def _whole(step: Step) -> Message:
    """The message, with what the recorder cut out of it for brevity put back, or its length remembered."""
    message: Message = step["msg"]
    if found := _LENGTH.search(step.get("note", "")):
        length = int(found[1])
        if step["note"].startswith("text"):
            for row in message["data"]:
                row["text"] = "x" * length
        else:
            message["_length"] = length
    return message
