"""The capture of changes: the source of the stream.

A capture is an asynchronous source of items (`model.change.StreamItem`). Every implementation guarantees:

- Between a `Listening` and the next `Lost` or `Gap`, every committed change is there, once, in an order in
  which no change comes before one that its transaction could have seen.
- Before the first `Listening` nothing comes but `Lost`, once for each attempt that failed.
- A `Heartbeat` comes after all changes that its snapshot sees.
- It ends only by cancellation, or by `CannotListen` when listening was never proved to work. A database that is
  away, or where we are not installed, is waited for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from cdc_bridge.model.change import StreamItem


class Capture(Protocol):
    """See the module's docstring for the guarantee."""

    def batches(self) -> AsyncGenerator[list[StreamItem], None]:
        """Each batch is all that is at hand in one turn of the event loop, at least one item."""
        ...
