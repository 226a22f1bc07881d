"""What the two modes promise of changes that were committed while nobody listened, and how they come to miss some."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from cdc_bridge.admin.mode import Mode
from tests.support.server import Database
from tests.support.wsclient import Client


async def is_told_what_was_missed(client: Client, mode: Mode, rows: list[Any], within_s: float = 30) -> None:
    """Rows that were created meanwhile, and nothing else of the table.

    In live mode they are in the fresh data of a resync. In durable mode the log is read on, and there is no resync.
    """
    match mode:
        case Mode.LIVE:
            await client.expect(event="init", reason="resync", data=rows, timeout=within_s)
        case Mode.DURABLE:
            await client.expect(event="create", data=rows, timeout=within_s)


async def write_untold(writer: psycopg.AsyncConnection[Any], mode: Mode, insert: str) -> None:
    """Run a statement whose trigger cannot tell what it did, and marks a gap: inside of the writer's transaction."""
    await writer.execute(untold(mode, insert).encode())


def untold(mode: Mode, insert: str) -> str:
    """Return the statements of `write_untold` as one script, for a transaction that ends as soon as it has a gap."""
    match mode:
        case Mode.LIVE:  # as after so many changes in one transaction
            return f"SET LOCAL cdc_bridge.pending_bytes = '400000000'; {insert}"
        case Mode.DURABLE:  # as when the log has become too large
            return f"SELECT cdc.close_log(1); {insert}; SELECT cdc.reopen_log()"


MENDED = """
SELECT coalesce(pg_sequence_last_value('cdc.mended'), 0) >= coalesce(pg_sequence_last_value('cdc.gap'), 0)
"""


async def gaps_are_mended(database: Database) -> None:
    """Wait until a bridge knows that every transaction has ended that could have made one of the gaps."""
    async with asyncio.timeout(30):
        while database.execute(MENDED) != [(True,)]:  # noqa: ASYNC110 - nothing but asking tells
            await asyncio.sleep(0.05)
