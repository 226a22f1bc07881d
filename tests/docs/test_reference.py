"""What the reference pages say of the code is what the code has."""

from __future__ import annotations

import re

import pytest

from cdc_bridge.settings import FIELDS, allowed
from tests.docs.reference import PARTS, default, renewed
from tests.support.process import ROOT

pytestmark = pytest.mark.once  # no database is asked


@pytest.mark.parametrize("page", PARTS)
def test_written_parts_are_not_stale(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == renewed(page), "make reference writes it anew"


@pytest.mark.parametrize("name", FIELDS)
def test_section_of_a_setting_has_its_values_and_its_default(name: str) -> None:
    section = (ROOT / "docs" / "settings.md").read_text().partition(f"\n### `{name}`\n")[2].partition("\n### ")[0]
    values, _, after = re.sub(r"\s+", " ", section).partition(" Default: ")
    assert f"{allowed(name)[:1].upper()}{allowed(name)[1:]}." in values
    assert after.startswith(default(FIELDS[name].default) or ("none", "empty", "as recorded", "`handshake` once"))
