"""Make a log shorter for subscribers that want only the newest state of each row.

Theory: a client applies `create` and `update` alike, so of several events of one row only the last one counts; and
after a `truncate` nothing that came before it does. What is left keeps its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from cdc_bridge.engine.outbox import Entry
from cdc_bridge.model.change import made
from cdc_bridge.model.encoding import member_name
from cdc_bridge.model.subscription import EventKind, Projection, Subscription

RowKey: TypeAlias = Callable[[bytes], bytes]
"""Returns the key of an encoded row, as `delete` has it."""

ROW_KEYS_MAX = 100
"""Bound of the decoders that are remembered. Policy: past it they are made anew."""


def keep_newest(entries: Sequence[Entry], key_of: RowKey, begun: Set[int]) -> list[Entry | None]:
    """Return these entries without rows of which a later one has a newer state; None for one that has no others.

    Entries at the positions `begun`, of which a client has a part, and those without an event stay as they are.
    """
    kept: list[Entry | None] = []
    found: set[bytes] = set()
    is_emptied = False
    for position in range(len(entries) - 1, -1, -1):
        entry = entries[position]
        event = entry.event
        if event is None or position in begun:
            kept.append(entry)
        elif is_emptied:
            kept.append(None)
        elif event.kind is EventKind.INIT or event.rows is None:
            is_emptied = True
            kept.append(entry)
        else:
            rows = event.rows
            if len(rows) == 1:  # most are
                key = rows[0] if event.kind is EventKind.DELETE else key_of(rows[0])
                kept.append(None if key in found else entry)
                found.add(key)
                continue
            keys = rows if event.kind is EventKind.DELETE else tuple(map(key_of, rows))
            newest = []
            for row, key in zip(reversed(rows), reversed(keys), strict=True):
                if key not in found:
                    found.add(key)
                    newest.append(row)
            if len(newest) < len(rows):
                event = msgspec.structs.replace(event, rows=tuple(reversed(newest)))
                entry = entry._replace(event=event, cost_bytes=event.cost_bytes)
            kept.append(entry if newest else None)
    kept.reverse()
    return kept


def renumbered(kept: Iterable[Entry | None], begin_bytes: int) -> tuple[list[Entry], list[int]]:
    """Return the entries that are kept, with their place in bytes, and the new position of each old one and the end."""
    log: list[Entry] = []
    places = [0]
    end_bytes = begin_bytes
    for entry in kept:
        if entry is not None:
            end_bytes += entry.cost_bytes
            log.append(made(Entry, (*entry[:3], end_bytes, *entry[4:])))
        places.append(len(log))
    return log, places


def row_key(subscription: Subscription) -> RowKey | None:
    """Return how to find the key in the rows of a subscription; None if it is not there, or there are no such rows."""
    if subscription.query.aggregate is not None:
        return None
    return _row_key(subscription.query.projection, subscription.collection.key)


@lru_cache(ROW_KEYS_MAX)
def _row_key(projection: Projection, columns: tuple[str, ...]) -> RowKey | None:
    members = {output.column.name: output.name for output in projection.outputs if output.column is not None}
    if not columns or any(column not in members for column in columns):
        return None
    fields = [f"k{number}" for number in range(len(columns))]
    rename = {field: members[column] for field, column in zip(fields, columns, strict=True)}
    keys: Any = msgspec.defstruct("Keys", [(field, msgspec.Raw) for field in fields], rename=rename)
    decode = msgspec.json.Decoder(keys).decode
    if len(columns) == 1:
        return lambda row: bytes(decode(row).k0)
    names = [member_name(column) for column in columns]

    def of_many(row: bytes) -> bytes:
        values = msgspec.structs.astuple(decode(row))
        return b"{" + b",".join([name + bytes(value) for name, value in zip(names, values, strict=True)]) + b"}"

    return of_many
