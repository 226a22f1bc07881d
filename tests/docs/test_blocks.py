"""Each fenced block of the pages is what its language says, and what our own programs and types would take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import BLOCKS, FENCED, PAGES, Block
from tests.docs.checks import CHECKS
from tests.docs.shell import check, commands, of_ours

pytestmark = pytest.mark.once  # no database is asked


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_is_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language that nothing is known of fails: what is output or pseudo-code is `text`."""
    monkeypatch.chdir(tmp_path)
    CHECKS[block.language](block.text, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_is_indented_instead(page: Path) -> None:
    """Such a block has no language, so nothing would check it."""
    outside = re.sub(FENCED, "", page.read_text())
    assert re.findall(r"\n\n(    (?![-*] |\d+\. ).*)", outside) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_that_prose_names_is_known(page: Path) -> None:
    """It may lack what it needs, as `cdc-bridge token` does, but each option and command is one of ours."""
    prose = re.sub(FENCED, "", page.read_text()).replace("cdc-bridge COMMAND", "cdc-bridge attach")
    for mention in re.findall("`(cdc-bridge [^`]+)`", prose):
        for arguments in filter(None, map(of_ours, commands(" ".join(mention.split())))):
            try:
                check(arguments)
            except Exception as error:
                assert not str(getattr(error, "message", error)).startswith("No such"), mention  # noqa: PT017


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("json", '{"type":"subscribe"}'),
        ("json", '{"type":"auth"}'),
        ("json", '{"type":"subscription","event":"created","data":[]}'),
        ("json", '{"a":1}\n{"a":1'),
        ("text", '-> {"type":"subscribe"}'),
        ("text", '<- {"type":"auth","status":"fine"}'),
        ("toml", "prot = 1"),
        ("sh", "cdc-bridge attach --every"),
        ("sh", "make coffee"),
        ("sh", "if true"),
        ("js", "const = 1"),
        ("python", "def f(:"),
        ("html", "<script>const = 1</script>"),
    ],
)
def test_what_is_wrong_is_found(language: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(Exception):  # noqa: B017 - each checker has its own
        CHECKS[language](text, tmp_path)
