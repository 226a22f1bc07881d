"""A container, as the tests look at it."""

import contextlib
import json
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cdc_bridge.access.authenticator import mint
from tests.docker.engine import CommandFailed, Engine

HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
PASSWORD = "p@ss/word%"
SECRET = secrets.token_hex(32)
STARTS_WITHIN_S = 30


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
        """Return host and port at which its one port is published."""
        [[published]] = [ports for ports in self.facts["NetworkSettings"]["Ports"].values() if ports]
        return published["HostIp"], int(published["HostPort"])

    @property
    def bare_url(self) -> str:
        return "ws://{}:{}/websocket".format(*self.address)

    @property
    def url(self) -> str:
        """Return the address with a token for the role `web`."""
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

    def get(self, path: str) -> str:
        """Return what its published port answers. Raises `OSError`, for refusals too."""
        host, port = self.address
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=5) as response:
            return response.read().decode()

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            self.get("/readyz")
            return True
        return False

    def psql(self, statement: str, database: str = "postgres") -> str:
        options = ("--username=postgres", f"--dbname={database}", "--set=ON_ERROR_STOP=1", "--tuples-only")
        return self.execute("psql", *options, f"--command={statement}")

    def takes_statements(self) -> bool:
        with contextlib.suppress(CommandFailed):
            return bool(self.execute("pg_isready", "--host=127.0.0.1", "--username=postgres"))
        return False


@contextlib.contextmanager
def container(engine: Engine, network: str, image: str, *rest: str, options: Any = ()) -> Iterator[Container]:
    """Run a container with these arguments, and remove it with its data at the end."""
    name = f"{network}-{secrets.token_hex(4)}"
    try:
        engine("run", "--detach", "--name", name, "--network", network, *options, image, *rest)
        yield Container(engine, name)
    finally:
        engine("rm", "--force", "--volumes", name)
