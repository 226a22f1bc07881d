"""TLS at the port of the installed command, which runs on uvloop where that is there. No database is needed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cdc_bridge.model.errors import SettingsError
from cdc_bridge.server.listener import Certificate
from tests.support.bridge import BridgeProcess
from tests.support.certificate import Pair, make_pair
from tests.support.process import ROOT, running
from tests.support.wsclient import connected

NOWHERE = "host=127.0.0.1 port=1"
WITHIN_S = 20.0


@contextlib.asynccontextmanager
async def serving(pair: Pair, *arguments: str) -> AsyncIterator[BridgeProcess]:
    async with BridgeProcess(NOWHERE, *pair.flags, *arguments) as bridge:
        yield bridge
        bridge.terminate()
        assert await bridge.wait() == 0
    assert "Traceback" not in bridge.stderr


async def is_served(bridge: BridgeProcess, trusting: ssl.SSLContext) -> None:
    async with connected(bridge.url, ssl=trusting) as client:
        await client.send({"type": "ping", "uid": "x" * 1000})
        await client.expect(type="pong")


async def ended(reader: asyncio.StreamReader) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(WITHIN_S):
            found = await reader.read()
    return found


async def test_bridge_with_a_certificate_is_found_at_wss_and_nowhere_else(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    async with serving(pair) as bridge:
        assert bridge.url.startswith("wss://127.0.0.1:")
        await is_served(bridge, pair.trusting)
        old = pair.trusting
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        await is_served(bridge, old)

        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(bridge))
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert await ended(reader) == b""
        writer.close()


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    assert Certificate(str(pair.certificate), str(pair.key)).context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_healthcheck_of_the_image_speaks_tls_too(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    async with serving(pair) as bridge:
        where = {"CDC_BRIDGE_PORT": str(port_of(bridge)), "CDC_BRIDGE_TLS_CERTIFICATE": str(pair.certificate)}
        for variables, code in ((where, 0), ({"CDC_BRIDGE_PORT": where["CDC_BRIDGE_PORT"]}, 1)):
            async with running(sys.executable, str(ROOT / "docker" / "healthcheck.py"), env=variables) as check:
                assert await check.wait() == code


async def test_connections_that_never_speak_tls_give_way(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    async with serving(pair, "--handshakes-max", "10") as bridge, contextlib.AsyncExitStack() as stack:
        readers = []
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(bridge))
            stack.callback(writer.close)
            readers.append(reader)
        for reader in readers[:-10]:
            assert await ended(reader) == b""
        assert not any(reader.at_eof() for reader in readers[-10:])
        await is_served(bridge, pair.trusting)


async def test_renewed_certificate_is_shown_after_sighup_and_open_connections_stay(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    old = pair.trusting
    async with serving(pair) as bridge, connected(bridge.url, ssl=old) as client:
        new = make_pair(tmp_path).trusting
        await is_served(bridge, old)
        bridge.signal(signal.SIGHUP)
        await bridge.says("the certificate was read again")
        await is_served(bridge, new)
        with pytest.raises(ssl.SSLCertVerificationError):
            await is_served(bridge, old)
        await client.send({"type": "ping"})
        await client.expect(type="pong")


async def test_renewal_that_went_wrong_changes_nothing(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    trusting = pair.trusting
    async with serving(pair) as bridge:
        pair.key.write_text("half of a ke")
        bridge.signal(signal.SIGHUP)
        await bridge.says("the certificate stays as it was")
        await is_served(bridge, trusting)


async def test_sighup_without_a_certificate_ends_nothing() -> None:
    async with BridgeProcess(NOWHERE) as bridge:
        bridge.signal(signal.SIGHUP)
        async with connected(bridge.url) as client:
            await client.send({"type": "ping"})
            await client.expect(type="pong")


def test_files_that_are_no_pair_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pair, other = make_pair(tmp_path), make_pair(tmp_path / "other")
    with pytest.raises(SettingsError, match="no pair of PEM files"):
        Certificate(str(pair.certificate), str(other.key))
    with pytest.raises(SettingsError, match="no pair of PEM files"):
        Certificate(str(pair.key), str(pair.key))
    with pytest.raises(
        SettingsError, match=r"cannot read tls_certificate \(.*nosuch\) or tls_key \(.*\): No such file"
    ):
        Certificate(str(tmp_path / "nosuch"), str(pair.key))
    encrypted = make_pair(tmp_path, password=b"sekret")
    with pytest.raises(SettingsError, match=r"tls_key: .* needs a password"):
        Certificate(str(encrypted.certificate), str(encrypted.key))


def port_of(bridge: BridgeProcess) -> int:
    return int(bridge.http.rpartition(":")[2])
