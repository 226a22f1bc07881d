"""Large frames, close codes, reasons and clients' addresses pass proxies; `tests/docs/test_proxies.py` has more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from cdc_bridge.access.authenticator import mint
from tests.docs.test_proxies import PROXIES, Ports
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.certificate import Pair, make_pair
from tests.support.process import free_port, require_program, running
from tests.support.server import Database
from tests.support.wsclient import Client, connected

pytestmark = pytest.mark.once

SECRET = "a secret that has thirty-two bytes"
LARGE = "ö" * 3_000_000
PASSES_WITHIN_S = 20.0


@contextlib.asynccontextmanager
async def behind(name: str, folder: Path, pair: Pair, bridge_port: int) -> AsyncIterator[str]:
    """Run a proxy in front of one bridge, as `docs/how-to/proxies.md` configures it, and yield its address."""
    program = require_program(name, "nothing was tried behind it")
    ports = Ports(free_port(), free_port(), (bridge_port, bridge_port))
    command = program, *PROXIES[name](folder, ports, pair)
    async with running(*command, cwd=folder, env={"XDG_CONFIG_HOME": str(folder)}):
        async with asyncio.timeout(PASSES_WITHIN_S):
            while True:
                with contextlib.suppress(OSError, InvalidStatus):
                    async with connected(f"wss://127.0.0.1:{ports.public}/websocket", ssl=pair.trusting):
                        break
                await asyncio.sleep(0.05)
        yield f"wss://127.0.0.1:{ports.public}/websocket"


@pytest.mark.parametrize("name", PROXIES)
async def test_proxy_passes_on_large_frames_codes_reasons_and_addresses(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("tests.docs.test_proxies.IDLE_S", 60)
    role, pair, port = f"web_{database.name}", make_pair(tmp_path), free_port()
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, v text); CREATE ROLE {role}; GRANT SELECT ON t TO {role}")
    database.execute("INSERT INTO t VALUES (1, %s)", [LARGE])
    attach(database, "t")
    options: dict[str, Any] = {"jwt_secret": SECRET, "roles": [role], "auth_mode": "handshake", "behind_proxy": True}
    options |= {"connections_per_address_max": 2, "port": port}
    token = mint(SECRET, {"role": role})
    async with contextlib.AsyncExitStack() as stack:
        async with running_bridge(database.dsn, **options) as bridge:
            url = await stack.enter_async_context(behind(name, tmp_path, pair, port))
            await bridge.counts_become(connections=0)

            async def client(**keywords: Any) -> Client:
                entering = connected(f"{url}?access_token={token}", ssl=pair.trusting, **keywords)
                return await stack.enter_async_context(entering)

            first = await client()
            await _passes_large_messages(first, database)
            async with connected(url, ssl=pair.trusting) as unknown:
                await unknown.send({"type": "auth", "access_token": "no token"})
                await unknown.expect(type="auth", status="error")
                assert await unknown.closed() == 4401
            await bridge.counts_become(connections=1)

            second = await client()
            with pytest.raises(InvalidStatus) as refused:  # wherever it says to come from
                await client(additional_headers={"X-Forwarded-For": "192.0.2.1"})
            assert refused.value.response.status_code == 429
            await client(local_addr=("127.0.0.2", 0))
        for each in (first, second):  # the bridge has ended
            assert await each.closed() == 1012
            assert "retry_ms" in json.loads(each.connection.close_reason or "")
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def _passes_large_messages(client: Client, database: Database) -> None:
    await client.send({"type": "subscribe", "collection": "t"})
    assert (await client.expect(event="init"))["data"] == [{"id": 1, "v": LARGE}]
    await asyncio.to_thread(database.execute, "UPDATE t SET v = v || '!'")
    assert (await client.expect(event="update"))["data"] == [{"id": 1, "v": f"{LARGE}!"}]
    await client.send({"type": "ping", "uid": "a", "ignored": "x" * 30_000})
    await client.expect(type="pong", uid="a")
