"""What ends a bridge in a deployment waits until it has let its clients go, and systemd accepts the unit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cdc_bridge.cli.serve import GRACE_S
from cdc_bridge.settings import Settings
from tests.support.process import ROOT

UNIT = ROOT / "deploy" / "cdc-bridge.service"
PROGRAM = "/opt/cdc-bridge/bin/cdc-bridge"
EXPOSURE_MAX = 20
"""Of 100. What is left is the network, without which there is no bridge."""


def ends_within_s() -> float:
    defaults = Settings.model_validate({})
    return defaults.drain_s + defaults.shutdown_timeout_s + GRACE_S


@pytest.mark.parametrize(
    ("path", "pattern"),
    [("deploy/cdc-bridge.service", r"^TimeoutStopSec=(\d+)$"), ("docker/compose.yaml", r"stop_grace_period: (\d+)s$")],
)
def test_bridge_has_the_time_to_drain(path: str, pattern: str) -> None:
    (patience_s,) = re.findall(pattern, (ROOT / path).read_text(), re.MULTILINE)
    assert int(patience_s) > ends_within_s()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    assert analyze("verify", str(_with_a_program(tmp_path))) == ""


def test_unit_is_hardened(tmp_path: Path) -> None:
    said = analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}", str(_with_a_program(tmp_path))
    )
    assert "Overall exposure level" in said


def _with_a_program(directory: Path) -> Path:
    """The unit with a program that is here: systemd looks for it."""
    text = UNIT.read_text()
    assert f"ExecStart={PROGRAM} serve" in text
    unit = directory / UNIT.name
    unit.write_text(text.replace(PROGRAM, "/bin/true"))
    return unit


def analyze(*arguments: str) -> str:
    """What systemd says, which must be content."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("ATTENTION: systemd-analyze is not installed, so the unit of systemd was not checked")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
