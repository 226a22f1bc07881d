"""From the role that a token names to the viewer whose eyes the database is read with.

A role is one of the database if the setting `roles` has it, or if it is `anon_role` and no rule names it. It is a role
of the configuration alone if a rule names it and `roles` does not have it: then the bridge reads as itself, and the
rules say what is shown. Any other role is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from cdc_bridge import exactjson
from cdc_bridge.auth.refusal import Refused
from cdc_bridge.viewer import SELF, Viewer


@dataclass(frozen=True, slots=True)
class Roles:
    """`is_ruled` says whether a rule names a role; rules can change while we run."""

    database: Set[str] = frozenset()
    anonymous: str = ""
    is_ruled: Callable[[str], bool] = lambda name: False
    public: bool = False
    """Whether who is anonymous sees what the bridge itself sees."""

    def viewer(self, name: str, claims: str) -> Viewer:
        """Raises `Refused` for a role that nobody may have."""
        if name in self.database:
            return Viewer(name, name, claims)
        if self.is_ruled(name):
            return Viewer(name, None, claims)
        if name == self.anonymous and name:
            return Viewer(name, name, claims)
        raise Refused("its role is not one that tokens may name")

    def nobody(self) -> Viewer | None:
        """Who has shown no token; None when that is nobody who may see anything."""
        if self.anonymous:
            return self.viewer(self.anonymous, exactjson.encode({"role": self.anonymous}))
        return SELF if self.public else None
