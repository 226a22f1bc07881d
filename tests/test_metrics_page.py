"""docs/metrics.md has every metric and every alert, as the code has them, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdc_bridge.engine.scheduler import Cause
from cdc_bridge.engine.shares import Kind
from cdc_bridge.metrics.names import (
    AUTHENTICATION_REASONS,
    CURSOR_OUTCOMES,
    METRICS,
    OTHER_REASON,
    UNDELIVERED_REASONS,
)
from cdc_bridge.model.change import GapCause, Operation

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "metrics.md").read_text()

VALUES = {
    "cdc_changes_total": [each.name.lower() for each in Operation],
    "cdc_changes_undelivered_total": UNDELIVERED_REASONS,
    "cdc_gaps_total": [each.value for each in GapCause],
    "cdc_resyncs_total": [each.value for each in Cause],
    "cdc_read_queue_seconds": [each.value for each in Kind],
    "cdc_authentication_failures_total": [*AUTHENTICATION_REASONS.values(), OTHER_REASON],
    "cdc_cursors_total": CURSOR_OUTCOMES,
}


def section(name: str) -> str:
    return " ".join(PAGE.partition(f"\n### `{name}`\n")[2].partition("\n#")[0].split())


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_its_heading(name: str) -> None:
    assert METRICS[name].text in section(name)
    assert [label for label in METRICS[name].labels if f"`{label}`" not in section(name)] == []
    assert [value for value in VALUES.get(name, ()) if f"`{value}`" not in section(name)] == []


def test_page_describes_no_metric_that_is_not_there() -> None:
    assert set(re.findall(r"^### `(cdc_.+)`$", PAGE, re.MULTILINE)) == set(METRICS)


def test_every_alert_has_its_heading_and_there_is_no_other() -> None:
    rules = (ROOT / "docker" / "prometheus" / "alerts.yaml").read_text()
    assert re.findall(r"^### `(CdcBridge\w+)`$", PAGE, re.MULTILINE) == re.findall(r"- alert: (\w+)", rules)


def test_every_reason_of_the_authenticator_is_one_of_its_sentences() -> None:
    """A sentence that is worded anew would count as malformed."""
    source = (ROOT / "cdc_bridge" / "access" / "authenticator.py").read_text()
    assert [reason for reason in AUTHENTICATION_REASONS if f'"{reason}"' not in source] == []
