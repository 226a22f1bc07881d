"""docker/compose.yaml brings up all that it names, on loopback, and each part finds the others."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from tests.docker.container import SECRET, STARTS_WITHIN_S, Container
from tests.docker.engine import COMPOSE, CommandFailed, Engine, companion_image, official_image, why_missing
from tests.monitoring.test_rules import ALERTS, DASHBOARD
from tests.support.wsclient import connected

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the images

SCRAPED_WITHIN_S = 60

Compose = Callable[..., str]


@pytest.fixture(scope="module")
def prometheus_name(engine: Engine, base: str) -> str:
    return companion_image(engine, base, "prometheus")


@pytest.fixture(scope="module")
def compose(engine: Engine, sidecar_name: str, postgres_name: str, prometheus_name: str) -> Iterator[Compose]:
    """`docker compose` with our file, in a project of its own, on any free ports."""
    try:
        engine("compose", "version")
    except CommandFailed:
        pytest.skip("ATTENTION: docker/compose.yaml was NOT tested: there is no `docker compose` here")
    project = f"cdc-bridge-test-{secrets.token_hex(4)}"
    values = {"PUBLISHED_PORT": "", "PROMETHEUS_PORT": "", "GRAFANA_PORT": ""}
    values |= {"CDC_BRIDGE_IMAGE": sidecar_name, "POSTGRES_IMAGE": postgres_name, "PROMETHEUS_IMAGE": prometheus_name}

    def compose(*arguments: str, secret: str = SECRET) -> str:
        command = ("compose", "--project-name", project, "--file", str(COMPOSE), "--env-file", "/dev/null", *arguments)
        return engine(*command, timeout=180, CDC_BRIDGE_JWT_SECRET=secret, **values)

    yield compose
    compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def service(engine: Engine, compose: Compose) -> Callable[[str], Container]:
    """Return the container of a service. All run but Grafana, whose image is not to be had everywhere."""
    compose("up", "--detach", "--no-build", "--quiet-pull", "attach", "application", "bridge", "prometheus")
    return lambda name: Container(engine, compose("ps", "--all", "--quiet", name))


def test_it_has_no_secret_of_its_own(compose: Compose) -> None:
    with pytest.raises(CommandFailed, match="CDC_BRIDGE_JWT_SECRET"):
        compose("config", secret="")


def test_it_publishes_on_loopback_only(compose: Compose) -> None:
    services = json.loads(compose("config", "--format", "json"))["services"]
    published = {name: [port["host_ip"] for port in each.get("ports", ())] for name, each in services.items()}
    loopback = ["127.0.0.1"]
    assert {name: hosts for name, hosts in published.items() if hosts} == {
        "bridge": loopback,
        "grafana": loopback,
        "prometheus": loopback,
    }


async def test_what_the_application_writes_reaches_a_subscriber(
    engine: Engine, service: Callable[[str], Container]
) -> None:
    bridge = service("bridge")
    assert engine("wait", service("attach").name) == "0"
    bridge.until(bridge.is_ready, STARTS_WITHIN_S)
    async with connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "messages", "query": {"fields": ["text"]}})
        await client.expect(event="init")
        [message] = (await client.expect(event="create"))["data"]
        assert message["text"].startswith("It is ")


async def test_what_somebody_writes_by_hand_reaches_a_subscriber(service: Callable[[str], Container]) -> None:
    bridge = service("bridge")
    bridge.until(bridge.is_ready, STARTS_WITHIN_S)
    async with connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "rooms", "query": {"fields": ["name"]}})
        await client.expect(event="init")
        await asyncio.to_thread(service("postgres").psql, "INSERT INTO rooms (name) VALUES ('cellar')")
        await client.expect(event="create", data=[{"name": "cellar"}])


def test_inspector_is_at_the_published_port(service: Callable[[str], Container]) -> None:
    bridge = service("bridge")
    bridge.until(bridge.is_ready, STARTS_WITHIN_S)
    assert "<html" in bridge.get("/")


def test_prometheus_scrapes_the_bridge_and_knows_the_alerts(service: Callable[[str], Container]) -> None:
    prometheus = service("prometheus")

    def is_scraped() -> bool:
        with contextlib.suppress(OSError):  # it is still starting
            result = json.loads(prometheus.get("/api/v1/query?query=cdc_ready"))["data"]["result"]
            return [each["value"][1] for each in result] == ["1"]
        return False

    prometheus.until(is_scraped, SCRAPED_WITHIN_S)
    [group] = json.loads(prometheus.get("/api/v1/rules"))["data"]["groups"]
    assert [rule["name"] for rule in group["rules"]] == ALERTS
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}  # unknown: not evaluated yet


def test_application_ends_when_it_is_asked(engine: Engine, service: Callable[[str], Container]) -> None:
    application = service("application")
    engine("stop", application.name)
    assert application.facts["State"]["ExitCode"] == 0, application.logs


def test_grafana_shows_the_dashboard(engine: Engine, compose: Compose, service: Callable[[str], Container]) -> None:
    """Its data source answers, too."""
    if why := why_missing(engine, official_image("grafana")):
        pytest.skip(f"ATTENTION: Grafana of docker/compose.yaml was NOT run: {why}")
    compose("up", "--detach", "--no-build", "grafana")
    grafana = service("grafana")

    def has_started() -> bool:
        with contextlib.suppress(OSError):
            return bool(json.loads(grafana.get("/api/health"))["database"] == "ok")
        return False

    grafana.until(has_started, SCRAPED_WITHIN_S)
    uid = json.loads(DASHBOARD.read_text())["uid"]
    assert json.loads(grafana.get(f"/api/dashboards/uid/{uid}"))["meta"]["provisioned"]
    found = grafana.get("/api/datasources/proxy/uid/prometheus/api/v1/query?query=cdc_ready")
    assert json.loads(found)["data"]["result"]


def mounts(name: str) -> dict[str, str]:
    """Return the files of ours that a service mounts, by their paths in its container."""
    volumes = yaml.safe_load(COMPOSE.read_text())["services"][name]["volumes"]
    sources = [each.split(":") for each in volumes]
    return {inside: source for source, inside, *_ in sources if source.startswith(".")}


def provisioned(kind: str) -> Any:
    [source] = [source for inside, source in mounts("grafana").items() if f"/provisioning/{kind}/" in inside]
    return yaml.safe_load((COMPOSE.parent / source).read_text())


def test_grafana_is_told_where_the_dashboard_and_prometheus_are() -> None:
    """As far as files can tell it: this needs no engine."""
    [provider] = provisioned("dashboards")["providers"]
    [dashboard] = [inside for inside, source in mounts("grafana").items() if source.endswith(DASHBOARD.name)]
    assert str(PurePosixPath(dashboard).parent) == provider["options"]["path"]
    grafana = yaml.safe_load(COMPOSE.read_text())["services"]["grafana"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard

    [source] = provisioned("datasources")["datasources"]
    variables = {each["name"]: each for each in json.loads(DASHBOARD.read_text())["templating"]["list"]}
    assert source["type"] == variables["datasource"]["query"] == "prometheus"
    assert source["isDefault"]
    assert source["url"] == "http://prometheus:9090"


def test_all_mounted_files_are_there() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    sources = [s for name, each in services.items() if "volumes" in each for s in mounts(name).values()]
    assert len(sources) >= 7
    for source in sources:
        assert (COMPOSE.parent / source).is_file(), source
