"""Settings whose values need more than a type: origins, rules and static tokens, and how they are refused."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from cdc_bridge import conninfo
from cdc_bridge.access.authenticator import StaticToken
from cdc_bridge.access.rules import Rule
from cdc_bridge.model.row import decode_exact, encode_exact
from cdc_bridge.model.subscription import EVERY_EVENT, EventKind

REFUSAL = "refusal"
"""The type of an error whose message is a whole sentence."""


def refusal(reason: str) -> PydanticCustomError:
    """The error that refuses a value with a sentence of its own."""
    return PydanticCustomError(REFUSAL, "{reason}", {"reason": reason})


# --- allowed_origins ---

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/:?#@\[\]]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?")
_OWN_PORTS = {"http": "80", "https": "443"}


def origin(text: str) -> str:
    """Return an origin as a browser sends it: in small letters, without a path and without the scheme's own port."""
    if text == "*":
        raise refusal(
            "* is refused, for then every web page that somebody opens could read along in the background; name the"
            " origins one by one"
        )
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise refusal(
            f"{conninfo.mask(text)[:60]!r} can never match, for browsers send scheme://host or scheme://host:port"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and _OWN_PORTS.get(scheme) != port else "")


# --- static_tokens ---

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def check_token(token: StaticToken) -> None:
    """Raise `PydanticCustomError` for a static token that could not be used."""
    if not _SHA256.fullmatch(token.sha256):
        raise refusal("each sha256 has to be 64 hex digits: the hash of a token, never the token itself")
    if token.claims.get("role", token.role) != token.role:
        raise refusal("claims may not name another role than `role` does")
    try:
        json.dumps(token.claims, allow_nan=False)
    except (TypeError, ValueError):
        raise refusal(
            "claims have to be what JSON can say: texts, finite numbers, true, false, lists and tables"
        ) from None


# --- rules ---

_MEMBERS = ("role", "collection", "fields", "filter", "events")
_EVENTS = {event.value: event for event in (EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE)}


def read_rules(tables: Iterable[Any]) -> list[Rule]:
    """Return the rules that these tables describe; a `Rule` is taken as it is. Raises `PydanticCustomError`."""
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
    """Return the filter as JSON text in one spelling, so that the same filter is no change."""
    text = value if isinstance(value, str) else _written_out(value, label)
    try:
        found = decode_exact(text) if text.strip() else {}
    except ValueError:
        raise refusal(f"{label}: its filter is no JSON that can be read") from None
    if not isinstance(found, dict):
        raise refusal(f"{label}: a filter is a table, or the JSON text of an object")
    return encode_exact(found) if found else ""


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
