"""Prometheus and its Alertmanager, as Debian packages them. Tests that need them skip where they are not installed.

`CDC_BRIDGE_TEST_PROMETHEUS_BIN` names a folder with the programs, where they were only unpacked.
"""

from __future__ import annotations

import os
import shutil

import pytest

FOLDER = "CDC_BRIDGE_TEST_PROMETHEUS_BIN"


def program(*names: str) -> str:
    """The path of the first of these programs that is there."""
    path = os.pathsep.join(filter(None, [os.environ.get(FOLDER), os.environ.get("PATH")]))
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    pytest.skip(
        f"ATTENTION: {names[0]} is not installed, so alerts are not tested: apt-get install prometheus"
        f" prometheus-alertmanager promtool, or unpack them and name the folder in {FOLDER}"
    )
