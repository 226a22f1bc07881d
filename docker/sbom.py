"""Write the image's bill of materials to stdout: sbom.py BRIDGE BASE, as cyclonedx-py found both environments.

To the packages of the bridge's environment it adds those beside the base image's own Python, that Python, the system
and its Debian packages, and checks the whole against the schema of CycloneDX. The packages of another system than
Debian and its kin are missing.
"""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

FIELDS = "${db:Status-Abbrev} ${Package} ${Version} ${Architecture}\n"

Component = dict[str, Any]


def component(kind: str, purl: PackageURL, **facts: str) -> Component:
    name = {"type": kind, "bom-ref": str(purl), "name": purl.name, "version": purl.version}
    return name | {"purl": str(purl)} | facts


def interpreter() -> Component:
    """Return the Python that runs this, which is the bridge's too: both environments have the same base."""
    version = platform.python_version()
    cpe = f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"
    return component("platform", PackageURL("generic", name="python", version=version), cpe=cpe)


def system() -> Iterator[Component]:
    """Yield the operating system, and each package that dpkg has installed."""
    release = platform.freedesktop_os_release()
    distribution, version = release["ID"], release.get("VERSION_ID", "rolling")
    yield {"type": "operating-system", "bom-ref": distribution, "name": distribution, "version": version}
    if shutil.which("dpkg-query") is None:
        return
    command = ["dpkg-query", "--show", "--showformat", FIELDS]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        status, package, package_version, architecture = line.split()
        if status == "ii":
            qualifiers = {"arch": architecture, "distro": f"{distribution}-{version}"}
            yield component("library", PackageURL("deb", distribution, package, package_version, qualifiers))


def main(bridge: str, base: str) -> None:
    document, beside = (json.loads(Path(path).read_text()) for path in (bridge, base))
    found = [*document["components"], *beside.get("components", ()), interpreter(), *system()]
    document["components"] = list({each["bom-ref"]: each for each in found}.values())
    text = json.dumps(document, indent=1)
    if error := JsonStrictValidator(SchemaVersion.from_version(document["specVersion"])).validate_str(text):
        sys.exit(f"not valid CycloneDX: {error}")
    print(text)


main(*sys.argv[1:])
