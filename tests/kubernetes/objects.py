"""Objects of Kubernetes as deploy/ has them: those of the chart as Helm renders it, and those of the manifest."""

import functools
import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.support.process import ROOT

CHART = ROOT / "deploy" / "helm" / "cdc-bridge"
SIDECAR = ROOT / "deploy" / "kubernetes" / "sidecar.yaml"
PYTHON = ROOT / ".venv-kubernetes" / "bin" / "python"
JUDGE = ROOT / "tests" / "kubernetes" / "judge.py"

Object = dict[str, Any]


class OnceOnly(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, as Kubernetes does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
        return super().construct_mapping(node, deep)


def objects(text: str) -> list[Object]:
    return [each for each in yaml.load_all(text, OnceOnly) if each]


def ask(request: str, **arguments: Any) -> Any:
    """Ask Helm or the schemas of Kubernetes (judge.py). Skips the test where they are not installed."""
    if not PYTHON.exists():
        pytest.skip(
            "ATTENTION: Helm and the schemas of Kubernetes are not installed, so deploy/helm was not tested:"
            " make .venv-kubernetes/installed"
        )
    return json.loads(_answer(json.dumps({request: arguments})))


@functools.cache
def _answer(request: str) -> str:
    command = [str(PYTHON), "-I", str(JUDGE)]
    return subprocess.run(command, input=request, capture_output=True, text=True, timeout=100, check=True).stdout


def rendered(values: Mapping[str, Any] | None = None, release: str = "shop") -> list[Object]:
    """Return the objects of the chart, without its notes for people."""
    answer = ask("render", chart=str(CHART), values=dict(values or {}), release=release)
    assert "refused" not in answer, answer
    return [each for path, text in answer["files"].items() if path.endswith(".yaml") for each in objects(text)]


def one(found: list[Object], kind: str) -> Object:
    [each] = [each for each in found if each["kind"] == kind]
    return each


def pods(found: list[Object]) -> Iterator[Object]:
    """Return the specifications of their pods."""
    for each in found:
        if each["kind"] in {"Deployment", "Job"}:
            yield each["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def container_named(name: str, found: list[Object]) -> Object:
    [container] = [each for pod in pods(found) for each in containers(pod) if each["name"] == name]
    return container


def variables(container: Object) -> dict[str, str]:
    """Return the environment of a container, without what secrets hold."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}
