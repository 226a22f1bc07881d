"""All that somebody may see of some tables, as a few bytes: whoever has others sees something else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cdc_bridge.access import TableAccess
from cdc_bridge.catalog import Catalog
from cdc_bridge.rights.rules import Rule, RuleBook
from cdc_bridge.rights.view import access_to, rule_for
from cdc_bridge.viewer import Viewer

DIGEST_BYTES = 16


def digest(viewer: Viewer, relation_ids: Iterable[int], catalog: Catalog, book: RuleBook) -> bytes:
    """It is the same on each bridge of the database, and with the next token of the same person."""
    collections = [catalog.by_relation_id[each] for each in sorted(relation_ids) if each in catalog.by_relation_id]
    said = [
        (
            each.relation_id,
            _of_access(access_to(each, catalog, viewer.role)),
            _of_rule(rule_for(viewer, each, book)),
        )
        for each in collections
    ]
    return hashlib.blake2b(repr((viewer.lasting, said)).encode(), digest_size=DIGEST_BYTES).digest()


def _of_access(access: TableAccess) -> object:
    columns = None if access.columns is None else sorted(access.columns)
    policies = access.policies
    return columns, None if policies is None else [(each.name, each.digest, each.is_permissive) for each in policies]


def _of_rule(rule: Rule | None) -> object:
    if rule is None:
        return None
    fields = None if rule.fields is None else sorted(rule.fields)
    return fields, rule.filter, sorted(event.value for event in rule.events)
