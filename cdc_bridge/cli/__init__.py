"""The command `cdc-bridge`.

Every error ends as one sentence on stderr and an exit code of `docs/cli.md`; a traceback appears only with
`--traceback` or `CDC_BRIDGE_TRACEBACK`. Whoever reads our output may stop reading at any time.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

INTERRUPTED = 130
TERMINATED = 143


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    # As process 1 of a container a signal without a handler would be ignored.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    try:
        from cdc_bridge.cli.ending import run  # a Ctrl-C may come while the modules load
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(run(sys.argv[1:]))
