"""The bill of materials in the image is valid, and names what is in the image."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.docker.engine import Engine

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the images

SBOM = "/opt/cdc-bridge/sbom.cdx.json"

EVERY_DISTRIBUTION = """
import json, os, pathlib, importlib.metadata as m
found = (
    m.PathDistribution(pathlib.Path(folder, name))
    for top in ("/etc", "/home", "/opt", "/root", "/srv", "/usr", "/var")
    for folder, names, _ in os.walk(top)
    for name in names
    if name.endswith((".dist-info", ".egg-info"))
)
print(json.dumps(sorted([d.metadata["Name"], d.version] for d in found)))
"""
"""Looks at files and not at a Python's path, so that nothing is missed that some other Python would find."""


@pytest.fixture(scope="module")
def sbom(engine: Engine, sidecar_name: str) -> Any:
    return json.loads(engine("run", "--rm", "--entrypoint", "cat", sidecar_name, SBOM))


def purls(sbom: Any, kind: str) -> dict[str, str]:
    """Names and versions of the components with package URLs of this kind."""
    return {c["name"]: c["version"] for c in sbom["components"] if c.get("purl", "").startswith(f"pkg:{kind}/")}


def test_it_is_valid_cyclonedx(sbom: Any) -> None:
    validator = JsonStrictValidator(SchemaVersion.from_version(sbom["specVersion"]))
    assert validator.validate_str(json.dumps(sbom)) is None


def test_it_names_each_installed_distribution_and_no_other(engine: Engine, sidecar_name: str, sbom: Any) -> None:
    python = ("/opt/cdc-bridge/bin/python", sidecar_name, "-I", "-c", EVERY_DISTRIBUTION)
    installed = dict(json.loads(engine("run", "--rm", "--entrypoint", *python)))
    bridge = sbom["metadata"]["component"]
    assert {bridge["name"]: bridge["version"]} | purls(sbom, "pypi") == installed
    assert {"cdc_bridge", "psycopg", "websockets"} <= installed.keys()


def test_it_names_python_and_the_packages_of_the_system(engine: Engine, sidecar_name: str, sbom: Any) -> None:
    look = "import platform; print(platform.python_version(), platform.freedesktop_os_release()['ID'])"
    python = ("/opt/cdc-bridge/bin/python", sidecar_name, "-I", "-c", look)
    version, system = engine("run", "--rm", "--entrypoint", *python).split()
    assert purls(sbom, "generic") == {"python": version}
    assert [c["name"] for c in sbom["components"] if c["type"] == "operating-system"] == [system]
    command = ("dpkg-query", sidecar_name, "--show", "--showformat", "${Package} ${Version}\n")
    assert purls(sbom, "deb") == dict(
        line.split() for line in engine("run", "--rm", "--entrypoint", *command).splitlines()
    )


def test_it_says_what_depends_on_what(sbom: Any) -> None:
    depends = {each["ref"]: each.get("dependsOn", []) for each in sbom["dependencies"]}
    known = {each["bom-ref"] for each in sbom["components"]}
    direct = depends[sbom["metadata"]["component"]["bom-ref"]]
    assert {name.partition("==")[0] for name in direct} >= {"websockets", "psycopg", "uvloop"}
    assert {each for names in depends.values() for each in names} <= known
