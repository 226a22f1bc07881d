"""The state of a subscriber.

Rule: it changes by `TRANSITIONS` and in no other way.

- LOADING: its initial data are being read, or its missed changes are being replayed. Nothing of the log is sent.
- CATCHING_UP: its data were read in a snapshot. It is sent the changes that the snapshot did not see; notifications of
  changes that it saw can still arrive.
- LIVE: a heartbeat has proved that none can. It is sent everything after the end that the log had then.
- WAITING: its rights may have changed and PostgreSQL is being asked, or its collection's name disappeared a moment ago.
  It is sent nothing.
- PAUSED: its token has expired. It is sent nothing, not even what waited.
- BEHIND: too much waited for its connection, and its `overflow` says to drop that. It is sent nothing, and gets fresh
  data when the client reads again.
- ENDED: it has left, or was refused.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final


class State(enum.Enum):
    LOADING = "loading"
    CATCHING_UP = "catching up"
    LIVE = "live"
    WAITING = "waiting"
    PAUSED = "paused"
    BEHIND = "behind"
    ENDED = "ended"

    __hash__ = object.__hash__  # Enum's own is written in Python, and each frame calls it


class Step(enum.Enum):
    """An event in the life of a subscriber, which changes its state."""

    DATA_SENT = "its data, or what it missed, were sent"
    PROVED = "a heartbeat has passed that its snapshot calls for"
    RELOADED = "it needs fresh data"
    WITHHELD = "its rights are being asked about"
    RELEASED = "its rights are known"
    PAUSED = "its token has expired"
    RESUMED = "its token was renewed"
    OVERFLOWED = "too much waited for its connection"
    LEFT = "it has left, or was refused"


TRANSITIONS: Final[Mapping[tuple[State, Step], State]] = MappingProxyType(
    {
        (State.LOADING, Step.DATA_SENT): State.CATCHING_UP,
        (State.CATCHING_UP, Step.PROVED): State.LIVE,
        (State.LOADING, Step.RELOADED): State.LOADING,
        (State.CATCHING_UP, Step.RELOADED): State.LOADING,
        (State.LIVE, Step.RELOADED): State.LOADING,
        (State.LOADING, Step.WITHHELD): State.WAITING,
        (State.CATCHING_UP, Step.WITHHELD): State.WAITING,
        (State.LIVE, Step.WITHHELD): State.WAITING,
        (State.WAITING, Step.RELEASED): State.LOADING,
        (State.LOADING, Step.PAUSED): State.PAUSED,
        (State.CATCHING_UP, Step.PAUSED): State.PAUSED,
        (State.LIVE, Step.PAUSED): State.PAUSED,
        (State.WAITING, Step.PAUSED): State.PAUSED,
        (State.PAUSED, Step.RESUMED): State.LOADING,
        (State.LOADING, Step.OVERFLOWED): State.BEHIND,
        (State.CATCHING_UP, Step.OVERFLOWED): State.BEHIND,
        (State.LIVE, Step.OVERFLOWED): State.BEHIND,
        (State.BEHIND, Step.RELOADED): State.LOADING,
        (State.BEHIND, Step.WITHHELD): State.WAITING,
        (State.BEHIND, Step.PAUSED): State.PAUSED,
        **{(state, Step.LEFT): State.ENDED for state in State if state is not State.ENDED},
    }
)
"""Every other combination is an error."""

FOLLOWING: Final = frozenset({State.LOADING, State.CATCHING_UP, State.LIVE})
"""States in which a subscriber has a place in the log of its topic."""

SENT: Final = frozenset({State.CATCHING_UP, State.LIVE})
"""States in which it is sent what comes in that log."""
