"""From the role that a token names to the principal whose eyes the database is read with.

A role is one of the database if the setting `roles` has it, or if it is `anon_role` and no rule names it. It is a role
of the configuration alone if a rule names it and `roles` does not have it: then the bridge reads as itself, and the
rules say what is shown. Any other role is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from cdc_bridge.access.refusal import Refused
from cdc_bridge.model import exactjson
from cdc_bridge.model.principal import SELF, Principal


@dataclass(frozen=True, slots=True)
class Roles:
    """`is_ruled` says whether a rule names a role; rules can change while we run."""

    database: Set[str] = frozenset()
    anonymous: str = ""
    is_ruled: Callable[[str], bool] = lambda name: False
    public: bool = False
    """Whether who is anonymous sees what the bridge itself sees."""

    def principal(self, name: str, claims: str) -> Principal:
        """Raises `Refused` for a role that nobody may have."""
        if name in self.database:
            return Principal(name, name, claims)
        if self.is_ruled(name):
            return Principal(name, None, claims)
        if name == self.anonymous and name:
            return Principal(name, name, claims)
        raise Refused("its role is not one that tokens may name")

    def nobody(self) -> Principal | None:
        """Who has shown no token; None when that is nobody who may see anything."""
        if self.anonymous:
            return self.principal(self.anonymous, exactjson.encode({"role": self.anonymous}))
        return SELF if self.public else None
