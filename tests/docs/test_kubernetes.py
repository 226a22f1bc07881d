"""The values and the ingress of `docs/how-to/kubernetes.md`: Helm renders the first, Kubernetes takes the second."""

from __future__ import annotations

import pytest

from tests.docs.blocks import blocks
from tests.kubernetes.objects import ask, objects, one, rendered
from tests.support.process import ROOT

pytestmark = pytest.mark.once  # no database is asked

VALUES, INGRESS = (
    objects(block.text)[0] for block in blocks(ROOT / "docs" / "how-to" / "kubernetes.md") if block.language == "yaml"
)


def test_values_are_those_of_the_chart() -> None:
    found = rendered(VALUES, release="cdc-bridge")
    assert {each["kind"] for each in found} >= {"Deployment", "Job", "NetworkPolicy", "Service"}
    [container] = one(found, "Job")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["attach", "messages", "authors"]


def test_ingress_leads_to_the_service_of_the_chart() -> None:
    assert ask("validate", documents=[INGRESS], versions=["1.29", "1.37"]) == []
    found = [each for each in rendered(VALUES, release="cdc-bridge") if each["kind"] == "Service"]
    names = {(each["metadata"]["name"], port["name"]) for each in found for port in each["spec"]["ports"]}
    paths = INGRESS["spec"]["rules"][0]["http"]["paths"]
    (backend,) = (each["backend"]["service"] for each in paths if each["path"] == "/websocket")
    assert (backend["name"], backend["port"]["name"]) in names
