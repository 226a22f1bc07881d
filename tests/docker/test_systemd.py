"""deploy/cdc-bridge.service under a real systemd, which confines the bridge as the unit says."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.docker.container import PASSWORD, SECRET, STARTS_WITHIN_S, Container, container
from tests.docker.engine import IMAGES, ROOT, CommandFailed, Engine
from tests.support.wsclient import connected

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the images

UNIT = "cdc-bridge.service"
CONFIG = "/etc/cdc-bridge/cdc-bridge.toml"
SETTINGS = f"""
dsn = "postgresql://postgres:{quote(PASSWORD, safe="")}@postgres/postgres"
host = "0.0.0.0"
insecure_bind = true
jwt_secret = "{SECRET}"
roles = ["web"]
"""
OLD_CGROUPS = "SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
"""Without it a recent systemd refuses to run on control groups of version 1."""


@pytest.fixture(scope="module")
def machine(engine: Engine, network: str, postgres: Container, base: str, sidecar_name: str) -> Iterator[Container]:
    """A container in which systemd is the first process, with the unit and its configuration."""
    if engine.address is None:
        pytest.skip("systemd needs a privileged container, which is started in an engine of our own only")
    arguments = ("--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BRIDGE_IMAGE={sidecar_name}")
    image = engine.build("cdc-bridge-test-systemd", IMAGES / "systemd", *arguments)
    options = ["--privileged", "--cgroupns", "private", "--tmpfs", "/run", "--tmpfs", "/tmp"]
    options += ["--volume", f"{ROOT}/deploy/{UNIT}:/etc/systemd/system/{UNIT}:ro", "--publish", "127.0.0.1::8765"]
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        options += ["--env", OLD_CGROUPS]
    with container(engine, network, image, options=options) as machine:
        machine.until(lambda: listens_to_systemctl(machine), STARTS_WITHIN_S)
        write = f'printf "%s" "$0" >{CONFIG} && chgrp cdc-bridge {CONFIG} && chmod 640 {CONFIG}'
        machine.execute("sh", "-c", write, SETTINGS)
        yield machine


def listens_to_systemctl(machine: Container) -> bool:
    with contextlib.suppress(CommandFailed):
        return bool(machine.execute("systemctl", "list-units"))
    return False


def shown(machine: Container, name: str) -> str:
    return machine.execute("systemctl", "show", "--property", name, "--value", UNIT)


async def test_unit_serves_reloads_and_drains(machine: Container, postgres: Container) -> None:
    machine.execute("/opt/cdc-bridge/bin/cdc-bridge", "attach", "messages", "--config", CONFIG)
    machine.execute("systemctl", "start", UNIT)
    machine.until(machine.is_ready, STARTS_WITHIN_S)
    async with connected(machine.url) as client:
        await client.send({"type": "subscribe", "collection": "messages"})
        await client.expect(event="init")
        await asyncio.to_thread(machine.execute, "systemctl", "reload", UNIT)
        assert shown(machine, "ActiveState") == "active"
        await asyncio.to_thread(postgres.psql, "INSERT INTO messages VALUES (47, 'under systemd')")
        await client.expect(event="create", data=[{"id": 47, "text": "under systemd"}])
        await asyncio.to_thread(machine.execute, "systemctl", "stop", UNIT)
        assert await client.closed() == 1012
    assert shown(machine, "Result") == "success"
    assert shown(machine, "ExecMainStatus") == "0"


def test_unit_confines_the_bridge(machine: Container) -> None:
    machine.execute("systemctl", "start", UNIT)
    machine.until(machine.is_ready, STARTS_WITHIN_S)
    process = shown(machine, "MainPID")
    lines = machine.execute("cat", f"/proc/{process}/status").splitlines()
    status = {name: value.split() for name, value in (line.split(":", 1) for line in lines)}
    assert "0" not in status["Uid"]
    assert {int(status[name][0], 16) for name in ("CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]  # a filter
    root = next(line for line in machine.execute("cat", f"/proc/{process}/mounts").splitlines() if " / " in line)
    assert "ro" in root.split()[3].split(",")


def test_systemd_starts_a_bridge_again_that_was_killed(machine: Container) -> None:
    machine.execute("systemctl", "start", UNIT)
    machine.execute("systemctl", "kill", "--signal", "KILL", UNIT)
    machine.until(lambda: shown(machine, "NRestarts") == "1" and machine.is_ready(), STARTS_WITHIN_S)
