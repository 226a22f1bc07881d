"""How changes leave the database."""

from __future__ import annotations

import enum


class Mode(enum.StrEnum):
    """`DURABLE`: written to the change log, and told from there. `LIVE`: told at once, and kept nowhere.

    Which function its triggers call is what says the mode of a table; nothing else is kept anywhere.
    """

    DURABLE = "durable"
    LIVE = "live"


class Notify(enum.StrEnum):
    """What the operator decides for all bridges of a database, see `notification`.

    `AUTO`: writers notify while the gate is open. `OFF`: nobody ever does, and bridges poll.
    """

    AUTO = "auto"
    OFF = "off"


OF_NEW_TABLES = Mode.DURABLE
"""In what a table is attached when nobody says otherwise."""
