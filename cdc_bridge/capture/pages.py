"""Reads the log: what some tables have in it between what was told and a snapshot, page by page.

A page is about a MiB, or one larger change. Reading keeps no transaction open between two pages: which rows belong to
it says the snapshot, not the transaction that reads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cdc_bridge.capture.connection import Connection, value
from cdc_bridge.capture.payload import log_sequence, logged_rows
from cdc_bridge.model.change import Change, Operation, Position, Snapshot
from cdc_bridge.statements import statement

KEYS_MAX = 20_000
PAGE_BYTES_MAX = 1024 * 1024
PAGE_ROWS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """Changes in the order of `seq`. `earlier`: told before, of transactions that go on here."""

    changes: tuple[Change, ...]
    earlier: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class _Key:
    """Where a row of the log is: position in the WAL, transaction; and its size."""

    position: int
    xid: int
    size_bytes: int

    @property
    def seq(self) -> int:
        return log_sequence(self.position, self.xid)


def unseen(snapshot: Snapshot) -> dict[str, Any]:
    """The parameters of a query for what a snapshot did not see."""
    return {"xmax": str(snapshot.xmax), "in_progress": [str(xid) for xid in snapshot.in_progress]}


def text(snapshot: Snapshot) -> str:
    return f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, sorted(snapshot.in_progress)))}"


def base(told: Iterable[Position]) -> Snapshot:
    """The snapshot among what was told that leaves the least to be read."""
    return max((position.seen for position in told), key=lambda snapshot: snapshot.xmax)


async def current_snapshot(connection: Connection) -> Snapshot:
    """All that it sees, a later reading sees. On a standby it sees no more than that."""
    return Snapshot.parse(await value(connection, statement("queries/settled_snapshot")))


def changes_of(rows: Iterable[Sequence[Any]]) -> Iterator[Change]:
    """Changes from rows of `queries/log_rows`, in their order. Raises `PayloadError`."""
    for (position, xid), group in groupby(rows, key=lambda row: (row[0], row[1])):
        first, *more = group
        _, _, relation_id, filenode, letter, at, *_ = first
        operation = Operation(letter)
        old, new = logged_rows(operation, [(row[-2], row[-1]) for row in (first, *more)])
        yield Change(operation, log_sequence(position, xid), xid, relation_id, filenode, old, new, at)


async def pages(
    connection: Connection, schema: str, relations: Collection[int], told: tuple[Position, ...], upto: Snapshot
) -> AsyncGenerator[Page, None]:
    """Every change of these tables that `upto` sees and none of `told` has. Raises `PayloadError` and psycopg's."""
    seen = base(told)
    parameters = {**unseen(seen), "upto": text(upto), "relations": list(relations)}
    waiting: dict[int, list[_Key]] = {}  # told ones, by the transaction that may go on
    last = _Key(0, 0, 0)
    rows_max = KEYS_MAX
    while True:
        asked = {**parameters, "seq": last.position, "rows_max": rows_max}
        rows = await (await connection.execute(statement("queries/log_keys", schema), asked)).fetchall()
        keys = [key for row in rows if (key := _Key(*row)).seq > last.seq]
        is_cut = len(rows) == rows_max
        if is_cut:  # in the middle of a change, perhaps: that one is for the next time
            keys = [key for key in keys if key.seq < keys[-1].seq]
            rows_max = KEYS_MAX if keys else 2 * rows_max
        for chunk in _chunks(_fresh(keys, told, waiting)):
            earlier = [key for xid in {key.xid for key in chunk} for key in waiting.pop(xid, ())]
            yield Page(
                tuple(await _read(connection, schema, relations, chunk)),
                tuple(await _read(connection, schema, relations, earlier)) if earlier else (),
            )
        if not is_cut:
            return
        last = keys[-1] if keys else last


def _fresh(keys: Iterable[_Key], told: tuple[Position, ...], waiting: dict[int, list[_Key]]) -> Iterator[_Key]:
    for key in keys:
        if any(position.has(key.xid, key.seq) for position in told):
            waiting.setdefault(key.xid, []).append(key)
        else:
            yield key


def _chunks(keys: Iterable[_Key]) -> Iterator[list[_Key]]:
    """Of the size of a page; the rows of one change stay together."""
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


async def _read(
    connection: Connection, schema: str, relations: Collection[int], keys: Sequence[_Key]
) -> Iterator[Change]:
    wanted = {(key.position, key.xid) for key in keys}
    positions = [key.position for key in keys]
    parameters = {
        "xids": [str(xid) for xid in {key.xid for key in keys}],
        "relations": list(relations),
        "first": min(positions),
        "last": max(positions),
    }
    cursor = await connection.execute(statement("queries/log_rows", schema), parameters)
    return changes_of(row for row in await cursor.fetchall() if (row[0], row[1]) in wanted)


async def is_forgotten(connection: Connection, schema: str, seen: Snapshot, *, by_hand: bool = True) -> bool:
    """Whether something may be missing from the log that this snapshot did not see. `by_hand`: noted or not.

    To be asked after the log was read: it is emptied at once for everybody, whatever snapshot they have. Who was in
    progress when a segment was emptied had not written there, so a long transaction elsewhere means nothing.
    """
    parameters = {"xmin": str(seen.xmin), "by_hand": by_hand}
    cursor = await connection.execute(statement("queries/forgotten", schema), parameters)
    return any(
        youngest >= seen.xmax
        or any(oldest <= xid <= youngest and (xid == by or Snapshot.parse(ended).sees(xid)) for xid in seen.in_progress)
        for oldest, youngest, by, ended in await cursor.fetchall()
    )
