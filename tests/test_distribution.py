"""The sdist and the wheel: what is in them, and that what they install works without the tree."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from cdc_bridge import __version__
from tests.support.attach import attach
from tests.support.process import ROOT, environment, line_of, running
from tests.support.server import Database

pytestmark = pytest.mark.once  # what is installed is the same beside each server

CANNOT_FETCH = re.compile(
    r"Could not fetch|No matching distribution|ConnectionError|NewConnectionError|ReadTimeout|Temporary failure"
)
ROOT_FILES = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
GENERATED = {"PKG-INFO", "setup.cfg"}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program without the tree's modules at hand. Skips the test, loudly, where pip cannot fetch something."""
    done = subprocess.run(
        list(map(str, command)), check=False, cwd=cwd, env=outside(), capture_output=True, text=True, timeout=100
    )
    if done.returncode and CANNOT_FETCH.search(done.stderr):
        _skip(done.stderr.strip()[-500:])
    assert done.returncode == 0, done.stderr
    return done.stdout


def _skip(reason: str) -> NoReturn:
    reason = f"ATTENTION: no wheel and no sdist was installed: pip cannot fetch what they need: {reason}"
    warnings.warn(reason, stacklevel=2)
    pytest.skip(reason)


def outside() -> dict[str, str]:
    return environment({"PIP_DISABLE_PIP_VERSION_CHECK": "1"}) | {"PYTHONPATH": ""}


def files_of_git() -> list[str]:
    """Return the files of the tree, without those that git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel from a copy of the tree, in which no earlier build has left anything."""
    folder = tmp_path_factory.mktemp("distribution")
    for name in files_of_git():
        target = folder / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist")
    run(*build, "--sdist", "--wheel", cwd=folder / "tree")
    return folder / "dist"


def sdist(dist: Path) -> Path:
    return dist / f"cdc_bridge-{__version__}.tar.gz"


def wheel(dist: Path) -> Path:
    return dist / f"cdc_bridge-{__version__}-py3-none-any.whl"


def contents(path: Path) -> Mapping[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_sdist_has_the_package_and_nothing_else(dist: Path) -> None:
    with tarfile.open(sdist(dist)) as archive:
        found = {each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()}
    package = {name for name in files_of_git() if name.startswith(("cdc_bridge/", "sql/"))}
    made = {name for name in found if name.startswith("cdc_bridge.egg-info/")} | GENERATED
    assert found - made == ROOT_FILES | package


def test_wheel_has_the_package_its_data_and_nothing_else(dist: Path) -> None:
    found = {name for name in contents(wheel(dist)) if ".dist-info/" not in name}
    ours = [name for name in files_of_git() if name.startswith(("cdc_bridge/", "sql/"))]
    assert found == {name.replace("sql/", "cdc_bridge/sql/", 1) if name.startswith("sql/") else name for name in ours}
    assert {"cdc_bridge/py.typed", "cdc_bridge/server/asyncapi.json", "cdc_bridge/server/inspector/index.html"} <= found
    assert any(name.endswith("/licenses/LICENSE") for name in contents(wheel(dist)))


def test_wheel_of_the_sdist_is_that_of_the_tree(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist(dist)) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist(dist).name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "again", cwd=unpacked)
    assert contents(wheel(tmp_path / "again")) == contents(wheel(dist))


async def test_what_they_install_works_without_the_tree(dist: Path, database: Database, tmp_path: Path) -> None:
    """In an environment that has the locked requirements and nothing of ours."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attach(database, "t")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    command = str(tmp_path / "venv" / "bin" / "cdc-bridge")
    pip = (sys.executable, "-m", "pip", "--python", tmp_path / "venv", "--quiet")
    locked = ROOT / "requirements" / "runtime.txt"
    run(*pip, "install", "--no-compile", "--require-hashes", "-r", locked, cwd=tmp_path)
    for path in (wheel(dist), sdist(dist)):
        run(*pip, "install", "--no-compile", "--no-deps", path, cwd=tmp_path)
        assert run(command, "--version", cwd=tmp_path).strip() == f"cdc-bridge {__version__}"
        assert "CREATE SCHEMA" in run(command, "sql", cwd=tmp_path)
        await serves(command, database, tmp_path)
        run(*pip, "uninstall", "--yes", "cdc_bridge", cwd=tmp_path)
        assert files_of_ours(tmp_path / "venv") == []


def files_of_ours(environment: Path) -> list[Path]:
    return [*environment.rglob("*cdc[-_]bridge*")]


async def serves(command: str, database: Database, cwd: Path) -> None:
    """Serve, and get the files that were installed with it."""
    arguments = ("serve", "--insecure-public", "--port", "0", "--dsn", database.dsn)
    async with running(command, *arguments, cwd=cwd, env=outside() | {"PYTHONUNBUFFERED": "1"}) as process:
        url = (await line_of(process.stdout)).removeprefix("listening on ws").removesuffix("/websocket")
        for path, expected in (
            ("/", b"<html"),
            ("/inspector.js", b"WebSocket"),
            ("/inspector.css", b"{"),
            ("/asyncapi.json", b'"title":"t"'),
        ):
            assert expected in await asyncio.to_thread(_read, f"http{url}{path}"), path


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        read: bytes = answer.read()
        return read


def test_changelog_is_kept_by_version() -> None:
    """In the form of Keep a Changelog, with the version of the package."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog\n")
    assert "keepachangelog.com" in text
    unreleased, *versions = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert unreleased == "[Unreleased]"
    named = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", version) for version in versions]
    assert all(named), versions
    assert __version__ == max(each[1] for each in named if each)
    kinds = set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
