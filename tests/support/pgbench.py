"""pgbench, PostgreSQL's own benchmark."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.server import bin_dir


def find_pgbench() -> Path:
    """Return the path of the server's pgbench, or of another version, which will do. Skips the test without any."""
    beside = bin_dir() / "pgbench"
    found = [beside, *sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), reverse=True)]
    if elsewhere := shutil.which("pgbench"):
        found.append(Path(elsewhere))
    return next((path for path in found if os.access(path, os.X_OK)), None) or _skip()


def _skip() -> NoReturn:
    reason = "ATTENTION: TPC-B was not tried: there is no pgbench here"
    warnings.warn(reason, stacklevel=2)
    pytest.skip(reason)
