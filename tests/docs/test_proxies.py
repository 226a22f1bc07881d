"""The configurations of `docs/how-to/proxies.md`, as they stand there, in front of two bridges and an application.

Only ports, files and idle timeouts are others: timeouts are shorter than the test, so that the heartbeat shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from cdc_bridge.access.authenticator import mint
from tests.docs.blocks import blocks
from tests.support.attach import attach
from tests.support.bridge import BridgeProcess
from tests.support.certificate import Pair, make_pair
from tests.support.process import ROOT, find_program, free_port, running
from tests.support.rolling import INSERT, TABLE, Client
from tests.support.server import Database

pytestmark = pytest.mark.once  # nothing in it depends on the server's version

PAGE = ROOT / "docs" / "how-to" / "proxies.md"
BLOCKS = {block.language: block.text for block in blocks(PAGE)}
SECRET = "a secret that has thirty-two bytes"
CLIENTS = 6
ROWS = 50
IDLE_S = 1
PING_S = 0.3
ANSWERS_WITHIN_S = 20.0
ORIGIN = Origin("https://app.example.com")


@dataclass(frozen=True, slots=True)
class Ports:
    """`public` is the proxy's."""

    public: int
    application: int
    bridges: tuple[int, int]

    def put_into(self, text: str) -> str:
        for written, here in ((8765, self.bridges[0]), (8766, self.bridges[1]), (8000, self.application)):
            text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{here}")
        return text.replace(" 60s", f" {IDLE_S}s")


def nginx(folder: Path, ports: Ports, pair: Pair) -> list[str]:
    text = ports.put_into(BLOCKS["nginx"]).replace("listen 443 ssl", f"listen 127.0.0.1:{ports.public} ssl")
    text = re.sub(
        r"/etc/ssl/private/\S+\.key", str(pair.key), re.sub(r"/etc/ssl/app\S+\.crt", str(pair.certificate), text)
    )
    temporary = "".join(
        f"{each}_temp_path {folder};\n" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{text}\n}}"
    )
    return ["-p", str(folder), "-e", "stderr", "-c", str(file)]


def haproxy(folder: Path, ports: Ports, pair: Pair) -> list[str]:
    text = ports.put_into(BLOCKS["haproxy"]).replace("bind :443", f"bind 127.0.0.1:{ports.public}")
    file = folder / "haproxy.cfg"
    file.write_text(re.sub(r"/etc/haproxy/\S+\.pem", str(pair.joined()), text))
    return ["-q", "-db", "-f", str(file)]


def caddy(folder: Path, ports: Ports, pair: Pair) -> list[str]:
    own = f"https://127.0.0.1:{ports.public} {{\n    tls {pair.certificate} {pair.key}"
    text = ports.put_into(BLOCKS["caddy"]).replace("app.example.com {", own)
    file = folder / "Caddyfile"
    file.write_text(f"{{\n admin off\n auto_https disable_redirects\n storage file_system {folder}/caddy\n}}\n{text}")
    return ["run", "--adapter", "caddyfile", "--config", str(file)]


PROXIES = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy}


async def test_proxies_pass_everything_on(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in front of the same bridges, each with clients of its own."""
    pair = make_pair(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pair.certificate))
    programs = {name: find_program(name) for name in PROXIES}
    bridges, application = (free_port(), free_port()), free_port()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_application(application))
        with _reader(database) as role:
            serving = [await stack.enter_async_context(_bridge(database, role, tmp_path, port)) for port in bridges]
            behind = []
            for name, program in programs.items():
                if program:
                    ports = Ports(free_port(), application, bridges)
                    command = program, *PROXIES[name](tmp_path, ports, pair)
                    await stack.enter_async_context(
                        running(*command, cwd=tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path)})
                    )
                    behind.append(ports.public)
            for port in behind:
                await _passes_on(port, pair.trusting)
                await _pages_of_others_are_refused(port, pair.trusting)
            token = mint(SECRET, {"role": role})
            urls = [f"wss://127.0.0.1:{port}/websocket?access_token={token}" for port in behind]
            await _nobody_misses_a_row(database, urls, serving[0])
    if missing := [name for name, program in programs.items() if not program]:
        pytest.skip(f"ATTENTION: not installed (Debian has them), so NOT tried as the pages say: {', '.join(missing)}")


@contextlib.asynccontextmanager
async def _application(port: int) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port):
        yield


@contextlib.contextmanager
def _reader(database: Database) -> Iterator[str]:
    """Make the role of the clients. Roles belong to the whole server, so it is dropped."""
    role = f"web_{database.name}"
    database.execute(f"{TABLE}; CREATE ROLE {role}; GRANT SELECT ON t TO {role}")
    attach(database, "t")
    yield role
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@contextlib.asynccontextmanager
async def _bridge(database: Database, role: str, folder: Path, port: int) -> AsyncIterator[BridgeProcess]:
    """Run a bridge with the settings of the page."""
    file = folder / "cdc-bridge.toml"
    file.write_text(BLOCKS["toml"].replace('"web"', f'"{role}"'))
    arguments = "--config", str(file), "--port", str(port), "--ping-interval-s", str(PING_S), "--drain-s", "1"
    async with BridgeProcess(database.dsn, *arguments, env={"CDC_BRIDGE_JWT_SECRET": SECRET}) as bridge:
        await bridge.ready()
        yield bridge


async def _passes_on(port: int, trusting: ssl.SSLContext) -> None:
    """Wait until a bridge answers through the proxy; the application does so, too."""
    async with asyncio.timeout(ANSWERS_WITHIN_S):
        while True:
            with contextlib.suppress(OSError, InvalidStatus):
                async with connect(f"wss://127.0.0.1:{port}/websocket", ssl=trusting, origin=ORIGIN):
                    break
            await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    writer.write(b"GET /page HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b"hello")
    writer.close()


async def _pages_of_others_are_refused(port: int, trusting: ssl.SSLContext) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"wss://127.0.0.1:{port}/websocket", ssl=trusting, origin=Origin("https://evil.example"))
    assert refused.value.response.status_code == 403


async def _nobody_misses_a_row(database: Database, urls: list[str], ends: BridgeProcess) -> None:
    """Let clients follow through the proxies while nothing moves, and while one of the bridges ends."""
    fleet = [Client() for _ in range(CLIENTS * len(urls))]
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(60):
        following = [
            tasks.create_task(client.follow(url)) for client, url in zip(fleet, itertools.cycle(urls), strict=False)
        ]
        await asyncio.gather(*(client.begun.wait() for client in fleet))
        await asyncio.sleep(2.5 * IDLE_S)  # what is tested is that nothing happens
        assert [client.closes for client in fleet] == [0] * len(fleet)
        ends.terminate()
        for number in range(ROWS):
            await asyncio.to_thread(database.execute, INSERT, [number])
        assert await ends.wait() == 0
        while any(len(client.seen) < ROWS for client in fleet):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for each in following:
            each.cancel()
    assert [(client.duplicates, client.fresh) for client in fleet] == [(0, 0)] * len(fleet)
    assert 0 < sum(client.closes for client in fleet) < len(fleet)
