"""A headless Chromium, driven by the DevTools protocol over its own WebSocket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import ClientConnection, connect

START_TIMEOUT_S = 60.0
OPTIONS = ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """A tab. `errors` are what its console has complained of."""

    def __init__(self, connection: ClientConnection) -> None:
        self.errors: list[str] = []
        self._connection = connection
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def listen(self) -> None:
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif message["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(str(message["params"]["entry"]))

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": self._number, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, START_TIMEOUT_S)
        assert "error" not in message, message
        return message["result"]

    async def evaluate(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def wait_for(self, condition: str, within_s: float = 30.0) -> None:
        """Wait until an expression is true, in the page itself."""
        look = f"const look = () => ({condition}) ? done(true) : setTimeout(look, 20)"
        script = f"new Promise((done) => {{ {look}; look(); }})"
        async with asyncio.timeout(within_s):
            await self.evaluate(script)

    async def fill(self, name: str, text: str) -> None:
        """Type into the element of this id."""
        await self.evaluate(f"document.getElementById('{name}').select()")
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def click(self, selector: str) -> None:
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def screenshot(self) -> bytes:
        """Return what the tab shows, as PNG."""
        found = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(found["data"])


@contextlib.asynccontextmanager
async def open_page(width: int = 1280, height: int = 720) -> AsyncIterator[Page]:
    """Start a browser with one empty tab. Skips the test where no Chromium is installed."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("ATTENTION: no Chromium is installed, so nothing was tried in a browser: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="cdc-bridge-browser-", ignore_cleanup_errors=True) as folder:
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        process = await asyncio.create_subprocess_exec(
            program,
            *OPTIONS,
            *sandbox,
            f"--user-data-dir={folder}",
            f"--window-size={width},{height}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stderr
            port = await asyncio.wait_for(_debugging_port(process.stderr), START_TIMEOUT_S)
            drained = asyncio.create_task(process.stderr.read())
            targets = json.loads(await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/json/list"))
            (target,) = [each for each in targets if each["type"] == "page"]
            async with connect(target["webSocketDebuggerUrl"], max_size=None, ping_interval=None) as connection:
                page = Page(connection)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                yield page
            await listening
        finally:
            process.kill()
            await process.wait()
            await drained


def _read(url: str) -> bytes:
    with urlopen(url, timeout=START_TIMEOUT_S) as answer:
        read: bytes = answer.read()
        return read


async def _debugging_port(lines: asyncio.StreamReader) -> int:
    async for line in lines:
        if b"DevTools listening on ws://" in line:
            return int(line.decode().split("//")[1].split("/")[0].rpartition(":")[2])
    raise AssertionError("the browser has ended")
