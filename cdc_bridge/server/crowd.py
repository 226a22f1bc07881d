"""Who is here, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Visitor(Protocol):
    """A connection, from the moment it is accepted."""

    def turn_away(self) -> None:
        """Cut it off without a word."""


class Crowd:
    """Visitors by address, in the order in which they came."""

    def __init__(self) -> None:
        self._by_address: dict[str, dict[Visitor, None]] = {}
        self._addresses: dict[Visitor, str] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def __iter__(self) -> Iterator[Visitor]:
        return iter(list(self._addresses))

    def add(self, visitor: Visitor, address: str) -> None:
        self._addresses[visitor] = address
        self._by_address.setdefault(address, {})[visitor] = None

    def remove(self, visitor: Visitor) -> None:
        """Does nothing for one that is not here."""
        address = self._addresses.pop(visitor, None)
        if address is not None:
            del self._by_address[address][visitor]
            if not self._by_address[address]:
                del self._by_address[address]

    def count(self, address: str) -> int:
        return len(self._by_address.get(address, ()))

    def first(self, address: str | None = None) -> Visitor:
        """Who came first from this address, or else from the one from which most are here."""
        group = self._by_address[address] if address else max(self._by_address.values(), key=len)
        return next(iter(group))
