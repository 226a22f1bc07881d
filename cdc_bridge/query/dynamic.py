"""Values that stand for others: who the client is, and the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cdc_bridge.model.catalog import PgType
from cdc_bridge.model.filter import Now
from cdc_bridge.query.moment import parse_now
from cdc_bridge.query.operators import INSTANTS

_USER = "$CURRENT_USER"
_ROLE = "$CURRENT_ROLE"
ABSENT: Final = object()
"""A claim that the client does not have. It is like NULL: nothing compares with it."""


class Claimed(str):
    """A text that a token says. It means itself, also where a client who wrote it would mean more: `null`, `$NOW`."""

    __slots__ = ()


class Claims:
    """The claims of a client's token; without a token there are none."""

    def __init__(self, claims: Mapping[str, Any] | None) -> None:
        self._claims = claims or {}

    def resolve(self, value: Any) -> Any:
        """What the value stands for, mostly itself."""
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        if value == _ROLE:
            return self._claim("role")
        if value == _USER:
            return self._claim("sub")
        if value.startswith(_USER + "."):
            return self._claim(value.removeprefix(_USER + "."))
        return value

    def _claim(self, name: str) -> Any:
        """A name with dots is first one name (`https://example.com/team`), then a path."""
        found: Any = self._claims.get(name, ABSENT)
        if found is ABSENT:
            found = self._claims
            for member in name.split("."):
                found = found.get(member, ABSENT) if isinstance(found, Mapping) else ABSENT
        return ABSENT if found is None else claimed(found)


def claimed(value: Any) -> Any:
    return Claimed(value) if isinstance(value, str) else value


def now(type_: PgType, value: Any) -> Now | None:
    """`$NOW`, where the type has moments. Raises `ValueError` for a broken one."""
    if type_.name not in INSTANTS or not isinstance(value, str) or isinstance(value, Claimed):
        return None
    return parse_now(value)
