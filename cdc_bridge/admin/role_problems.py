"""Roles of the settings by which nobody can read anything: it is the operator's mistake, and clients are not told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdc_bridge.model.grants import Access, RoleAccess

_CANNOT_TAKE = (
    "there is no such role, or the one that the bridge connects as is no member of it: GRANT it to that role, see"
    " cdc-bridge sql --roles --reads-as"
)
_CANNOT_READ = "it may read no attached table: GRANT SELECT on what its clients are to see, and USAGE on the schema"


def role_problems(roles: Sequence[str], access: Access) -> Mapping[str, str]:
    """By role. Where nothing is attached nobody can read anything, which is no role's problem."""
    if not access.of(None):
        return {}
    found = {role: _problem(access.roles.get(role)) for role in roles}
    return {role: problem for role, problem in found.items() if problem}


def _problem(tables: RoleAccess | None) -> str:
    if tables is None:
        return _CANNOT_TAKE
    return "" if any(table.columns != frozenset() for table in tables.values()) else _CANNOT_READ
