"""The shares of the database: how much work of each kind is done at once, and what is known to be slow.

Rule: each kind has workers of its own, and the pools have a connection for each worker, so no kind can starve another
one. Work that takes longer than others may wait is stopped and goes on among slow work.

- ROWS: initial data. Equal readings are one read, and many reads are done in one transaction.
- ALONE: initial data that are read alone: figures, and what has kept others from being read.
- SLOW: reads that took longer than others may wait.
- REPLAY: changes that subscribers missed. Those of one collection are read together.
- PACED: the same for one subscriber that receives them slowly.
- REFRESH: stale rows and figures.

Beside these reads there are the questions that decide what a change means (`evaluation.py`), and what clients wait for
directly: `items`, and the keys of single rows (`request_handler.py`).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Final


class Kind(enum.Enum):
    ROWS = "rows"
    ALONE = "alone"
    SLOW = "slow"
    REPLAY = "replay"
    PACED = "paced"
    REFRESH = "refresh"


WORKERS: Final[Mapping[Kind, int]] = MappingProxyType(
    {Kind.ALONE: 2, Kind.SLOW: 2, Kind.REFRESH: 1, Kind.REPLAY: 2, Kind.PACED: 4}
)
"""Workers of each kind of read. The number for ROWS is a setting (`snapshot_concurrency`)."""

SLOW_QUESTION_WORKERS: Final = 2
"""Workers for slow questions, beside the one for all others."""

ITEMS_MAX: Final = 2
KEYS_MAX: Final = 2

_LOG_WORKERS = WORKERS[Kind.REPLAY] + WORKERS[Kind.PACED]

DATA_CONNECTIONS: Final = sum(WORKERS.values()) - _LOG_WORKERS + ITEMS_MAX + KEYS_MAX
"""Connections that read tables, beside those of ROWS."""

LOG_CONNECTIONS: Final = _LOG_WORKERS + KEYS_MAX
EVALUATOR_CONNECTIONS: Final = 1 + SLOW_QUESTION_WORKERS

CLIENTS_CONNECTIONS: Final = 2
"""Connections for questions about clients' queries, and for replays."""

SLOW_FOR_S = 60.0
SLOW_MAX = 1000


class SlowWork:
    """Remembers for `SLOW_FOR_S` what took longer than others may wait: all that is equal goes to slow work at once.

    Bound: `SLOW_MAX` hashes. Policy: past it all are forgotten and found out again.
    """

    def __init__(self) -> None:
        self._until_s: dict[int, float] = {}

    def __contains__(self, subject: Hashable) -> bool:
        until_s = self._until_s.get(hash(subject))
        return until_s is not None and until_s > asyncio.get_running_loop().time()

    def add(self, subject: Hashable) -> None:
        if len(self._until_s) >= SLOW_MAX:
            self._until_s.clear()
        self._until_s[hash(subject)] = asyncio.get_running_loop().time() + SLOW_FOR_S
