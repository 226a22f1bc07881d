"""The forms in which the parts of a query come.

The SDK sends strings (`"fields":"id,text"`, `"limit":"2"`), people send JSON; both mean the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cdc_bridge.model import exactjson
from cdc_bridge.model.errors import invalid_query

_DECIMAL = re.compile(r"-?[0-9]{1,19}")
SHOWN_MAX = 80


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one query can ask for. The first two are rows of initial data: what a client gets that does not say, and
    what it can ask for at most.

    `filter_nodes_max` is for all filters of a query together: a comparison is a node, however many values an `_in` has,
    and so are `_and`, `_or` and each step to another table.
    """

    limit_default: int = 100
    limit_max: int = 10_000
    filter_depth_max: int = 10
    filter_nodes_max: int = 100
    in_values_max: int = 10_000


def names(raw: Any, parameter: str) -> list[str]:
    """A list of names, each once, or the SDK's comma-separated string."""
    if raw is None:
        return []
    found = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise invalid_query(f'"{parameter}" has to be a list of strings or a comma-separated string')
    return list(dict.fromkeys(name.strip() for name in found if name.strip()))


def members(raw: Any, parameter: str) -> dict[str, Any]:
    """An object, or the SDK's JSON text of one."""
    if raw is None:
        return {}
    if isinstance(raw, str):
        try:
            raw = exactjson.decode(raw)
        except ValueError:
            raise invalid_query(f'"{parameter}" is no JSON that can be read') from None
    if not isinstance(raw, dict):
        raise invalid_query(f'"{parameter}" has to be an object or the JSON text of one')
    return raw


def limit(raw: Any, limits: QueryLimits, parameter: str = "limit") -> tuple[int, bool]:
    """How many rows, and whether it was our choice."""
    if raw is None:
        return min(limits.limit_default, limits.limit_max), True
    value = integer(raw, parameter, at_least=-1)
    if value == -1:
        return limits.limit_max, True
    if value > limits.limit_max:
        raise invalid_query(f'"{parameter}" has to be {limits.limit_max} or less')
    return value, False


def offset(raw_offset: Any, raw_page: Any, rows: int, prefix: str = "") -> int:
    """`page` counts from 1 and wins over `offset`; 0 means it was not given, as in Directus."""
    start = 0 if raw_offset is None else integer(raw_offset, f"{prefix}offset", at_least=0)
    page = 0 if raw_page is None else integer(raw_page, f"{prefix}page", at_least=0)
    if page:
        start = (page - 1) * rows
    if start > 2**63 - 1:
        raise invalid_query(f'"{prefix}offset" or "{prefix}page" is too large')
    return start


def integer(raw: Any, parameter: str, *, at_least: int) -> int:
    value = _whole(raw)
    if value is None or not at_least <= value < 2**63:
        raise invalid_query(f'"{parameter}" has to be an integer of {at_least} or more')
    return value


def _whole(raw: Any) -> int | None:
    if isinstance(raw, str):
        return int(raw) if _DECIMAL.fullmatch(raw) else None
    if isinstance(raw, (float, Decimal)):
        return int(raw) if -(2**63) < raw < 2**63 and raw == int(raw) else None
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def shown(raw: Any) -> str:
    """A client's value as a message repeats it: JSON, and short."""
    try:
        text = exactjson.encode(raw[:SHOWN_MAX] if isinstance(raw, (str, list)) else raw)
    except RecursionError:
        return "that"
    return text if len(text) <= SHOWN_MAX + 2 else text[:SHOWN_MAX] + "..."
