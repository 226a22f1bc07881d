"""How changes leave the database."""

from __future__ import annotations

import enum


class Mode(enum.StrEnum):
    """`DURABLE`: written to the change log, and told from there. `LIVE`: told at once, and kept nowhere.

    Which function its triggers call is what says the mode of a table; nothing else is kept anywhere.
    """

    DURABLE = "durable"
    LIVE = "live"


OF_NEW_TABLES = Mode.LIVE
"""In what a table is attached when nobody says otherwise."""
