"""Docs that can fail: whatever a client or an operator can meet has its heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdc_bridge.admin.problems import SEVERITIES
from cdc_bridge.doctor.examination import OF_OURS, OF_THE_SERVER
from cdc_bridge.model.frames import CloseCode
from cdc_bridge.model.messages import _PARSERS

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "cdc_bridge").rglob("*.py"))


def headings(page: str) -> set[str]:
    text = (ROOT / "docs" / page).read_text()
    return {match.strip("`") for match in re.findall(r"^### (\S+)", text, flags=re.MULTILINE)}


@pytest.mark.parametrize(
    "message", ["subscribe", "unsubscribe", "ping", "pong", "items", "auth", "subscription", "collections"]
)
def test_every_message_has_its_heading(message: str) -> None:
    assert message in headings("protocol.md")


def test_no_message_of_the_parser_is_missing_above() -> None:
    known = set(_PARSERS)
    assert known <= headings("protocol.md")


def test_every_error_code_has_its_heading() -> None:
    codes = {code for source in SOURCES for code in re.findall(r'RequestError\(\s*"([A-Z_]+)"', source.read_text())}
    assert {"INVALID_QUERY", "FORBIDDEN"} <= codes
    assert codes <= headings("protocol.md")


def test_every_close_code_has_its_heading() -> None:
    """The bridge's, and those that the WebSocket library closes with by itself."""
    assert {*map(str, map(int, CloseCode)), "1007", "1009", "1011"} <= headings("protocol.md")


def test_everything_that_doctor_finds_and_every_check_has_its_heading() -> None:
    """And nothing else has one."""
    text = (ROOT / "docs" / "doctor.md").read_text()
    checks = {*OF_THE_SERVER, *OF_OURS, "connection"}
    assert set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE)) == set(SEVERITIES)
    assert set(re.findall(r"^## (.+)$", text, flags=re.MULTILINE)) == checks


def test_every_finding_that_the_code_makes_is_known() -> None:
    made = {name for source in SOURCES for name in re.findall(r'Finding\(\s*"([a-z-]+)"', source.read_text())}
    assert made <= set(SEVERITIES)


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: str) -> None:
    here = ROOT / page
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", here.read_text()) if "://" not in target]
    assert [target for target in targets if not leads_somewhere(here, target)] == []


def leads_somewhere(here: Path, target: str) -> bool:
    """The page is there, and the heading on it."""
    path, _, anchor = target.partition("#")
    page = here.parent / path if path else here
    return page.exists() and (not anchor or anchor in anchors(page))


def anchors(page: Path) -> set[str]:
    """As those who show Markdown make them of headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", [*(str(page.relative_to(ROOT)) for page in PAGES), "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    """A way in for readers leads somewhere: a path is one of the repository, or of the package."""
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|sql|md|yaml))`", (ROOT / page).read_text()))
    places = ROOT, ROOT / "cdc_bridge"
    assert [path for path in sorted(named) if not any((place / path).exists() for place in places)] == []
