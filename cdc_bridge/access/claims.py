"""What a token says, as PostgreSQL will read it.

The text goes to the database as the issuer wrote it. So what PostgreSQL would read otherwise than we do, or not at all,
is refused: names that stand twice, and values that `jsonb` cannot hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cdc_bridge.access.refusal import Refused
from cdc_bridge.model import exactjson

FAR_S = 1e12
"""A time so far away that it never comes; an expiry beyond it is the same."""

EXPONENT_MAX = 1000
"""Of numbers; `numeric` ends somewhere too."""

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Claims:
    """`text` is JSON, an object."""

    text: str
    values: Mapping[str, Any]


def read(body: bytes) -> Claims:
    """Raises `Refused`."""
    try:
        text = body.decode()
        values = exactjson.decode(text)
        json.loads(text, object_pairs_hook=_once, parse_float=_moderate)
    except (ValueError, RecursionError):
        raise Refused("its claims are no JSON, or a name stands twice there") from None
    if not isinstance(values, dict):
        raise Refused("its claims are no object")
    if _NUL.search(text):
        raise Refused("its claims hold the character NUL, which PostgreSQL does not know")
    return Claims(text, {**values, **{name: _time(values, name) for name in ("exp", "nbf") if name in values}})


def with_role(text: str, role: str) -> str:
    """The claims as they would be if the token named that role, which it does not."""
    return exactjson.encode({"role": role}) if text.strip("{} \t\r\n") == "" else _appended(text, role)


def _appended(text: str, role: str) -> str:
    return text.rstrip().removesuffix("}") + "," + exactjson.encode({"role": role})[1:]


def _time(values: Mapping[str, Any], name: str) -> float:
    """Seconds since 1970; a number in a text is none."""
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Refused(f"{name} is no number")
    return float(max(min(value, FAR_S), -FAR_S))


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a name stands twice")
    return found


def _moderate(digits: str) -> Decimal:
    number = Decimal(digits)
    if abs(number.adjusted()) > EXPONENT_MAX:
        raise ValueError("too large or too small")
    return number
