"""The setting `rules`: from the tables that an operator writes to `Rule`s. What is wrong is refused by its name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cdc_bridge.access.rules import Rule
from cdc_bridge.model import exactjson
from cdc_bridge.model.subscription import EVERY_EVENT, EventKind
from cdc_bridge.settings.refusal import refusal

_MEMBERS = ("role", "collection", "fields", "filter", "events")
_EVENTS = {event.value: event for event in (EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE)}


def read(tables: Iterable[Any]) -> list[Rule]:
    """Each is a table, or a `Rule` already. Raises `PydanticCustomError`."""
    rules = [table if isinstance(table, Rule) else _rule(table, number) for number, table in enumerate(tables, 1)]
    found: set[tuple[str, str]] = set()
    for rule in rules:
        if (subject := (rule.role, rule.collection)) in found:
            raise refusal(f'the role "{rule.role}" has two rules for "{rule.collection}": make one of them')
        found.add(subject)
    return rules


def _rule(table: Any, number: int) -> Rule:
    if not isinstance(table, Mapping):
        raise refusal(f"rule {number} is no table")
    names = [table.get(member) for member in ("role", "collection")]
    label = f"rule {number} ({', '.join(str(name)[:63] for name in names if name)})"
    for member in table:
        if member not in _MEMBERS:
            raise refusal(f"{label} has {member!r}, which rules do not have{_did_you_mean(str(member))}")
    role, collection = (_name(table.get(member), f"{label}: {member}") for member in ("role", "collection"))
    return Rule(
        role,
        collection,
        _fields(table.get("fields", "*"), label),
        _filter(table.get("filter"), label),
        _events(table.get("events"), label),
    )


def _name(value: Any, label: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise refusal(f"{label} has to be a name")
    return value


def _fields(value: Any, label: str) -> frozenset[str] | None:
    if value == "*":
        return None
    if not isinstance(value, list) or not value:
        raise refusal(f'{label}: fields have to be "*" or a list of names that is not empty')
    names = frozenset(_name(name, f"{label}: each of the fields") for name in value)
    return None if "*" in names else names


def _events(value: Any, label: str) -> frozenset[EventKind]:
    if value is None:
        return EVERY_EVENT
    if not isinstance(value, list) or not all(isinstance(word, str) and word in _EVENTS for word in value):
        raise refusal(f"{label}: events have to be a list of {', '.join(_EVENTS)}")
    return frozenset(_EVENTS[word] for word in value)


def _filter(value: Any, label: str) -> str:
    """As JSON text in one spelling, so that the same filter is no change."""
    text = value if isinstance(value, str) else _written_out(value, label)
    try:
        found = exactjson.decode(text) if text.strip() else {}
    except ValueError:
        raise refusal(f"{label}: its filter is no JSON that can be read") from None
    if not isinstance(found, dict):
        raise refusal(f"{label}: a filter is a table, or the JSON text of an object")
    return exactjson.encode(found) if found else ""


def _written_out(value: Any, label: str) -> str:
    try:
        return "" if value is None else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise refusal(
            f"{label}: a filter has what JSON can say, texts, finite numbers, true, false, lists and tables; write"
            " dates as texts"
        ) from None


def _did_you_mean(member: str) -> str:
    near = difflib.get_close_matches(member, _MEMBERS, n=1)
    return f"; did you mean {near[0]}?" if near else ""
