"""The inspector: three static files with which a person follows collections in a browser.

They load nothing from elsewhere, and speak to the bridge as every other client does. `HEADERS` forbid the browser
whatever they do not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_FILES = {
    "/": ("index.html", "text/html"),
    "/inspector.css": ("inspector.css", "text/css"),
    "/inspector.js": ("inspector.js", "text/javascript"),
}


@dataclass(frozen=True, slots=True)
class Page:
    content_type: str
    text: str

    @property
    def headers(self) -> Mapping[str, str]:
        return {**HEADERS, "Content-Type": f"{self.content_type}; charset=utf-8"}


@cache
def pages() -> Mapping[str, Page]:
    """Return the files by the path at which they are served."""
    folder = files("cdc_bridge.server") / "inspector"
    return {
        path: Page(content_type, (folder / name).read_text(encoding="utf-8"))
        for path, (name, content_type) in _FILES.items()
    }
