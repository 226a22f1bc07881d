"""What the change log keeps: a policy over facts about its segments. `pruning.py` carries it out.

The log is a ring of segments, of which writers use one, the *current*. The one after it is kept empty, so that they can
go on to it at any time; the one after that is the oldest. Whole segments are emptied, never rows, so age has a
granularity: the current one is left after a sixth of the time, and after a sixth of the bytes. A segment that somebody
has locked, a pg_dump or a transaction that has written to it, is left for the next time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

RING = 8

PARTS = 6
"""Into so many segments time and bytes are divided; two more are the one that is written and the empty one."""

SEGMENT_BYTES_MIN = 65_536


@dataclass(frozen=True, slots=True)
class Segment:
    """The ages are those of rows that can be seen; None when there are none. `size_bytes` is all that it takes."""

    number: int
    size_bytes: int
    is_empty: bool
    oldest_age_s: float | None = None
    newest_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """The change log at one moment. A segment that cannot be looked at, since it is locked, is not among `segments`.

    `is_full`: a writer has found no room in it, and changes are gaps until writers can go on.
    """

    current: int
    is_full: bool
    segment_bytes: int
    is_gate_open: bool
    segments: tuple[Segment, ...]

    @property
    def size_bytes(self) -> int:
        """Without what eight empty tables take."""
        return sum(segment.size_bytes for segment in self.segments if not segment.is_empty)

    @property
    def used(self) -> int:
        """How many segments hold something."""
        return sum(not segment.is_empty for segment in self.segments)

    @property
    def oldest_age_s(self) -> float | None:
        ages = [segment.oldest_age_s for segment in self.segments if segment.oldest_age_s is not None]
        return max(ages, default=None)


@dataclass(frozen=True, slots=True)
class Forget:
    """Empty this segment."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Advance:
    """Let writers go on from this segment to the next."""

    number: int


Action: TypeAlias = Forget | Advance


def decide(log: Log, older_than_s: float, keep_bytes: int) -> list[Action]:
    """What is to be done now; decide again afterwards, since advancing makes another segment the next."""
    in_order = _oldest_first(log)
    current = next((each for each in log.segments if each.number == log.current), None)
    following = (log.current + 1) % RING
    forgotten = [each for each in in_order if each.number == following or _is_past(each, older_than_s)]
    kept_bytes = log.size_bytes - sum(each.size_bytes for each in forgotten)
    for each in in_order:
        if kept_bytes > keep_bytes and each not in forgotten:
            forgotten.append(each)
            kept_bytes -= each.size_bytes
    actions: list[Action] = [Forget(each) for each in forgotten]
    is_due = kept_bytes > keep_bytes or (
        current is not None and (current.size_bytes > log.segment_bytes or _is_due(current, older_than_s))
    )
    if log.is_full or (is_due and not (current and current.is_empty)):
        actions.append(Advance(log.current))
    return actions


def segment_bytes(keep_bytes: int) -> int:
    """How large a segment may grow before writers leave it."""
    return max(SEGMENT_BYTES_MIN, keep_bytes // PARTS)


def _oldest_first(log: Log) -> list[Segment]:
    """All that hold something, but for the current one."""
    by_number = {each.number: each for each in log.segments if not each.is_empty}
    numbers = [(log.current + step) % RING for step in range(1, RING)]
    return [by_number[number] for number in numbers if number in by_number]


def _is_past(segment: Segment, older_than_s: float) -> bool:
    """Without a row that can be seen it is written to just now, or was in vain: not for its age."""
    return older_than_s == 0 or (segment.newest_age_s is not None and segment.newest_age_s > older_than_s)


def _is_due(current: Segment, older_than_s: float) -> bool:
    """Whether writers should leave it, so that it is not its last row that decides over its first."""
    return older_than_s == 0 or (current.oldest_age_s is not None and current.oldest_age_s > older_than_s / PARTS)
