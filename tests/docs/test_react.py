"""The hook and the component of `docs/how-to/react.md`: bundled as they stand there, in a real browser."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import blocks
from tests.support.attach import attach
from tests.support.bridge import running_bridge
from tests.support.browser import Page
from tests.support.node import PACKAGES, esbuild
from tests.support.process import ROOT, free_port
from tests.support.server import Database

pytestmark = pytest.mark.once  # nothing in it depends on the server's version

BLOCKS = {block.language: block.text for block in blocks(ROOT / "docs" / "how-to" / "react.md")}
RECORDING = """
window.heard = [];
const Socket = window.WebSocket;
window.WebSocket = class extends Socket {
  constructor(...where) {
    super(...where);
    this.addEventListener("message", ({ data }) => window.heard.push(data));
  }
};
"""
MAIN = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Messages } from "./messages.jsx";

window.show = (url, room) => {
  window.root ??= createRoot(document.body.appendChild(document.createElement("div")));
  window.root.render(<StrictMode><Messages url={url} room={room} /></StrictMode>);
};
window.texts = () => [...document.querySelectorAll("li")].map((line) => line.textContent).sort().join(" ");
window.isLive = () => document.querySelector("ul")?.ariaBusy === "false";
"""


def bundled(folder: Path) -> Path:
    """Return the path of one script with the hook, the component and React."""
    (folder / "use-collection.js").write_text(BLOCKS["js"])
    (folder / "messages.jsx").write_text(BLOCKS["jsx"])
    (folder / "main.jsx").write_text(MAIN)
    (folder / "node_modules").symlink_to(PACKAGES / "node_modules")
    options = ("--bundle", "--jsx=automatic", '--define:process.env.NODE_ENV="development"', "--outfile=script.js")
    command = esbuild("main.jsx", *options)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "script.js"


@pytest.fixture
def messages(database: Database) -> Database:
    database.execute(
        "CREATE TABLE messages (id int PRIMARY KEY, room int, text text);"
        "INSERT INTO messages VALUES (1, 1, 'one'), (2, 1, 'two'), (3, 2, 'elsewhere')"
    )
    attach(database, "messages")
    return database


@pytest.mark.usefixtures("node")
async def test_hook_follows_a_collection(messages: Database, page: Page, tmp_path: Path) -> None:
    port = free_port()
    async with running_bridge(messages.dsn, port=port) as bridge:
        await page.go(f"{bridge.http}/healthz")  # for its origin
        await page.evaluate(RECORDING)
        await page.evaluate(bundled(tmp_path).read_text())
        await page.evaluate(f"show('{bridge.http}', 1)")
        await page.wait_for("isLive() && texts() === 'one two'")
        await bridge.counts_become(connections=1, subscriptions=1)
        messages.execute("INSERT INTO messages VALUES (4, 1, 'four'); UPDATE messages SET text = 'uno' WHERE id = 1")
        messages.execute("UPDATE messages SET room = 2 WHERE id = 2")
        await page.wait_for("texts() === 'four uno'")
    await page.wait_for("!isLive()")
    messages.execute("DELETE FROM messages WHERE id = 4; INSERT INTO messages VALUES (5, 1, 'five')")
    async with running_bridge(messages.dsn, port=port) as bridge:
        await page.wait_for("isLive() && texts() === 'five uno'", within_s=60)
        assert await page.evaluate("heard.some((each) => each.includes('resumed'))")
        assert not await page.evaluate("heard.some((each) => each.includes('resync'))")
        await page.evaluate(f"show('{bridge.http}', 2)")
        await page.wait_for("isLive() && texts() === 'elsewhere two'")
        await page.evaluate("root.unmount()")
        await bridge.counts_become(connections=0, subscriptions=0)
        await page.evaluate("window.root = undefined; document.body.replaceChildren()")
        messages.execute("DROP TABLE messages")
        await page.evaluate(f"show('{bridge.http}', 1)")
        await page.wait_for("document.querySelector('[role=alert]')?.textContent.includes('permission')")
