"""The chart, rendered by Helm, and the manifest of a sidecar: what Kubernetes takes, and what they promise."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from cdc_bridge.cli.serve import GRACE_S
from cdc_bridge.settings import Settings, load
from cdc_bridge.settings.declaration import variable
from tests.docs.blocks import blocks
from tests.docs.shell import check
from tests.kubernetes.objects import (
    CHART,
    SIDECAR,
    Object,
    ask,
    container_named,
    containers,
    objects,
    one,
    pods,
    rendered,
    variables,
)
from tests.support.process import ROOT

PAGE = ROOT / "docs" / "how-to" / "kubernetes.md"
SECRET = "a secret of some thirty-two bytes"
MONITORED = {"metrics": {"enabled": True, "annotations": True, "serviceMonitor": {"enabled": True}}}
CLIENTS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]
CASES: dict[str, Mapping[str, Any]] = {
    "as it is": {},
    "watched": MONITORED,
    "closed": MONITORED | {"networkPolicy": {"enabled": True, "clients": CLIENTS}},
    "with TLS": {"tls": {"secretName": "bridge-tls"}, "service": {"type": "LoadBalancer", "port": 443}},
    "patient": {"preStopSeconds": 10, "settings": {"drain_s": 60, "shutdown_timeout_s": 7.25}},
    "alone": {"replicas": 1, "attach": {"enabled": False}},
    "settled": {
        "secrets": {"jwtSecret": None},
        "settings": {
            "jwt_jwks_url": "https://issuer.example/keys",
            "retention_bytes": 8_589_934_592,
            "allowed_origins": ["https://shop.example", "https://www.shop.example"],
            "inspector": "off",
            "compression": False,
        },
        "extraEnv": [{"name": "PGSSLMODE", "value": "require"}],
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"team": "shop"},
    },
}
CHART_KUBERNETES = ["1.27", "1.29", "1.31", "1.33", "1.35", "1.37"]
SIDECAR_KUBERNETES = CHART_KUBERNETES[1:]


@pytest.fixture(scope="module", params=CASES)
def chart(request: pytest.FixtureRequest) -> list[Object]:
    """Return the objects that Helm renders with some values."""
    return rendered(CASES[request.param])


@pytest.fixture(scope="module")
def sidecar() -> list[Object]:
    return objects(SIDECAR.read_text())


@pytest.fixture(scope="module", params=["sidecar.yaml", *CASES])
def either(request: pytest.FixtureRequest) -> list[Object]:
    """Return the objects of the manifest, or of the chart with some values."""
    return objects(SIDECAR.read_text()) if request.param == "sidecar.yaml" else rendered(CASES[request.param])


def deployment(found: list[Object]) -> Object:
    return one(found, "Deployment")["spec"]["template"]["spec"]


def test_helm_finds_nothing_to_mend() -> None:
    assert [each for each in ask("lint", chart=str(CHART)) if each["severity"] > 1] == []


def test_kubernetes_takes_what_the_chart_makes(chart: list[Object]) -> None:
    """All but the ServiceMonitor, which is not Kubernetes' own."""
    own = [each for each in chart if each["kind"] != "ServiceMonitor"]
    assert ask("validate", documents=own, versions=CHART_KUBERNETES) == []


def test_kubernetes_takes_the_sidecar(sidecar: list[Object]) -> None:
    assert ask("validate", documents=sidecar, versions=SIDECAR_KUBERNETES) == []


def test_pod_is_given_the_time_to_drain(either: list[Object]) -> None:
    pod = deployment(either)
    bridge = container_named("bridge", either)
    settings = {name: variables(bridge).get(variable(name)) for name in ("drain_s", "shutdown_timeout_s")}
    given = Settings.model_validate({name: value for name, value in settings.items() if value})
    [_, pause] = bridge["lifecycle"]["preStop"]["exec"]["command"]
    takes_s = float(pause) + given.drain_s + given.shutdown_timeout_s + GRACE_S
    assert pod["terminationGracePeriodSeconds"] > takes_s


def test_pods_have_no_privilege(either: list[Object]) -> None:
    for pod in pods(either):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            if container["name"] != "application":
                assert (pod["securityContext"] | allowed)["runAsUser"] == 10001
                assert allowed["readOnlyRootFilesystem"] is True
                assert container["resources"]["requests"]
                assert container["resources"]["limits"]["memory"]


def test_secrets_are_named_and_the_owner_role_only_attaches(either: list[Object]) -> None:
    for container in (each for pod in pods(either) for each in containers(pod) if each["name"] != "application"):
        secret = {
            each["name"]: each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"] if "value" not in each
        }
        assert secret["CDC_BRIDGE_DSN"] == ("dsn" if container["name"] == "bridge" else "owner-dsn")
        assert not {"CDC_BRIDGE_DSN", "CDC_BRIDGE_JWT_SECRET"} & variables(container).keys()


def test_command_line_takes_the_arguments(either: list[Object]) -> None:
    found = [each["args"] for pod in pods(either) for each in containers(pod) if each["name"] != "application"]
    assert ["serve"] in found
    for arguments in found:
        check(arguments)


