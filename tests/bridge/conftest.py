"""What the tests of the bridge share."""

from __future__ import annotations

import pytest

from cdc_bridge.admin.mode import Mode


@pytest.fixture(params=list(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each mode in turn. Tests that do not ask for it are in durable mode, the default of `attach`."""
    assert isinstance(request.param, Mode)
    return request.param
