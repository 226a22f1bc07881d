"""How a value is refused that only a sentence of its own explains."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

REFUSAL = "refusal"
"""The type of an error that says all in a sentence of its own."""


def refusal(reason: str) -> PydanticCustomError:
    return PydanticCustomError(REFUSAL, "{reason}", {"reason": reason})
