"""Is the bridge in this container alive? Ends with 0 if `/healthz` says so, else with 1 and the reason.

From the standard library alone, so that a slim image needs no curl. It knows the port from the environment, as
the bridge does; a port that is set by flag or file it does not see.
"""

import http.client
import os
import sys

DEFAULT_PORT = 8765
TIMEOUT_S = 2.5  # the engine's patience ends at 3


def port() -> int:
    """The bridge's own; Kubernetes may put an address (tcp://...) under that name, which the bridge ignores."""
    text = os.environ.get("CDC_BRIDGE_PORT", "")
    return int(text) if text.isdecimal() else DEFAULT_PORT


def answer() -> str:
    """What is wrong, or nothing."""
    # "localhost" is both 127.0.0.1 and ::1: the bridge may listen on either.
    connection = http.client.HTTPConnection("localhost", port(), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port()}: {error}"
    return "" if status == http.client.OK else f"/healthz answers {status}"


sys.exit(answer() or 0)
