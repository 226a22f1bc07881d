"""How changes leave the database."""

from __future__ import annotations

import enum


class Mode(enum.StrEnum):
    """`DURABLE` comes with a later release."""

    LIVE = "live"
    DURABLE = "durable"
