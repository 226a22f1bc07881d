"""The alert rules, the scrape configuration and the dashboard, as Prometheus itself reads them (`promtool`)."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from cdc_bridge.metrics.names import METRICS
from tests.monitoring.programs import program

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "docker" / "prometheus"
RULES = PROMETHEUS / "alerts.yaml"
DASHBOARD = ROOT / "docker" / "grafana" / "cdc_bridge.json"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())

Series = dict[str, str]
"""The values of a series, a minute apart, as promtool writes them."""

JOB = 'job="cdc_bridge",instance="b"'


def histogram(name: str, labels: str, *, fast: int, slow: int) -> Series:
    """Values that grow each minute: so many in the smallest bucket, so many in the largest."""
    labels = f"{labels},{JOB}"
    return {
        f'{name}_bucket{{{labels},le="0.1"}}': f"0+{fast}x30",
        f'{name}_bucket{{{labels},le="60"}}': f"0+{fast + slow}x30",
        f'{name}_bucket{{{labels},le="+Inf"}}': f"0+{fast + slow}x30",
    }


CASES: dict[str, tuple[Series, Series]] = {
    "CdcBridgeDown": ({f"up{{{JOB}}}": "0x30"}, {f"up{{{JOB}}}": "1x30"}),
    "CdcBridgeNotReady": ({f"cdc_ready{{{JOB}}}": "0x30"}, {f"cdc_ready{{{JOB}}}": "1x30"}),
    "CdcBridgeNotListening": ({f"cdc_listening{{{JOB}}}": "0x30"}, {f"cdc_listening{{{JOB}}}": "1x30"}),
    "CdcBridgeHeartbeatMissing": (
        {f"cdc_heartbeat_age_seconds{{{JOB}}}": "31x30"},
        {f"cdc_heartbeat_age_seconds{{{JOB}}}": "2x30"},
    ),
    "CdcBridgeReconnects": (
        {f"cdc_sessions_lost_total{{{JOB}}}": "0+1x30"},
        {f"cdc_sessions_lost_total{{{JOB}}}": "0x15 1x15"},
    ),
    "CdcBridgeGap": (
        {f'cdc_gaps_total{{reason="trigger",{JOB}}}': "0x25 1x5"},
        {f'cdc_gaps_total{{reason="mode",{JOB}}}': "0+1x30"},
    ),
    "CdcBridgeLogClosed": ({f"cdc_log_closed{{{JOB}}}": "1x30"}, {f"cdc_log_closed{{{JOB}}}": "0x30"}),
    "CdcBridgeLogLarge": ({f"cdc_log_bytes{{{JOB}}}": "3e9x30"}, {f"cdc_log_bytes{{{JOB}}}": "1e9x30"}),
    "CdcBridgeResyncs": (
        {f'cdc_resyncs_total{{reason="gap",{JOB}}}': "0x25 5x5"},
        {f'cdc_resyncs_total{{reason="rights",{JOB}}}': "0+1x30"},
    ),
    "CdcBridgeLagging": (
        {f"cdc_oldest_undelivered_age_seconds{{{JOB}}}": "40x30"},
        {f"cdc_oldest_undelivered_age_seconds{{{JOB}}}": "0x30"},
    ),
    "CdcBridgeSlow": (
        histogram("cdc_lag_seconds", 'cause="commit_to_socket"', fast=60, slow=60),
        histogram("cdc_lag_seconds", 'cause="commit_to_socket"', fast=60, slow=0),
    ),
    "CdcBridgeSlowPolicy": (
        histogram("cdc_policy_evaluation_seconds", 'collection="t",policy="p"', fast=60, slow=60),
        histogram("cdc_policy_evaluation_seconds", 'collection="t",policy="p"', fast=60, slow=0),
    ),
    "CdcBridgeSlowClients": (
        {f'cdc_closes_total{{by="bridge",code="1013",{JOB}}}': "0x25 1x5"},
        {f'cdc_closes_total{{by="client",code="1000",{JOB}}}': "0+5x30"},
    ),
    "CdcBridgeCursorsRefused": (
        {
            f'cdc_cursors_total{{outcome="resumed",{JOB}}}': "0+1x30",
            f'cdc_cursors_total{{outcome="gap",{JOB}}}': "0+5x30",
        },
        {
            f'cdc_cursors_total{{outcome="resumed",{JOB}}}': "0+5x30",
            f'cdc_cursors_total{{outcome="gap",{JOB}}}': "0+1x30",
        },
    ),
    "CdcBridgeTokensRefused": (
        {f'cdc_authentication_failures_total{{reason="expired",{JOB}}}': "0+10x30"},
        {f'cdc_authentication_failures_total{{reason="expired",{JOB}}}': "0+1x30"},
    ),
    "CdcBridgeReadsWait": (
        histogram("cdc_read_queue_seconds", 'kind="rows"', fast=60, slow=60),
        histogram("cdc_read_queue_seconds", 'kind="rows"', fast=60, slow=0),
    ),
    "CdcBridgeCanaryLost": (
        {f"cdc_canary_lost_total{{{JOB}}}": "0x27 1x3"},
        {f"cdc_canary_lost_total{{{JOB}}}": "0x30"},
    ),
    "CdcBridgeFewFiles": (
        {f"process_open_fds{{{JOB}}}": "95x30", f"process_max_fds{{{JOB}}}": "100x30"},
        {f"process_open_fds{{{JOB}}}": "5x30", f"process_max_fds{{{JOB}}}": "100x30"},
    ),
}


def promtool(*arguments: str) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yaml"))


def test_every_alert_has_a_case_that_fires_and_one_of_health() -> None:
    assert list(CASES) == ALERTS


def test_each_alert_fires_where_it_should_and_in_health_none_does(tmp_path: Path) -> None:
    tests: list[dict[str, Any]] = []
    for alert, (ill, healthy) in CASES.items():
        expressions = {"ill": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0', "healthy": "ALERTS"}
        for series, expression, expected in (
            (ill, expressions["ill"], [{"labels": "{}", "value": 1}]),
            (healthy, expressions["healthy"], []),
        ):
            tests.append(
                {
                    "name": f"{alert} {'fires' if expected else 'keeps quiet'}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [{"expr": expression, "eval_time": "30m", "exp_samples": expected}],
                }
            )
    cases = tmp_path / "cases.yaml"  # JSON is YAML
    cases.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(cases))


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_rules_and_dashboard_name_no_metric_that_is_not_there() -> None:
    text = RULES.read_text() + " ".join(expressions())
    named = set(re.findall(r"\bcdc_\w+", text)) - {"cdc_bridge"}
    known = {name + suffix for name in METRICS for suffix in ("", "_bucket", "_count", "_sum")}
    assert named - known == set()


def test_each_alert_is_made_to_fire_by_its_real_cause() -> None:
    """In the other module."""
    text = Path(__file__).with_name("test_fired.py").read_text()
    assert [alert for alert in ALERTS if f'"{alert}"' not in text] == []


def test_dashboard_has_panels_that_do_not_overlap() -> None:
    """As Grafana would draw them."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert cells.isdisjoint(taken), panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
