"""Reads the changes of the log that were not delivered: at once if they are few, else page by page.

One look is one query. If it finds more than `READ_ROWS_MAX` or `READ_BYTES_MAX`, the size of each collection is asked.
A collection above these limits is `heavy` and read beside the stream (`bulk_read.py`); the others are read whole.
Many small ones can be too much at once for a client that follows them all: past `READ_ALL_BYTES_MAX` in total they are
heavy together.

A page is about 256 KiB, or one larger change: all others wait while it is matched and sent. Reading keeps no
transaction open between two pages: the snapshot says which rows belong to it, not the transaction that reads.

Theory: emptying a segment (TRUNCATE) takes effect for every snapshot at once. So a read is complete only if nothing was
forgotten in the meantime. That is checked after reading, and before anything is emitted.

No state: positions come in, changes go out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import msgspec
import psycopg
from psycopg import AsyncConnection

from cdc_bridge.capture.payload import log_sequence, logged_rows, require_columns
from cdc_bridge.model.change import OPERATIONS, Change, Position, Snapshot, made, newest_snapshot
from cdc_bridge.model.errors import PayloadError
from cdc_bridge.ports import Page
from cdc_bridge.statements import statement

Ask: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[list[tuple[Any, ...]]]]
"""Runs a query by its name. Raises psycopg's errors."""

Siblings: TypeAlias = Callable[[int], frozenset[int]]
"""Returns the tables of the collection that a table belongs to."""

Sizes: TypeAlias = dict[int, tuple[int, int]]
"""Rows and bytes of each table."""

READ_ROWS_MAX = 2_000
READ_BYTES_MAX = 4 * 1024 * 1024
READ_ALL_BYTES_MAX = 8 * 1024 * 1024
TEXT_BYTES_MAX = 64 * 1024
KEYS_MAX = 20_000
PAGE_BYTES_MAX = 256 * 1024
PAGE_ROWS_MAX = 1000

_STATEMENT = itemgetter(0, 1)


class Found(NamedTuple):
    """The changes that `snapshot` sees and that were not delivered, without `heavy` tables and tables read apart."""

    changes: list[Change]
    snapshot: Snapshot
    heavy: tuple[frozenset[int], ...] = ()
    is_whole: bool = True
    """Whether nothing of it was forgotten. Rows deleted by hand count once that is noted."""


class Unreadable(Exception):
    """Something in the log cannot be read that `snapshot` sees."""

    def __init__(self, reason: str, snapshot: Snapshot) -> None:
        super().__init__(reason)
        self.snapshot = snapshot


class _Key(NamedTuple):
    """The place of a row in the log (WAL position and transaction), and its size."""

    position: int
    xid: int
    size_bytes: int

    @property
    def seq(self) -> int:
        return log_sequence(self.position, self.xid)


