"""The documentation as a site: it is built without a warning, and asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT

pytestmark = pytest.mark.once  # no database is asked

FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*rel=\"?canonical))\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does. A page that `nav` of mkdocs.yml lacks fails it, as any warning does."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=env, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_page_is_built(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    built = {page.relative_to(site).with_suffix("") for page in site.rglob("*.html")}
    assert pages - built == {Path("next")}


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    assert FETCHED.findall('<link href="https://fonts.example/css" rel=stylesheet>')
    fetched = {found for page in site.rglob("*.html") for found in FETCHED.findall(page.read_text())}
    imported = {
        found for sheet in site.rglob("*.css") for found in re.findall(r"(?:@import|url\()[^;)]*//", sheet.read_text())
    }
    assert (fetched, imported) == (set(), set())
