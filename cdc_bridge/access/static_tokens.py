"""Tokens that stand in the configuration, each by its hash: for programs that nobody issues JWTs to.

Whoever reads the configuration learns no token from it. A token has to be long and random, since its hash is a plain
SHA-256; `openssl rand -hex 32` makes one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StaticToken:
    """`sha256` is the hash of the token, in hex; `role` and `claims` are what a JWT would say of its bearer."""

    sha256: str
    role: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)


class StaticTokens:
    """All of them. It takes equally long to find one, or none, whatever they have in common."""

    def __init__(self, tokens: Iterable[StaticToken]) -> None:
        self._tokens = [(bytes.fromhex(token.sha256), token) for token in tokens]

    def __contains__(self, token: StaticToken) -> bool:
        return any(token == known for _, known in self._tokens)

    def find(self, token: str) -> StaticToken | None:
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        found = None
        for known, each in self._tokens:
            if hmac.compare_digest(known, digest):
                found = each
        return found