def asking(connection: AsyncConnection[Any], schema: str) -> Ask:
    """Ask through a connection of psycopg's."""

    async def ask(name: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        return await (await connection.execute(statement(f"queries/{name}", schema), parameters)).fetchall()

    return ask


def unseen(snapshot: Snapshot) -> dict[str, Any]:
    """Return the parameters of a query for rows that a snapshot does not see."""
    return {"xmax": str(snapshot.xmax), "in_progress": [str(xid) for xid in snapshot.in_progress]}


async def current_snapshot(ask: Ask) -> Snapshot:
    """Return a snapshot. A later read sees all that it sees."""
    [(snapshot,)] = await ask("settled_snapshot", {})
    return Snapshot.parse(snapshot)


async def is_forgotten(ask: Ask, seen: Snapshot, *, by_hand: bool = True) -> bool:
    """Whether changes that this snapshot did not see may be missing from the log. `by_hand`: deleted by hand or not.

    Ask after the log was read, since emptying a segment takes effect for every snapshot at once. A transaction in
    progress at that time had not written to the segment, so a long one elsewhere does not matter.
    """
    return any(
        youngest >= seen.xmax
        or any(oldest <= xid <= youngest and (xid == by or Snapshot.parse(ended).sees(xid)) for xid in seen.in_progress)
        for oldest, youngest, by, ended in await ask("forgotten", {"xmin": str(seen.xmin), "by_hand": by_hand})
    )


def changes_of(rows: Iterable[Sequence[Any]]) -> Iterator[Change]:
    """Yield changes from rows of `log_rows` or `log_new`, in their order. Raises `PayloadError`."""
    for (position, xid), written in groupby(rows, _STATEMENT):
        parts = list(written)
        _, _, relation_id, filenode, letter, at, *_ = parts[0]
        try:
            old = logged_rows(parts, -2) if letter != "I" else ()
            new = logged_rows(parts, -1) if letter != "D" else ()
            require_columns(new, old)
        except (ValueError, msgspec.DecodeError) as error:
            raise PayloadError(f"a row of the log cannot be read: {error}") from error
        if letter == "U" and len(old) != len(new):
            raise PayloadError("an update in the log has an old row without a new one")
        change: Change = made(
            Change,
            (OPERATIONS[letter], log_sequence(position, xid), xid, relation_id, filenode, old, new, at, None),
        )
        yield change


# --- one look at what is new ---


async def read_new(
    ask: Ask, delivered: Position, apart: Collection[int], siblings: Siblings, *, is_standby: bool = False
) -> Found:
    """Return what the log has gained, without the tables `apart`. Raises `Unreadable`."""
    if is_standby:
        return await _read_settled(ask, delivered, apart, siblings)
    parameters = {
        **unseen(delivered.seen),
        "xmin": str(delivered.seen.xmin),
        "apart": sorted(apart),
        "rows_max": READ_ROWS_MAX,
        "text_bytes_max": TEXT_BYTES_MAX,
    }
    try:
        rows = await ask("log_new", parameters)
    except psycopg.DataError as error:  # characters that UTF-8 does not have; the next read would fail as well
        raise Unreadable(str(error), await current_snapshot(ask)) from error
    snapshot_text, is_suspect, seq, *_ = rows[0]
    snapshot = Snapshot.parse(snapshot_text)
    changes: list[Change] = []
    try:
        if seq is not None:  # else there is no change, and this row has the snapshot only
            sizes = [row[8] for row in rows]
            if len(rows) == READ_ROWS_MAX or max(sizes) > TEXT_BYTES_MAX or sum(sizes) > READ_BYTES_MAX:
                return await _read_much(ask, delivered, snapshot, apart, siblings)
            changes = list(changes_of([row[2:] for row in rows]))
        return Found(changes, snapshot, is_whole=not is_suspect or await _is_whole(ask, delivered))
    except (PayloadError, psycopg.DataError) as error:
        raise Unreadable(str(error), snapshot) from error


async def _read_settled(ask: Ask, delivered: Position, apart: Collection[int], siblings: Siblings) -> Found:
    """Read on a standby: first take a snapshot that claims no more than can be read, then what it sees."""
    snapshot = await current_snapshot(ask)
    if not snapshot.covers(delivered.seen):
        return Found([], delivered.seen)
    try:
        return await _read_much(ask, delivered, snapshot, apart, siblings)
    except (PayloadError, psycopg.DataError) as error:
        raise Unreadable(str(error), snapshot) from error


async def _read_much(
    ask: Ask, delivered: Position, upto: Snapshot, apart: Collection[int], siblings: Siblings
) -> Found:
    sizes = await _sizes(ask, delivered, upto, apart)
    groups = {siblings(relation_id) for relation_id in sizes}
    heavy = tuple(group for group in groups if _is_much(sizes, group))
    light = frozenset(relation_id for group in groups.difference(heavy) for relation_id in group)
    if _total(sizes, light)[1] > READ_ALL_BYTES_MAX:
        heavy, light = (*heavy, light), frozenset()
    return Found(await _read_all(ask, light, delivered, upto), upto, heavy, await _is_whole(ask, delivered))


async def _is_whole(ask: Ask, delivered: Position) -> bool:
    return not await is_forgotten(ask, delivered.seen, by_hand=False)


async def read_between(
    ask: Ask, relations: Collection[int], delivered: Position, upto: Snapshot
) -> list[Change] | None:
    """Return the changes of tables between a position and a snapshot; None if they are many. Raises `PayloadError`."""
    if _is_much(await _sizes(ask, delivered, upto), relations):
        return None
    return await _read_all(ask, relations, delivered, upto)


async def _read_all(ask: Ask, relations: Collection[int], delivered: Position, upto: Snapshot) -> list[Change]:
    if not relations:
        return []
    async with aclosing(pages(ask, relations, (delivered,), upto)) as read:
        return [change async for page in read for change in page.changes]


async def _sizes(ask: Ask, delivered: Position, upto: Snapshot, apart: Iterable[int] = ()) -> Sizes:
    """Return the size of what each table has between a position and a snapshot."""
    rows = await ask("log_sizes", {**unseen(delivered.seen), "upto": str(upto), "apart": sorted(apart)})
    return {relation_id: (count, size_bytes) for relation_id, count, size_bytes in rows}


def _is_much(sizes: Sizes, relations: Iterable[int]) -> bool:
    rows, size_bytes = _total(sizes, relations)
    return rows > READ_ROWS_MAX or size_bytes > READ_BYTES_MAX


def _total(sizes: Sizes, relations: Iterable[int]) -> tuple[int, int]:
    found = [sizes[relation_id] for relation_id in relations if relation_id in sizes]
    return sum(rows for rows, _ in found), sum(size_bytes for _, size_bytes in found)


# --- page by page ---


async def pages(
    ask: Ask, relations: Collection[int], delivered: tuple[Position, ...], upto: Snapshot
) -> AsyncGenerator[Page, None]:
    """Yield pages of the changes of these tables that `upto` sees and no `delivered` position has.

    Raises `PayloadError` and psycopg's errors.
    """
    seen = newest_snapshot(delivered)
    parameters = {**unseen(seen), "upto": str(upto), "relations": list(relations)}
    waiting: dict[int, list[_Key]] = {}  # delivered ones, by a transaction that may have more changes
    last = _Key(0, 0, 0)
    rows_max = KEYS_MAX
    while True:
        rows = await ask("log_keys", {**parameters, "seq": last.position, "rows_max": rows_max})
        keys = [key for row in rows if (key := _Key(*row)).seq > last.seq]
        is_cut = len(rows) == rows_max
        if is_cut:  # perhaps in the middle of a change: read that one next time
            keys = [key for key in keys if key.seq < keys[-1].seq]
            rows_max = KEYS_MAX if keys else 2 * rows_max
        for chunk in _chunks(_fresh(keys, delivered, waiting)):
            earlier = [key for xid in {key.xid for key in chunk} for key in waiting.pop(xid, ())]
            yield Page(
                upto,
                tuple(await _read(ask, relations, chunk)),
                tuple(await _read(ask, relations, earlier)) if earlier else (),
            )
        if not is_cut:
            return
        last = keys[-1] if keys else last


def _fresh(keys: Iterable[_Key], delivered: tuple[Position, ...], waiting: dict[int, list[_Key]]) -> Iterator[_Key]:
    for key in keys:
        if any(position.has(key.xid, key.seq) for position in delivered):
            waiting.setdefault(key.xid, []).append(key)
        else:
            yield key


def _chunks(keys: Iterable[_Key]) -> Iterator[list[_Key]]:
    """Yield keys in chunks of the size of a page. The rows of one change stay together."""
    chunk: list[_Key] = []
    size = 0
    for _, group in groupby(keys, key=lambda key: key.seq):
        change = list(group)
        change_bytes = sum(key.size_bytes for key in change)
        if chunk and (size + change_bytes > PAGE_BYTES_MAX or len(chunk) >= PAGE_ROWS_MAX):
            yield chunk
            chunk, size = [], 0
        chunk += change
        size += change_bytes
    if chunk:
        yield chunk


async def _read(ask: Ask, relations: Collection[int], keys: Sequence[_Key]) -> Iterator[Change]:
    wanted = {(key.position, key.xid) for key in keys}
    positions = [key.position for key in keys]
    parameters = {
        "xids": [str(xid) for xid in {key.xid for key in keys}],
        "relations": list(relations),
        "first": min(positions),
        "last": max(positions),
    }
    return changes_of([row for row in await ask("log_rows", parameters) if (row[0], row[1]) in wanted])
