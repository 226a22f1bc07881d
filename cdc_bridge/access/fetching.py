"""Reading one small document by HTTP, in a thread, since the standard library's client waits."""

from __future__ import annotations

import http
import http.client
import time
import urllib.error
import urllib.request

READ_AT_ONCE = 64 * 1024


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Who answers at the address that the operator gave is who is believed, and nobody else."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
    _NoRedirects,
):
    _opener.add_handler(_handler())


def fetch(url: str, within_s: float, bytes_max: int) -> bytes:
    """The document. Raises `OSError` or `ValueError` with a reason that says nothing of the address."""
    deadline_s = time.monotonic() + within_s
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "cdc_bridge"})  # noqa: S310 - the opener knows http and https only
    try:
        with _opener.open(request, timeout=within_s) as response:
            if response.status != http.HTTPStatus.OK:
                raise ValueError(f"HTTP {response.status}")
            found = bytearray()
            while chunk := response.read1(READ_AT_ONCE):
                found += chunk
                if len(found) > bytes_max:
                    raise ValueError(f"more than {bytes_max} bytes")
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"not complete after {within_s:g} s")
            return bytes(found)
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"HTTP {error.code}") from None
    except http.client.HTTPException as error:
        raise ValueError(f"no HTTP ({type(error).__name__})") from None
