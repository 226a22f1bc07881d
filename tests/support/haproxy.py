"""The installed HAProxy in front of bridges, as `docs/docker.md` configures it."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import free_port, require_program

CONFIGURATION = """\
global
    maxconn 4000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    retries 3
    retry-on conn-failure empty-response 503
    option redispatch 1
frontend public
    bind 127.0.0.1:{port}
    default_backend bridges
frontend figures
    bind 127.0.0.1:{figures_port}
    stats enable
    stats uri /
backend bridges
    balance leastconn
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 500ms fall 1 rise 1
"""
UP_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class HAProxy:
    """`url` is for WebSocket clients."""

    url: str
    _figures_url: str

    async def sees_all_up(self) -> None:
        """Wait until it sends clients to every bridge. Nothing but asking tells."""
        async with asyncio.timeout(UP_WITHIN_S):
            while set(await asyncio.to_thread(self._states)) != {"UP"}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def _states(self) -> list[str]:
        """What it thinks of each bridge; nothing when it does not answer yet."""
        try:
            with urllib.request.urlopen(f"{self._figures_url}/;csv", timeout=5) as response:
                rows = list(csv.DictReader(io.StringIO(response.read().decode().removeprefix("# "))))
        except OSError:
            return []
        return [row["status"] for row in rows if row["pxname"] == "bridges" and row["svname"] != "BACKEND"]


@contextlib.asynccontextmanager
async def haproxy(directory: Path, ports: Sequence[int]) -> AsyncIterator[HAProxy]:
    """HAProxy in front of the bridges that listen, or will listen, on these ports."""
    program = require_program("haproxy", "no deployment behind it was tried")
    port, figures_port = free_port(), free_port()
    servers = [f"    server bridge{number} 127.0.0.1:{each}\n" for number, each in enumerate(ports)]
    file = directory / "haproxy.cfg"
    file.write_text(CONFIGURATION.format(port=port, figures_port=figures_port) + "".join(servers))
    process = await asyncio.create_subprocess_exec(program, "-q", "-db", "-f", str(file))
    try:
        yield HAProxy(f"ws://127.0.0.1:{port}/websocket", f"http://127.0.0.1:{figures_port}")
    finally:
        process.terminate()
        await process.wait()
