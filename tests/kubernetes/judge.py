"""Runs in `.venv-kubernetes`: answers a request on stdin, as JSON, with what Helm and the schemas of Kubernetes say.

Helm is its own Go library, without the program `helm` around it. The schemas are those of Kubernetes' releases.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import helm_python
import kubernetes_validate


def render(chart: str, values: dict[str, Any], release: str) -> dict[str, Any]:
    """Return what `helm template` would print, by file, or why it would not."""
    try:
        with helm_python.Chart.load(chart) as loaded:
            return {"files": loaded.render(values, name=release, namespace="default")}
    except helm_python.HelmError as error:
        return {"refused": str(error)}


def lint(chart: str) -> Any:
    """Return the messages of `helm lint --strict`: 1 is information, more is worse."""
    return helm_python.lint(chart, strict=True)["messages"]


def validate(documents: list[Any], versions: list[str]) -> list[str]:
    """Return what the schemas do not allow, such as fields that they do not know."""
    refused = []
    for version in versions:
        for document in documents:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                refused.append(f"{version}: {document['kind']}: {error}")
    return refused


[(request, arguments)] = json.load(sys.stdin).items()
answers: dict[str, Callable[..., Any]] = {"render": render, "lint": lint, "validate": validate}
json.dump(answers[request](**arguments), sys.stdout)
