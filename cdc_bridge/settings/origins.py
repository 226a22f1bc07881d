"""The setting `allowed_origins`: origins of web pages, spelled as browsers send them, so that they can be compared."""

from __future__ import annotations

import re

from cdc_bridge import conninfo
from cdc_bridge.settings.refusal import refusal

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/:?#@\[\]]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?")
_OWN_PORTS = {"http": "80", "https": "443"}


def origin(text: str) -> str:
    """As a browser sends it: in small letters, without a path and without the scheme's own port."""
    if text == "*":
        raise refusal(
            "* is refused, for then every web page that somebody opens could read along in the background; name the"
            " origins one by one"
        )
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise refusal(
            f"{conninfo.mask(text)[:60]!r} can never match, for browsers send scheme://host or scheme://host:port"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and _OWN_PORTS.get(scheme) != port else "")
