"""With what cursors are sealed: with our secret and the rights under which they are given.

So nobody can make one, and one that was given under other rights cannot be opened.

Bound: `SEALS_MAX` seals are kept at hand. Policy: past it all are made anew, each when it is needed.
"""

from __future__ import annotations

from cdc_bridge.model.cursor import Seal

SEALS_MAX = 10_000


class Seals:
    """See the module's docstring. Until there is a `secret`, seals are this process's own."""

    def __init__(self) -> None:
        self._seal = Seal()
        self._under: dict[bytes, Seal] = {}

    def take(self, secret: bytes) -> None:
        """From now on cursors are sealed with this one."""
        self._seal = Seal(secret)
        self._under.clear()

    def under(self, rights: bytes) -> Seal:
        seal = self._under.get(rights)
        if seal is None:
            if len(self._under) >= SEALS_MAX:
                self._under.clear()
            seal = self._under[rights] = self._seal.given_under(rights)
        return seal
