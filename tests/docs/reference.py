"""The parts of the reference pages that follow from the code.

They stand between two comments, and `make reference` writes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from itertools import chain, groupby
from typing import Any

from pydantic import SecretStr

from cdc_bridge.admin.problems import SEVERITIES
from cdc_bridge.metrics.names import METRICS, Description
from cdc_bridge.settings import FIELDS
from tests.docs.shell import PROGRAM
from tests.support.process import ROOT

BEGIN, END = "<!-- written by `make reference` -->", "<!-- end of what is written -->"
PROTOCOL: dict[str, Any] = json.loads((files("cdc_bridge.server") / "asyncapi.json").read_text(encoding="utf-8"))
EVERYWHERE = {"--dsn", "--schema-name", "--config", "--help"}


def table(*rows: tuple[str, ...]) -> str:
    """Return a table whose first row is the head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join((head, "|---" * len(rows[0]) + "|", *others))


def options() -> str:
    """Return the options of each command, as `--help` has them."""
    rows = [(f"`{name}`", f"`{usage}`", text) for name in PROGRAM.commands for usage, text in _options(name)]
    return table(("command", "option", "meaning"), *rows)


def _options(name: str) -> Iterator[tuple[str, str]]:
    command = PROGRAM.commands[name]
    context = command.make_context(name, [], resilient_parsing=True)
    for parameter in command.get_params(context):
        is_option = parameter.param_type_name == "option" and not EVERYWHERE & {*parameter.opts}
        if is_option and name != "serve" and (record := parameter.get_help_record(context)):
            yield record[0].replace("|", "/"), " ".join(record[1].split())


def settings() -> str:
    rows = [(f"[`{name}`](#{name})", default(info.default), info.description or "") for name, info in FIELDS.items()]
    return table(("setting", "default", "meaning"), *rows)


def default(value: Any) -> str:
    """Return a default as a setting's section says it."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is True or value is False:
        return f"`{value}`".lower()
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value or value == 0 else ""


def findings() -> str:
    """Return the findings by severity."""
    rows = [
        (f"`{severity}`", ", ".join(f"[{name}](#{name})" for name, _ in of_it))
        for severity, of_it in groupby(SEVERITIES.items(), lambda item: item[1])
    ]
    return table(("severity", "findings"), *rows)


def metrics() -> str:
    rows = [
        (f"[`{name}`](#{name})", kind(name, metric), ", ".join(f"`{label}`" for label in metric.labels), metric.text)
        for name, metric in METRICS.items()
    ]
    return table(("metric", "type", "labels", "meaning"), *rows)


def messages() -> str:
    """Return the messages as `/asyncapi.json` has them."""
    rows = [
        (*_message(found["payload"]), " and ".join(_senders(name)), f"{found['summary']}.")
        for name, found in PROTOCOL["channels"]["websocket"]["messages"].items()
    ]
    return table(("`type`", "members", "from", "meaning"), *rows)


def _senders(message: str) -> Iterator[str]:
    """Yield who sends a message: the client sends what the bridge receives, and answers what the bridge sends."""
    reference = {"$ref": f"#/channels/websocket/messages/{message}"}
    operations = PROTOCOL["operations"].values()
    for sender, action in (("client", "receive"), ("bridge", "send")):
        sent = [each for found in operations if found["action"] == action for each in found["messages"]]
        replies = [found.get("reply", {"messages": []}) for found in operations if found["action"] != action]
        if reference in [*sent, *chain.from_iterable(reply["messages"] for reply in replies)]:
            yield sender


def _message(payload: dict[str, Any]) -> tuple[str, str]:
    """Name its type, and the others of its members; those in bold are always there."""
    types, *others = payload["properties"].items()
    members = [
        f"`{name}`" + (f": `{json.dumps(value['const'])}`" if "const" in value else "") for name, value in others
    ]
    required = [name in payload["required"] for name, _ in others]
    shown = [f"**{text}**" if always else text for text, always in zip(members, required, strict=True)]
    return ", ".join(f"`{each}`" for each in types[1].get("enum", [types[1].get("const")])), ", ".join(shown)


def kind(name: str, metric: Description) -> str:
    return "histogram" if metric.is_histogram else "counter" if name.endswith("_total") else "gauge"


PARTS: Mapping[str, Callable[[], str]] = {
    "docs/cli.md": options,
    "docs/doctor.md": findings,
    "docs/metrics.md": metrics,
    "docs/protocol.md": messages,
    "docs/settings.md": settings,
}


def renewed(page: str) -> str:
    """Return the page with its part as the code has it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    assert found, f"{page} lacks {BEGIN}"
    assert ended, f"{page} lacks {END}"
    return f"{before}{BEGIN}\n\n{PARTS[page]()}\n\n{END}{after}"


if __name__ == "__main__":
    for page in PARTS:
        (ROOT / page).write_text(renewed(page), encoding="utf-8")
