"""What PostgreSQL took too long for is not asked again for a while, so that the stream does not wait for it each time.

Rule: it rests for `rest_s`, and twice as long each time after that, up to `REST_MAX_S`; an answer in time ends that.

Bound: `RESTING_MAX` subjects, of which only hashes are kept, since clients choose how large they are; past it the one
that has rested first is forgotten. Never reads the clock.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

REST_S = 60.0
REST_MAX_S = 3600.0
RESTING_MAX = 100_000


@dataclass(slots=True)
class Resting:
    """See the module's docstring."""

    rest_s: float = REST_S
    _until_s: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Of each subject until when it rests, and for how long it does."""

    def is_resting(self, subject: Hashable, now_s: float) -> bool:
        until_s, _ = self._until_s.get(hash(subject), (now_s, 0.0))
        return now_s < until_s

    def took_too_long(self, subject: Hashable, now_s: float) -> None:
        _, before_s = self._until_s.pop(hash(subject), (now_s, 0.0))
        rest_s = min(2 * before_s, REST_MAX_S) if before_s else self.rest_s
        self._until_s[hash(subject)] = now_s + rest_s, rest_s
        if len(self._until_s) > RESTING_MAX:
            del self._until_s[next(iter(self._until_s))]

    def answered(self, subject: Hashable) -> None:
        self._until_s.pop(hash(subject), None)
