"""What the tests of the triggers share."""

from __future__ import annotations

import pytest

from cdc_bridge.admin.mode import Mode


@pytest.fixture(params=list(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each mode in turn: whatever a statement did, both tell the same of it."""
    assert isinstance(request.param, Mode)
    return request.param