def test_bridge_takes_the_settings(either: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = container_named("bridge", either)
    given = variables(bridge)
    known = {variable(name): name for name in Settings.model_fields}
    assert {name for name in given if name.startswith("CDC_BRIDGE_")} <= known.keys()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CDC_BRIDGE_JWT_SECRET", SECRET)
    settings = load({})
    ports = {each["name"]: each["containerPort"] for each in bridge["ports"]}
    assert ports == {"websocket": settings.port} | ({"metrics": settings.metrics_port} if settings.metrics_port else {})
    assert settings.host == "0.0.0.0"
    assert settings.behind_proxy != bool(settings.tls_certificate)


def test_settings_that_are_no_text_arrive_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helm takes every number for a float, and would write 8.589934592e+09."""
    for name, value in variables(container_named("bridge", rendered(CASES["settled"]))).items():
        monkeypatch.setenv(name, value)
    settings = load({})
    assert settings.retention_bytes == 8_589_934_592
    assert list(settings.allowed_origins) == ["https://shop.example", "https://www.shop.example"]
    assert settings.compression is False


def test_probes_ask_whether_it_is_alive_and_whether_it_is_ready(chart: list[Object]) -> None:
    bridge = container_named("bridge", chart)
    probes = {name: bridge[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert {name: each["path"] for name, each in probes.items()} == {
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    scheme = "HTTPS" if "CDC_BRIDGE_TLS_CERTIFICATE" in variables(bridge) else "HTTP"
    assert {(each["port"], each["scheme"]) for each in probes.values()} == {("websocket", scheme)}


def test_application_stays_in_service_while_a_bridge_is_not_ready(sidecar: list[Object]) -> None:
    bridge = container_named("bridge", sidecar)
    assert {bridge[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")} == {"/healthz"}


def test_sidecar_starts_before_the_application_and_after_capture_is_there(sidecar: list[Object]) -> None:
    attach, bridge = deployment(sidecar)["initContainers"]
    assert attach["args"][0] == "attach"
    assert "restartPolicy" not in attach
    assert bridge["restartPolicy"] == "Always"


def test_selectors_choose_the_bridges_and_nothing_else(either: list[Object]) -> None:
    def chooses(selector: Object, labels: Object) -> bool:
        return selector.items() <= labels.items()

    found = one(either, "Deployment")
    labels = found["spec"]["template"]["metadata"]["labels"]
    others = [each["spec"]["template"]["metadata"]["labels"] for each in either if each["kind"] == "Job"]
    selectors = [found["spec"]["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in either if each["kind"] == "Service"]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in either if each["kind"] == "PodDisruptionBudget"]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in either if each["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert chooses(selector, labels)
        assert not any(chooses(selector, each) for each in others)


def test_services_lead_to_ports_that_there_are(either: list[Object]) -> None:
    named = {port["name"] for each in containers(deployment(either)) for port in each.get("ports", ())}
    for service in (each for each in either if each["kind"] == "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for policy in (each for each in either if each["kind"] == "NetworkPolicy"):
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= named


def test_service_monitor_finds_the_metrics() -> None:
    found = rendered(CASES["watched"])
    monitor = one(found, "ServiceMonitor")["spec"]
    chosen = monitor["selector"]["matchLabels"].items()
    services = [each for each in found if each["kind"] == "Service"]
    [service] = [each for each in services if chosen <= each["metadata"]["labels"].items()]
    assert [each["port"] for each in monitor["endpoints"]] == [each["name"] for each in service["spec"]["ports"]]


def test_metrics_are_shown_to_nobody_unless_they_are_asked_for() -> None:
    found = rendered()
    assert {each["kind"] for each in found} == {"Deployment", "Job", "PodDisruptionBudget", "Service"}
    assert [port["name"] for port in one(found, "Service")["spec"]["ports"]] == ["websocket"]
    assert not any(
        "prometheus" in name for name in one(found, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    )


def test_one_of_two_bridges_is_kept(either: list[Object]) -> None:
    found = one(either, "Deployment")["spec"]
    assert found["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    budgets = [each["spec"]["maxUnavailable"] for each in either if each["kind"] == "PodDisruptionBudget"]
    assert budgets == ([1] if found["replicas"] > 1 else [])


def test_capture_is_installed_before_the_bridges() -> None:
    job = one(rendered(), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"replica": 3}, "'replica' not allowed"),
        ({"settings": {"dsn": "postgresql://cdc_bridge:secret@db/shop"}}, "invalid propertyName 'dsn'"),
        ({"settings": {"port": 1}}, "invalid propertyName 'port'"),
        ({"settings": {"drain_s": "5s"}}, "/settings/drain_s"),
        ({"settings": {"inspector": True}}, "/settings/inspector"),
        ({"secrets": {"dsn": {"name": "x"}}, "attach": {"arguments": []}}, "/attach/arguments"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: Mapping[str, Any], why: str) -> None:
    assert why in ask("render", chart=str(CHART), values=values, release="shop")["refused"]


def test_page_shows_values_and_objects_that_are_taken() -> None:
    shown = [yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "yaml"]
    [values] = [each for each in shown if "apiVersion" not in each]
    found = [each for each in [*shown, *rendered(values)] if "apiVersion" in each]
    assert ask("validate", documents=found, versions=CHART_KUBERNETES) == []


def test_names_fit_whatever_the_release_is_called() -> None:
    for release in ("cdc-bridge", "shop", "a" * 53):
        for each in rendered(CASES["watched"], release):
            assert len(each["metadata"]["name"]) <= 63
    assert {each["metadata"]["name"] for each in rendered(release="cdc-bridge")} == {"cdc-bridge", "cdc-bridge-attach"}


def test_images_are_those_of_this_version(sidecar: list[Object]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version
    images = {each["image"] for each in containers(deployment(sidecar)) if each["name"] != "application"}
    assert images == {f"registry.example/cdc-bridge:{version}"}
