"""What is told of a statement, by whichever mode its tables are in: by a notification, or by the log."""

from __future__ import annotations

from tests.capture.ear import attach_tables, changes

__all__ = ["attach_tables", "changes"]
