"""The command `cdc-bridge`.

Every error ends as one sentence on stderr and an exit code of `docs/cli.md`; a traceback appears only with
`--traceback` or `CDC_BRIDGE_TRACEBACK`. The reader of our output may stop reading at any time.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

INTERRUPTED = 130
TERMINATED = 143


def leave_at_sigterm(code: int) -> None:
    """End at once at SIGTERM while modules load.

    There is nothing to clean up, and the import system could turn an exception into another one.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(code))


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    # As process 1 of a container a signal without a handler would be ignored.
    leave_at_sigterm(TERMINATED)
    try:
        from cdc_bridge.cli.app import run  # a Ctrl-C may come while the modules load
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    sys.exit(run(sys.argv[1:]))
