"""What clients write in JSON, its numbers with all their digits: `1.50` is `Decimal("1.50")`, never a float."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def decode(text: str | bytes) -> Any:
    """Raises `ValueError`, and nothing else, for what is no JSON or is nested too deep to be read."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidOperation) as error:
        raise ValueError("no JSON that can be read") from error


def encode(value: Any) -> str:
    """A value that was decoded, as compact text."""
    return _encoder.encode(value).decode()
