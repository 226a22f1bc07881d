"""Both WebSockets that the SDK can use on Node."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["ws", "builtin"])
def client(request: pytest.FixtureRequest, node: Path) -> str:
    """Which WebSocket the SDK uses: the one of `ws` on npm, or Node's own."""
    return str(request.param)
