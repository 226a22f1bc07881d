"""Making a token with the shared secret: for development, where there is no issuer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt

from cdc_bridge.access.keys import HS256


def mint(secret: str, claims: Mapping[str, Any]) -> str:
    return jwt.encode(dict(claims), secret, algorithm=HS256)
