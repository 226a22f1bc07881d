"""One reading of the log: all that is visible now and was not told.

That is one query, if it is not much. Of what is more than `READ_ROWS_MAX` and `READ_BYTES_MAX`, each collection is
looked at by itself: those that have so much alone are `heavy`, to be read beside the stream (`lane.py`), and the
others are read whole. Many that have little each can be too much at once for who follows them all: past
`READ_ALL_BYTES_MAX` they are heavy together.

Theory: the log is emptied for everybody at once, whatever snapshot they have, so what a reading finds is all there was
only if nothing was forgotten meanwhile. That is asked after reading, and has to be known before anything is told.

No state: what was told comes in, what was found goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

import psycopg

from cdc_bridge.capture.life import Life
from cdc_bridge.capture.pages import changes_of, current_snapshot, is_forgotten, pages, text, unseen
from cdc_bridge.model.change import Change, Position, Snapshot
from cdc_bridge.model.errors import PayloadError

Siblings: TypeAlias = Callable[[int], frozenset[int]]
"""From a table to all that report under the same collection."""

Sizes: TypeAlias = dict[int, tuple[int, int]]
"""Rows and bytes of each table."""

READ_ROWS_MAX = 2_000
READ_BYTES_MAX = 4 * 1024 * 1024
READ_ALL_BYTES_MAX = 8 * 1024 * 1024
TEXT_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What `snapshot` sees and was not told, but for the tables apart. None of it is of `heavy` ones."""

    changes: list[Change]
    snapshot: Snapshot
    heavy: tuple[frozenset[int], ...] = ()
    is_whole: bool = True
    """Whether nothing was forgotten of it. What somebody took out by hand counts when it is noted."""


class Unreadable(Exception):
    """Something in the log cannot be read that `snapshot` sees."""

    def __init__(self, reason: str, snapshot: Snapshot) -> None:
        super().__init__(reason)
        self.snapshot = snapshot


async def read_new(life: Life, told: Position, apart: Collection[int], siblings: Siblings) -> Found:
    """What the log has by now, without the tables `apart`. Raises `Unreadable`."""
    if life.is_standby:
        return await _read_settled(life, told, apart, siblings)
    limits = {"apart": sorted(apart), "rows_max": READ_ROWS_MAX, "text_bytes_max": TEXT_BYTES_MAX}
    asked = {**unseen(told.seen), "xmin": str(told.seen.xmin), **limits}
    async with life.in_time():
        try:
            rows = await life.rows("log_new", asked, prepare=True)
        except psycopg.DataError as error:  # characters that UTF-8 does not have; the next reading would fail as well
            raise Unreadable(str(error), await current_snapshot(life.reader)) from error
    snapshot = Snapshot.parse(rows[0][0])
    is_suspect = rows[0][1]
    found = [row[2:8] + row[9:] for row in rows if row[2] is not None]
    sizes = [row[8] for row in rows if row[2] is not None]
    try:
        if len(found) == READ_ROWS_MAX or max(sizes, default=0) > TEXT_BYTES_MAX or sum(sizes) > READ_BYTES_MAX:
            return await _read_much(life, told, snapshot, apart, siblings)
        return Found(list(changes_of(found)), snapshot, is_whole=not is_suspect or await _is_whole(life, told))
    except (PayloadError, psycopg.DataError) as error:
        raise Unreadable(str(error), snapshot) from error


async def _read_settled(life: Life, told: Position, apart: Collection[int], siblings: Siblings) -> Found:
    """On a standby: a snapshot that claims no more than can be read, then what it sees."""
    async with life.in_time():
        snapshot = await current_snapshot(life.reader)
    if not snapshot.covers(told.seen):
        return Found([], told.seen)
    try:
        return await _read_much(life, told, snapshot, apart, siblings)
    except (PayloadError, psycopg.DataError) as error:
        raise Unreadable(str(error), snapshot) from error


async def _read_much(life: Life, told: Position, upto: Snapshot, apart: Collection[int], siblings: Siblings) -> Found:
    sizes = await _sizes(life, told, upto, apart)
    groups = {siblings(relation_id) for relation_id in sizes}
    heavy = tuple(group for group in groups if _is_much(sizes, group))
    light = frozenset(relation_id for group in groups.difference(heavy) for relation_id in group)
    if _total(sizes, light)[1] > READ_ALL_BYTES_MAX:
        heavy, light = (*heavy, light), frozenset()
    return Found(await _read_all(life, light, told, upto), upto, heavy, await _is_whole(life, told))


async def _is_whole(life: Life, told: Position) -> bool:
    return not await is_forgotten(life.reader, life.options.schema, told.seen, by_hand=False)


async def read_between(life: Life, relations: Collection[int], told: Position, upto: Snapshot) -> list[Change] | None:
    """What some tables have between a position and a snapshot; None when that is much. Raises `PayloadError`."""
    if _is_much(await _sizes(life, told, upto), relations):
        return None
    return await _read_all(life, relations, told, upto)


async def _read_all(life: Life, relations: Collection[int], told: Position, upto: Snapshot) -> list[Change]:
    if not relations:
        return []
    async with aclosing(pages(life.reader, life.options.schema, relations, (told,), upto)) as read:
        return [change async for page in read for change in page.changes]


async def _sizes(life: Life, told: Position, upto: Snapshot, apart: Iterable[int] = ()) -> Sizes:
    """Of each table between what was told and a snapshot."""
    rows = await life.rows("log_sizes", {**unseen(told.seen), "upto": text(upto), "apart": sorted(apart)})
    return {relation_id: (count, size_bytes) for relation_id, count, size_bytes in rows}


def _is_much(sizes: Sizes, relations: Iterable[int]) -> bool:
    rows, size_bytes = _total(sizes, relations)
    return rows > READ_ROWS_MAX or size_bytes > READ_BYTES_MAX


def _total(sizes: Sizes, relations: Iterable[int]) -> tuple[int, int]:
    found = [sizes[relation_id] for relation_id in relations if relation_id in sizes]
    return sum(rows for rows, _ in found), sum(size_bytes for _, size_bytes in found)
