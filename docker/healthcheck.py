"""Is the bridge in this container alive? Ends with 0 if `/healthz` says so, else with 1 and the reason.

From the standard library alone, so that a slim image needs no curl. It knows the port and whether there is TLS from
the environment, as the bridge does; what is set by flag or file it does not see.
"""

import http.client
import os
import ssl
import sys

DEFAULT_PORT = 8765
TIMEOUT_S = 2.5  # the engine's patience ends at 3


def port() -> int:
    """Return the bridge's own port. Kubernetes may put an address (tcp://...) under that name, which it ignores."""
    text = os.environ.get("CDC_BRIDGE_PORT", "")
    return int(text) if text.isdecimal() else DEFAULT_PORT


def connect() -> http.client.HTTPConnection:
    """To the bridge. "localhost" is both 127.0.0.1 and ::1: it may listen on either."""
    if not os.environ.get("CDC_BRIDGE_TLS_CERTIFICATE"):
        return http.client.HTTPConnection("localhost", port(), timeout=TIMEOUT_S)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # its certificate is for another name, and nothing is said here that is secret
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("localhost", port(), timeout=TIMEOUT_S, context=context)


def answer() -> str:
    """Return what is wrong; nothing if all is well."""
    connection = connect()
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port()}: {error}"
    return "" if status == http.client.OK else f"/healthz answers {status}"


sys.exit(answer() or 0)
