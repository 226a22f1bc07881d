"""How many examples a law is tried with: few in every run, many where somebody wants to know (`make torture`).

The few are the same in every run, so that what fails is what has been changed. The many are other ones each time.
"""

from __future__ import annotations

import os

from hypothesis import settings

TIMES = int(os.environ.get("CDC_BRIDGE_TEST_BUDGET", "1"))


def examples(usual: int) -> int:
    """So many times the usual number as CDC_BRIDGE_TEST_BUDGET says."""
    return usual * TIMES


def settle_examples() -> None:
    """For all laws whose modules are imported afterwards. None is judged by the time it takes: others work here too."""
    settings.register_profile("cdc_bridge", derandomize=TIMES == 1, deadline=None)
    settings.load_profile("cdc_bridge")
