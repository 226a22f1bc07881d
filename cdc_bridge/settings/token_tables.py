"""The setting `static_tokens`: what is refused of the tables that an operator writes."""

from __future__ import annotations

import json
import re

from cdc_bridge.access.tokens import StaticToken
from cdc_bridge.settings.refusal import refusal

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def check(token: StaticToken) -> None:
    """Raises `PydanticCustomError`."""
    if not _SHA256.fullmatch(token.sha256):
        raise refusal("each sha256 has to be 64 hex digits: the hash of a token, never the token itself")
    if token.claims.get("role", token.role) != token.role:
        raise refusal("claims may not name another role than `role` does")
    try:
        json.dumps(token.claims, allow_nan=False)
    except (TypeError, ValueError):
        raise refusal(
            "claims have to be what JSON can say: texts, finite numbers, true, false, lists and tables"
        ) from None
