"""What the configuration says of who may see what, besides the database or instead of it.

Rules only ever take away: the columns, rows and events that no rule of a role names, and the collections, are not
there for it. A role that no rule names has none taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc_bridge.model import exactjson
from cdc_bridge.model.subscription import EVERY_EVENT, EventKind


@dataclass(frozen=True, slots=True)
class Rule:
    """What one role may see of one collection. `fields` of None are all, `filter` is as a client would write it."""

    role: str
    collection: str
    fields: frozenset[str] | None = None
    filter: str = ""
    events: frozenset[EventKind] = EVERY_EVENT

    @property
    def condition(self) -> Mapping[str, Any]:
        found = exactjson.decode(self.filter) if self.filter else {}
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules. No role has two for one collection."""

    rules: tuple[Rule, ...] = ()
    _by_role: Mapping[str, Mapping[str, Rule]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_role", _by_role(self.rules))

    def names(self, role: str) -> bool:
        return role in self._by_role

    def of(self, role: str) -> Mapping[str, Rule] | None:
        """By collection. None: nothing is taken away."""
        return self._by_role.get(role)


def _by_role(rules: Iterable[Rule]) -> Mapping[str, Mapping[str, Rule]]:
    found: dict[str, dict[str, Rule]] = {}
    for rule in rules:
        found.setdefault(rule.role, {})[rule.collection] = rule
    return found


NO_RULES = RuleBook()
