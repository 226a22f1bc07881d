"""How many examples a law is tried with: few in every run, many where somebody wants to know (`make torture`)."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    """So many times the usual number as CDC_BRIDGE_TEST_BUDGET says."""
    return usual * int(os.environ.get("CDC_BRIDGE_TEST_BUDGET", "1"))
