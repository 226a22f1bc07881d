"""All that somebody may see of some tables, as a few bytes: whoever has others sees something else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cdc_bridge.access.rules import Rule, RuleBook
from cdc_bridge.access.view import access_to, rule_for
from cdc_bridge.model.catalog import Catalog
from cdc_bridge.model.grants import TableAccess
from cdc_bridge.model.principal import Principal

DIGEST_BYTES = 16


def digest(principal: Principal, relation_ids: Iterable[int], catalog: Catalog, book: RuleBook) -> bytes:
    """It is the same on each bridge of the database, and with the next token of the same person."""
    collections = [catalog.by_relation_id[each] for each in sorted(relation_ids) if each in catalog.by_relation_id]
    said = [
        (
            each.relation_id,
            _of_access(access_to(each, catalog, principal.role)),
            _of_rule(rule_for(principal, each, book)),
        )
        for each in collections
    ]
    return hashlib.blake2b(repr((principal.lasting, said)).encode(), digest_size=DIGEST_BYTES).digest()


def _of_access(access: TableAccess) -> object:
    columns = None if access.columns is None else sorted(access.columns)
    policies = access.policies
    return columns, None if policies is None else [(each.name, each.digest, each.is_permissive) for each in policies]


def _of_rule(rule: Rule | None) -> object:
    if rule is None:
        return None
    fields = None if rule.fields is None else sorted(rule.fields)
    return fields, rule.filter, sorted(event.value for event in rule.events)
