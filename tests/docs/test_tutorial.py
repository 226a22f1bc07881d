"""The tutorial, block by block in its order: two terminals, a page in a real browser, a database of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sysconfig
import venv
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.docs.blocks import blocks
from tests.support.browser import Page
from tests.support.cluster import Cluster
from tests.support.node import NODE, PACKAGES, install
from tests.support.process import ROOT, free_port, line_of, running
from tests.support.terminal import DONE_WITHIN_S, Terminal

pytestmark = pytest.mark.once  # nothing in it depends on the server's version

TUTORIAL = ROOT / "docs" / "tutorial.md"
SHOWN = """[...document.querySelectorAll("#tasks tr:not(.delete)")]
    .map((line) => [...line.cells].map((cell) => cell.textContent).join(" ")).sort().join("; ")"""
INSTALLS = ("python3 -m venv", "pip install")


class Tutorial:
    """The blocks of the page, handed out in their order, with ports that are free here."""

    def __init__(self) -> None:
        self._ports = {"8765": str(free_port()), "8000": str(free_port())}
        self._blocks = [block for block in blocks(TUTORIAL) if block.language != "text"]

    def next(self, language: str) -> str:
        block = self._blocks.pop(0)
        assert block.language == language, f"{block} is {block.language}"
        return self.here(block.text)

    def here(self, text: str) -> str:
        for written, free in self._ports.items():
            text = text.replace(written, free)
        return text

    def ends(self) -> None:
        assert not self._blocks, [str(block) for block in self._blocks]


async def test_tutorial_shows_what_it_says(own_server: Cluster, tmp_path: Path, page: Page) -> None:
    tutorial = Tutorial()
    server = conninfo_to_dict(own_server.dsn())
    env = {f"PG{name.upper()}": str(server[name]) for name in ("host", "port", "user")}
    env |= {"CDC_BRIDGE_PORT": tutorial.here("8765"), "CDC_BRIDGE_DRAIN_S": "0"}
    with Terminal(tmp_path, "first", env) as first, Terminal(tmp_path, "second", env) as second:
        await _make_the_page(tutorial, first, tmp_path)
        await second.run(tutorial.next("sh"))
        await _answers(int(tutorial.here("8000")))
        await page.go(tutorial.here("http://127.0.0.1:8000/"))
        await _sees(page, "1 ann Water the plants open; 2 bob Buy bread open")
        await second.run(tutorial.next("sh"))
        await _sees(page, "2 bob Buy bread done; 3 ann Write a page open")
        await page.evaluate("document.querySelector('#tasks tr:not(.delete)').id = 'still there'")

        await first.interrupt()
        await page.wait_for("document.getElementById('state').textContent === 'Connecting'")
        await second.run(tutorial.next("sh"))
        await first.start(tutorial.here("cdc-bridge serve --insecure-public"), "listening on")
        await _sees(page, "2 bob Buy bread done; 3 ann Write a page open; 4 bob Written while nobody looked open")
        assert await page.evaluate("document.getElementById('still there') !== null")  # it had no fresh data
        await _run_the_sdk(tutorial.next("js"), tmp_path)

        await first.interrupt()
        await second.run(tutorial.next("sh"))
        await second.run(tutorial.next("sh"))
        await first.start(tutorial.next("sh"), "listening on")
        await page.wait_for("document.getElementById('state').textContent === 'Authentication handshake failed.'")
        await page.go((await second.run(tutorial.next("sh"))).strip())
        await _sees(page, "3 ann Write a page open")
        await second.run(tutorial.next("sh"))
        await _sees(page, "2 ann Buy bread done")
        await first.interrupt()
        await second.run(tutorial.next("sh"))
        tutorial.ends()


async def _make_the_page(tutorial: Tutorial, terminal: Terminal, directory: Path) -> None:
    """Steps 1 to 5, up to a bridge that serves and a page that nobody has opened."""
    _install(directory)
    steps = [line for line in tutorial.next("sh").splitlines() if not line.startswith(INSTALLS)]
    assert "cdc-bridge" in await terminal.run("\n".join(steps))
    await terminal.run(tutorial.next("sh"))
    assert "tasks" in await terminal.run(tutorial.next("sh"))
    await terminal.start(tutorial.next("sh"), tutorial.here("listening on ws://127.0.0.1:8765/websocket"))
    folder = directory / "page"
    folder.mkdir()
    (folder / "index.html").write_text(tutorial.next("html"))
    (folder / "page.js").write_text(tutorial.next("js"))


def _install(directory: Path) -> None:
    """Make the environment with the packages of this one, since a test of the wheel installs it as a user does."""
    venv.create(directory / "env", symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(directory / "env")})
    Path(packages, "these.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    program = directory / "env" / "bin" / "cdc-bridge"
    program.write_text(f"#!{directory}/env/bin/python\nfrom cdc_bridge.cli import main\nmain()\n")
    program.chmod(0o755)


async def _sees(page: Page, rows: str) -> None:
    await page.wait_for(f"document.getElementById('state').textContent.startsWith('Live') && {SHOWN} === '{rows}'")


async def _answers(port: int) -> None:
    """Wait until a server listens there. Nothing but asking tells."""
    async with asyncio.timeout(DONE_WITHIN_S):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                return writer.close()
            await asyncio.sleep(0.05)


async def _run_the_sdk(script: str, directory: Path) -> None:
    """Run the script, where npm can fetch the SDK."""
    with contextlib.suppress(pytest.skip.Exception):
        install()
        (directory / "node_modules").symlink_to(PACKAGES / "node_modules")
        (directory / "sdk.mjs").write_text(script)
        async with running(str(NODE), "sdk.mjs", cwd=directory) as process:
            assert "init" in await line_of(process.stdout)
