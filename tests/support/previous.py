"""The program of the version before, taken from the history of this repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cdc_bridge.statements import VERSION
from tests.support.process import ROOT

STATEMENTS = "cdc_bridge/statements.py"


def previous_program(directory: Path) -> Path:
    """Lay out the last program that brought the SQL of one version before. Return its folder, to be run from there."""
    raised = _git("log", "--format=%H", f"-SVERSION = {VERSION}\n", "--", STATEMENTS).split()
    if not raised:
        pytest.skip("ATTENTION: no history of this repository here, so the program of the version before was not tried")
    archive = directory / "program.tar"
    _git("archive", "--format=tar", "--output", str(archive), f"{raised[-1]}~1", "cdc_bridge", "sql")
    shutil.unpack_archive(archive, directory, filter="data")
    (directory / "cdc_bridge" / "sql").symlink_to(directory / "sql")
    assert f"VERSION = {VERSION - 1}\n" in (directory / STATEMENTS).read_text()
    return directory


def _git(*arguments: str) -> str:
    """What git says, or nothing where there is none, or no repository."""
    program = shutil.which("git")
    if program is None:
        return ""
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout
