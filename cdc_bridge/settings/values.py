"""The types of settings whose values need more than a type of Python's, and how values are refused."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from cdc_bridge import conninfo
from cdc_bridge.access.authenticator import StaticToken
from cdc_bridge.access.rules import Rule
from cdc_bridge.model.row import decode_exact, encode_exact
from cdc_bridge.model.subscription import EVERY_EVENT, EventKind

REFUSAL = "refusal"
"""The type of an error whose message is a whole sentence."""

SECRET_BYTES_MIN = 32
"""A shorter secret of HS256 can be found by trying (RFC 7518, section 3.2)."""

DSN_FORM = "a connection string such as postgresql://user@host:5432/database or 'host=... dbname=...'"


def refusal(reason: str) -> PydanticCustomError:
    """The error that refuses a value with a sentence of its own."""
    return PydanticCustomError(REFUSAL, "{reason}", {"reason": reason})


def _from_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _from_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [each.strip() for each in value.split(",") if each.strip()]


def _check_dsn(dsn: SecretStr) -> SecretStr:
    if fault := conninfo.fault(dsn.get_secret_value()):
        raise refusal(f"{fault}; expected {DSN_FORM}")
    return dsn


def _check_secret(secret: SecretStr) -> SecretStr:
    size_bytes = len(secret.get_secret_value().encode())
    if 0 < size_bytes < SECRET_BYTES_MIN:
        raise refusal(
            f"has {size_bytes} bytes and can be found by trying; expected {SECRET_BYTES_MIN} or more, as"
            " `openssl rand -hex 32` makes them"
        )
    return secret


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if url and not (parts.scheme in ("http", "https") and parts.hostname):
        raise ValueError("no URL of the web")
    return url


def _check_names(names: dict[str, str]) -> dict[str, str]:
    if len(set(names.values())) < len(names) or not all(names.values()):
        raise ValueError("a name stands twice, or is empty")
    return names


AnyCase = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
Dsn: TypeAlias = Annotated[SecretStr, AfterValidator(_check_dsn)]
Secret: TypeAlias = Annotated[SecretStr, AfterValidator(_check_secret)]
Url: TypeAlias = Annotated[str, AfterValidator(_check_url)]
Names: TypeAlias = Annotated[list[str], NoDecode, BeforeValidator(_from_list)]
Relations: TypeAlias = Annotated[dict[str, str], NoDecode, BeforeValidator(_from_json)]
Collections: TypeAlias = Annotated[Relations, AfterValidator(_check_names)]

# --- allowed_origins ---

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/:?#@\[\]]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?")
_OWN_PORTS = {"http": "80", "https": "443"}


def _origin(text: str) -> str:
    """Return an origin as a browser sends it: in small letters, without a path and without the scheme's own port."""
    if text == "*":
        raise refusal(
            "* is refused, for then every open web page could read along in the background; name the origins one by one"
        )
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise refusal(
            f"{conninfo.mask(text)[:60]!r} can never match, for browsers send scheme://host or scheme://host:port"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and _OWN_PORTS.get(scheme) != port else "")


Origins: TypeAlias = Annotated[Names, AfterValidator(lambda origins: [_origin(text) for text in origins])]

# --- static_tokens ---

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_JSON_CAN_SAY = "what JSON can say: texts, finite numbers, true, false, lists and tables"


def _check_token(token: StaticToken) -> StaticToken:
    if not _SHA256.fullmatch(token.sha256):
        raise refusal("each sha256 has to be 64 hex digits: the hash of a token, never the token itself")
    if token.claims.get("role", token.role) != token.role:
        raise refusal("claims may not name another role than `role` does")
    try:
        json.dumps(token.claims, allow_nan=False)
    except (TypeError, ValueError):
        raise refusal(f"claims have to be {_JSON_CAN_SAY}") from None
    return token


Tokens: TypeAlias = Annotated[
    list[Annotated[StaticToken, AfterValidator(_check_token)]], NoDecode, BeforeValidator(_from_json)
]

# --- rules ---

_MEMBERS = ("role", "collection", "fields", "filter", "events")
_EVENTS = {event.value: event for event in (EventKind.CREATE, EventKind.UPDATE, EventKind.DELETE)}


def _read_rules(value: object) -> object:
    """Return the rules that these tables describe; a `Rule` is taken as it is."""
    value = _from_json(value)
    if not isinstance(value, list):
        return value
    rules = [each if isinstance(each, Rule) else _rule(each, number) for number, each in enumerate(value, 1)]
    found: set[tuple[str, str]] = set()
    for rule in rules:
        if (subject := (rule.role, rule.collection)) in found:
            raise refusal(f'the role "{rule.role}" has two rules for "{rule.collection}": make one of them')
        found.add(subject)
    return rules


Rules: TypeAlias = Annotated[list[Rule], NoDecode, BeforeValidator(_read_rules)]


def _rule(table: Any, number: int) -> Rule:
    if not isinstance(table, Mapping):
        raise refusal(f"rule {number} is no table")
    names = [table.get(member) for member in ("role", "collection")]
    label = f"rule {number} ({', '.join(str(name)[:63] for name in names if name)})"
    for member in table:
        if member not in _MEMBERS:
            near = did_you_mean(str(member), _MEMBERS)
            raise refusal(f"{label} has {member!r}, which rules do not have{near}")
    role, collection = (_name(table.get(member), f"{label}: {member}") for member in ("role", "collection"))
    fields, events = table.get("fields", "*"), table.get("events")
    return Rule(role, collection, _fields(fields, label), _filter(table.get("filter"), label), _events(events, label))


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
    try:
        text = value if isinstance(value, str) else "" if value is None else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise refusal(f"{label}: a filter has {_JSON_CAN_SAY}; write dates as texts") from None
    try:
        found = decode_exact(text) if text.strip() else {}
    except ValueError:
        raise refusal(f"{label}: its filter is no JSON that can be read") from None
    if not isinstance(found, dict):
        raise refusal(f"{label}: a filter is a table, or the JSON text of an object")
    return encode_exact(found) if found else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
