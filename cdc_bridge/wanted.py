"""Whether a task is still wanted.

A cancellation can be lost while psycopg waits for the server. In Python 3.11 `asyncio.wait_for` forgets one that comes
just when what it waits for is there; and if the connection breaks while the server is asked to cancel a statement, it
is that error which is raised. So every loop asks here each time. Otherwise it could run for ever.
"""

from __future__ import annotations

import asyncio


def check_still_wanted() -> None:
    """Raises `CancelledError` where the task has been cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
