"""The rules of the configuration: who may see what, besides the database or instead of it.

Rules only take away. A role that rules name sees nothing but the collections, columns, rows and events that its rules
name. A role that no rule names loses nothing.

A rule whose filter is invalid (no such field, or a claim that is not of the field's type) hides its collection from the
role, and does nothing else. The log says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import NOTHING, Comparison, Filter, Now, Required, leaves
from cdc_bridge.model.row import decode_exact
from cdc_bridge.model.security_context import Principal, SecurityContext
from cdc_bridge.model.subscription import EVERY_EVENT, EventKind
from cdc_bridge.query.forms import QueryLimits
from cdc_bridge.query.literals import Literals, TypedText
from cdc_bridge.query.parser import parse_filter

log = logging.getLogger(__name__)

LIMITS = QueryLimits(filter_depth_max=100, filter_nodes_max=10_000, in_values_max=1_000_000)
"""Wider than those of clients: the operator is trusted, and claims can be long lists."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The rights of one role on one collection. `fields` of None are all; `filter` is written as clients write it."""

    role: str
    collection: str
    fields: frozenset[str] | None = None
    filter: str = ""
    events: frozenset[EventKind] = EVERY_EVENT

    @property
    def condition(self) -> Mapping[str, Any]:
        return decode_exact(self.filter) if self.filter else {}


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules. No role has two for one collection."""

    rules: tuple[Rule, ...] = ()
    _by_role: Mapping[str, Mapping[str, Rule]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, dict[str, Rule]] = {}
        for rule in self.rules:
            found.setdefault(rule.role, {})[rule.collection] = rule
        object.__setattr__(self, "_by_role", found)

    def names(self, role: str) -> bool:
        return role in self._by_role

    def of(self, principal: Principal) -> Mapping[str, Rule] | None:
        """Return the rules for a principal by collection. None: nothing is taken away.

        A role of the configuration alone sees nothing once no rule names it.
        """
        rules = self._by_role.get(principal.name)
        return {} if rules is None and principal.name and principal.role is None else rules

    def rule(self, principal: Principal, collection: Collection) -> Rule | None:
        """Return the rule for one collection. None: nothing is taken away, or the collection is hidden."""
        rules = self.of(principal)
        return None if rules is None else rules.get(collection.name)


NO_RULES = RuleSet()


# --- what the rules say to a principal ---


@dataclass(frozen=True, slots=True)
class RulePolicy:
    """The rows that rules let a principal see (`context`). `hidden` are the tables, by `oid`, of invalid rules;
    `faults` say what is wrong with these.
    """

    context: SecurityContext
    hidden: frozenset[int] = frozenset()
    faults: tuple[tuple[Rule, str], ...] = ()


def rule_policy(rules: Mapping[str, Rule], principal: Principal, catalog: Catalog, literals: Literals) -> RulePolicy:
    """Resolve the filters of the principal's rules. Discard the result when it leaves something in
    `literals.missing`.
    """
    rows: list[tuple[int, Filter]] = []
    faults: dict[int, tuple[Rule, str]] = {}
    for name, rule in sorted(rules.items()):
        collection = catalog.by_name.get(name)
        if collection is None or not rule.filter:
            continue
        try:
            claims = principal.claim_values
            found = parse_filter(rule.condition, collection, LIMITS, catalog, literals=literals, claims=claims)
            rows.append((collection.relation_id, required(found)))
        except RequestError as error:
            rows.append((collection.relation_id, NOTHING))
            faults[collection.relation_id] = rule, error.message
    return RulePolicy(SecurityContext(principal, tuple(rows)), frozenset(faults), tuple(faults.values()))


def required(filter_: Filter) -> Filter:
    """Mark a rule's filter as one that past row versions must meet too."""
    is_plain = all(
        isinstance(leaf, Comparison) and not any(isinstance(value, Now) for value in leaf.values)
        for leaf in leaves(filter_)
    )
    return filter_ if is_plain else Required(filter_)


# --- what is wrong with the rules ---


class RuleChecker:
    """Logs what is wrong with the rules: once, until it is mended or other rules come.

    Bound: a sentence for each fault of each rule.
    """

    def __init__(self) -> None:
        self._logged: frozenset[tuple[Rule, str, str]] = frozenset()
        self._invalid: set[Rule] = set()

    def check(self, rules: RuleSet, catalog: Catalog, literals: Literals) -> None:
        """Check all rules against a new catalog, as far as they do not depend on claims."""
        found = frozenset(
            (rule, message, reason)
            for rule in rules.rules
            for message, check in ((_MISSING, _missing), (_INVALID, _faults), (_USELESS, _useless))
            for reason in check(rule, catalog, literals.known)
        )
        for rule, message, reason in sorted(found - self._logged, key=lambda each: (each[1], str(each))):
            _log(rule, message, reason)
        self._logged = found
        self._invalid = {rule for rule, message, _ in found if message is _INVALID}

    def report(self, faults: Iterable[tuple[Rule, str]]) -> None:
        """Log faults that came up with the claims of a principal."""
        for rule, reason in faults:
            if rule not in self._invalid:
                self._invalid.add(rule)
                _log(rule, _INVALID, reason)


_MISSING = "a rule names what is not in the database"
_INVALID = "the filter of a rule is invalid, so the collection is hidden from its role"
_USELESS = "a rule shows nothing to anybody"


def _log(rule: Rule, message: str, reason: str) -> None:
    level = logging.ERROR if message is _INVALID else logging.WARNING
    log.log(level, message, extra=facts(role=rule.role, collection=rule.collection, reason=reason))


_Known: TypeAlias = Mapping[TypedText, bytes | None]


def _missing(rule: Rule, catalog: Catalog, _: _Known) -> list[str]:
    collection = catalog.by_name.get(rule.collection)
    if collection is None:
        return ["the collection"]
    return [f'the field "{name}"' for name in sorted((rule.fields or frozenset()) - collection.by_name.keys())]


def _useless(rule: Rule, catalog: Catalog, _: _Known) -> list[str]:
    """A rule shows nothing that its reader was not granted. A role of the configuration alone reads as the bridge."""
    collection = catalog.by_name.get(rule.collection)
    if collection is None:
        return []
    role = rule.role if rule.role in catalog.access.roles else None
    access = catalog.access.to(collection.relation_id, role)
    reader = role or "the role that the bridge connects as"
    if access.columns == frozenset():
        return [f"{reader} reads for it, and may not SELECT the table"]
    return [f"{reader} reads for it, and no policy shows that role a row"] if access.policies == () else []


def _faults(rule: Rule, catalog: Catalog, known: _Known) -> list[str]:
    """Leave out rules with values that PostgreSQL has not normalized yet: requests find their faults."""
    literals = Literals(known)
    found = rule_policy({rule.collection: rule}, Principal(rule.role), catalog, literals)
    return [] if literals.missing else [reason for _, reason in found.faults]
