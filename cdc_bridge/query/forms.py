"""The two forms in which the parts of a query come: JSON, and the strings that the SDK sends.

`"fields":"id,text"` and `"fields":["id","text"]` mean the same, and so do `"limit":"2"` and `"limit":2`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cdc_bridge.model.errors import invalid_query
from cdc_bridge.model.row import decode_exact, encode_exact

_DECIMAL = re.compile(r"-?[0-9]{1,19}")
SHOWN_MAX = 80


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """The bounds of one query. `limit_default` and `limit_max` are rows of initial data.

    `filter_nodes_max` bounds all filters of a query together. A comparison is a node, however many values an `_in` has,
    and so are `_and`, `_or` and each step to another table.
    """

    limit_default: int = 100
    limit_max: int = 10_000
    filter_depth_max: int = 10
    filter_nodes_max: int = 100
    in_values_max: int = 10_000


def names(raw: Any, parameter: str) -> list[str]:
    """Read a list of names, or a comma-separated string of them. Each name is returned once."""
    if raw is None:
        return []
    found = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise invalid_query(f'"{parameter}" has to be a list of strings or a comma-separated string')
    return list(dict.fromkeys(name.strip() for name in found if name.strip()))


def members(raw: Any, parameter: str) -> dict[str, Any]:
    """Read an object, or the JSON text of one."""
    if raw is None:
        return {}
    if isinstance(raw, str):
        try:
            raw = decode_exact(raw)
        except ValueError:
            raise invalid_query(f'"{parameter}" is not valid JSON') from None
    if not isinstance(raw, dict):
        raise invalid_query(f'"{parameter}" has to be an object or the JSON text of one')
    return raw


def limit(raw: Any, limits: QueryLimits, parameter: str = "limit") -> tuple[int, bool]:
    """Return the number of rows, and whether it is our limit rather than the client's."""
    if raw is None:
        return min(limits.limit_default, limits.limit_max), True
    value = integer(raw, parameter, at_least=-1)
    if value == -1:
        return limits.limit_max, True
    if value > limits.limit_max:
        raise invalid_query(f'"{parameter}" has to be {limits.limit_max} or less')
    return value, False


def offset(raw_offset: Any, raw_page: Any, rows: int, prefix: str = "") -> int:
    """Return the number of rows to skip. `page` counts from 1 and wins over `offset`; 0 is no page, as in Directus."""
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
    """Return a client's value as an error message repeats it: JSON, and short."""
    try:
        text = encode_exact(raw[:SHOWN_MAX] if isinstance(raw, (str, list)) else raw)
    except RecursionError:
        return "that"
    return text if len(text) <= SHOWN_MAX + 2 else text[:SHOWN_MAX] + "..."
