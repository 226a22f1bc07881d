"""What the rules of the configuration say to somebody of the rows of each table, and what is wrong with them.

A rule whose filter makes no sense (no such field, or a claim that is not of the field's type) hides its collection from
those whom it is about, wherever they come from, and does nothing else. The operator is told, once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cdc_bridge.access.rules import Rule, RuleBook
from cdc_bridge.access.view import access_to
from cdc_bridge.logs import facts
from cdc_bridge.model.catalog import Catalog, Collection
from cdc_bridge.model.errors import RequestError
from cdc_bridge.model.filter import NOTHING, Comparison, Filter, Now, Required, leaves
from cdc_bridge.model.principal import Principal
from cdc_bridge.model.security_context import SecurityContext
from cdc_bridge.query.literals import Literals, TypedText
from cdc_bridge.query.query import QueryLimits, resolve_filter

log = logging.getLogger(__name__)

LIMITS = QueryLimits(filter_depth_max=100, filter_nodes_max=10_000, in_values_max=1_000_000)
"""Those of clients are not for the operator, nor for claims, which can be long lists."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """`unseen` are tables (by `oid`) of which a rule makes no sense; `faults` say why."""

    context: SecurityContext
    unseen: frozenset[int] = frozenset()
    faults: tuple[tuple[Rule, str], ...] = ()


def ruling(rules: Mapping[str, Rule], principal: Principal, catalog: Catalog, literals: Literals) -> Ruling:
    """By collection: what the rules of the principal's role say, who reads these tables. It is not to be used when it
    has left something `missing` in `literals`.
    """
    rows: list[tuple[int, Filter]] = []
    faults: dict[int, tuple[Rule, str]] = {}
    for collection, rule in _with_a_filter(rules, catalog):
        try:
            rows.append((collection.relation_id, _condition(rule, collection, catalog, principal, literals)))
        except RequestError as error:
            rows.append((collection.relation_id, NOTHING))
            faults[collection.relation_id] = rule, error.message
    return Ruling(SecurityContext(principal, tuple(rows)), frozenset(faults), tuple(faults.values()))


def _with_a_filter(rules: Mapping[str, Rule], catalog: Catalog) -> Iterable[tuple[Collection, Rule]]:
    found = ((catalog.by_name.get(name), rule) for name, rule in sorted(rules.items()) if rule.filter)
    return ((collection, rule) for collection, rule in found if collection is not None)


def _condition(
    rule: Rule, collection: Collection, catalog: Catalog, principal: Principal, literals: Literals
) -> Filter:
    claims = principal.claim_values
    return lasting(resolve_filter(rule.condition, collection, LIMITS, catalog, literals=literals, claims=claims))


def lasting(filter_: Filter) -> Filter:
    """What a rule says of rows: of rows as they were, too."""
    is_plain = all(
        isinstance(leaf, Comparison) and not any(isinstance(value, Now) for value in leaf.values)
        for leaf in leaves(filter_)
    )
    return filter_ if is_plain else Required(filter_)


class Proofreader:
    """Tells the operator what is wrong with the rules, once, until it is put right or other rules come.

    Bound: a sentence for each fault of each rule.
    """

    def __init__(self) -> None:
        self._told: frozenset[tuple[Rule, str]] = frozenset()
        self._refused: set[Rule] = set()

    def read(self, book: RuleBook, catalog: Catalog, literals: Literals) -> None:
        """All rules, by a catalog that has come. What claims will be worth nobody knows yet."""
        missing = {(rule, what) for rule in book.rules for what in _missing(rule, catalog)}
        faults = {(rule, reason) for rule in book.rules for reason in _faults(rule, catalog, literals.known)}
        for rule, what in sorted(missing - self._told, key=str):
            log.warning("a rule names what is not in the database", extra=_facts(rule, missing=what))
        for rule, reason in sorted(faults - self._told, key=str):
            self._complain(rule, reason)
        vain = {(rule, reason) for rule in book.rules for reason in _vain(rule, catalog)}
        for rule, reason in sorted(vain - self._told, key=str):
            log.warning("a rule shows nobody anything", extra=_facts(rule, reason=reason))
        self._told = frozenset(missing | faults | vain)
        self._refused = {rule for rule, _ in faults}

    def hear_of(self, faults: Iterable[tuple[Rule, str]]) -> None:
        """What a principal's claims have brought about."""
        for rule, reason in faults:
            if rule not in self._refused:
                self._refused.add(rule)
                self._complain(rule, reason)

    def _complain(self, rule: Rule, reason: str) -> None:
        log.error(
            "the filter of a rule makes no sense, so nobody whom it is about sees the collection",
            extra=_facts(rule, reason=reason),
        )


def _missing(rule: Rule, catalog: Catalog) -> list[str]:
    collection = catalog.by_name.get(rule.collection)
    if collection is None:
        return ["the collection"]
    return [f'the field "{name}"' for name in sorted((rule.fields or frozenset()) - collection.by_name.keys())]


def _vain(rule: Rule, catalog: Catalog) -> list[str]:
    """Rules only ever take away, so what its reader was not granted no rule shows. A role of the rules alone has the
    bridge's own for a reader.
    """
    collection = catalog.by_name.get(rule.collection)
    if collection is None:
        return []
    role = rule.role if rule.role in catalog.access.roles else None
    access, reader = access_to(collection, catalog, role), role or "the role that the bridge connects as"
    if access.columns == frozenset():
        return [f"{reader} reads for it, and may not SELECT the table"]
    return [f"{reader} reads for it, and no policy shows that one a row"] if access.policies == () else []


def _faults(rule: Rule, catalog: Catalog, known: Mapping[TypedText, bytes | None]) -> list[str]:
    """Values that PostgreSQL has not normalized yet are found out when somebody asks."""
    literals = Literals(known)
    found = ruling({rule.collection: rule}, Principal(rule.role), catalog, literals)
    return [] if literals.missing else [reason for _, reason in found.faults]


def _facts(rule: Rule, **more: object) -> dict[str, Mapping[str, object]]:
    return facts(role=rule.role, collection=rule.collection, **more)
