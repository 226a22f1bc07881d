"""The SDK from npm, or a reason why not."""

import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).parent
CANNOT_FETCH = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONN|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET|network|\bE(?:40[134]|5\d\d)\b|CERT",
    re.IGNORECASE,
)


@pytest.fixture(scope="session")
def node_version() -> int:
    """Of the Node that the SDK runs on, with the SDK installed beside the tests as package-lock.json says."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            _skip(f"{program} is not installed")
    _install()
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
    return int(version.strip().removeprefix("v").partition(".")[0])


@pytest.fixture(params=["ws", "builtin"])
def client(request: pytest.FixtureRequest, node_version: int) -> str:
    """Which WebSocket the SDK uses: the one of `ws` on npm, or Node's own."""
    if request.param == "builtin" and node_version < 22:
        pytest.skip(f"Node {node_version} has no WebSocket of its own; 22 has")
    return str(request.param)


def _install() -> None:
    lock = (HERE / "package-lock.json").read_bytes()
    stamp = HERE / "node_modules" / ".installed-from"
    if stamp.exists() and stamp.read_bytes() == lock:
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    command += ["--fetch-retries=1", "--fetch-timeout=20000"]
    try:
        done = subprocess.run(command, check=False, cwd=HERE, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        _skip("npm cannot fetch it within 90 s")
    if done.returncode and CANNOT_FETCH.search(done.stderr):
        _skip(f"npm cannot fetch it: {done.stderr.strip()[-500:]}")
    assert done.returncode == 0, done.stderr
    stamp.write_bytes(lock)


def _skip(reason: str) -> NoReturn:
    reason = f"ATTENTION: the official SDK was not tried: {reason}"
    warnings.warn(reason, stacklevel=2)
    pytest.skip(reason)
