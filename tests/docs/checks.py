"""A check for each language that a block can be written in. What is output or pseudo-code is `text`.

Python, SQL and JavaScript are only read here; `test_sql.py` and the tests of single pages run them.
"""

from __future__ import annotations

import ast
import html.parser
import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from cdc_bridge import settings
from cdc_bridge.model import messages
from tests.docs import shell
from tests.docs.reference import PROTOCOL
from tests.support.certificate import make_pair
from tests.support.node import NODE, esbuild, install
from tests.support.process import ROOT, environment, require_program

ANSWER = {"data", "error", "status", "event"}
"""Members of which each answer has one, and none of the clients' messages but `subscribe`."""

PAYLOADS = [message["payload"] for message in PROTOCOL["channels"]["websocket"]["messages"].values()]
UNCHECKED = "a block of a page was NOT checked"
MESSAGE = Draft202012Validator({"anyOf": PAYLOADS, "components": PROTOCOL["components"]})


def sh(text: str, folder: Path) -> None:
    """Check the syntax, the arguments of each `cdc-bridge`, and targets of make."""
    _run(["bash", "-n"], text)
    makefile = (ROOT / "Makefile").read_text()
    for command in shell.commands(text):
        arguments = shell.of_ours(command)
        if arguments is not None:
            shell.check(arguments)
        elif command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE), command


def python(text: str, folder: Path) -> None:
    compile(text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def js(text: str, folder: Path) -> None:
    script = folder / "block.mjs"
    script.write_text(text)
    _run([str(NODE), "--check", str(script)])


def jsx(text: str, folder: Path) -> None:
    """Parse it with esbuild, where npm can fetch that."""
    install()
    script = folder / "block.jsx"
    script.write_text(text)
    _run(esbuild(str(script)))


def html_page(text: str, folder: Path) -> None:
    """Check each script in a page."""
    html.parser.HTMLParser().feed(text)
    for script in re.findall(r"<script[^>]*>(.+?)</script>", text, re.DOTALL):
        js(script, folder)


def json_lines(text: str, folder: Path) -> None:
    """Check one value, or one in each line. A value with a `type` has to be a message of the protocol."""
    for value in _values(text):
        if isinstance(value, dict) and "type" in value:
            MESSAGE.validate(value)
            if value["type"] == "subscribe" or not ANSWER & value.keys():
                messages.parse(json.dumps(value))


def _values(text: str) -> Iterator[Any]:
    try:
        yield json.loads(text)
    except ValueError:
        yield from map(json.loads, filter(None, text.splitlines()))


def toml(text: str, folder: Path) -> None:
    """Settings, unless a comment in the first line names another file."""
    if re.match(r"# .*\.toml\n", text):
        tomllib.loads(text)
        return
    file = folder / "block.toml"
    file.write_text(text)
    settings.load({}, file)


def yaml_documents(text: str, folder: Path) -> None:
    assert all(document is not None for document in yaml.safe_load_all(text))


def nginx(text: str, folder: Path) -> None:
    """Put a location into a server and a server into `http`, and let nginx check that."""
    if re.match(r"\s*(#.*\n\s*)*(location|proxy_)", text):
        text = f"server {{\n{text}\n}}"
    if not re.search(r"^\s*http\s*{", text, re.MULTILINE):
        text = f"http {{\naccess_log off;\n{text}\n}}"
    pair = make_pair(folder)
    text = re.sub(r"(ssl_certificate\s+)[^;]+", rf"\g<1>{pair.certificate}", text)
    text = re.sub(r"(ssl_certificate_key\s+)[^;]+", rf"\g<1>{pair.key}", text)
    file = folder / "nginx.conf"
    file.write_text(f"pid {folder}/pid;\nevents {{}}\n{text}")
    _run([require_program("nginx", UNCHECKED), "-t", "-q", "-p", str(folder), "-e", "stderr", "-c", str(file)])


def haproxy(text: str, folder: Path) -> None:
    """Add timeouts and a frontend where there are none, and let HAProxy check that."""
    text = re.sub(r"(\bcrt\s+)\S+", rf"\g<1>{make_pair(folder).joined()}", text)
    if not re.search(r"^defaults", text, re.MULTILINE):
        text = f"defaults\n    mode http\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n{text}"
    if not re.search(r"^(frontend|listen)", text, re.MULTILINE):
        text += "frontend checked\n    bind 127.0.0.1:1\n"
    file = folder / "haproxy.cfg"
    file.write_text(text)
    _run([require_program("haproxy", UNCHECKED), "-c", "-f", str(file)])


def caddy(text: str, folder: Path) -> None:
    file = folder / "Caddyfile"
    file.write_text(text)
    _run([require_program("caddy", UNCHECKED), "validate", "--adapter", "caddyfile", "--config", str(file)])


def output(text: str, folder: Path) -> None:
    """Check only what a client (`->`) and the bridge (`<-`) say in a dialogue; `[…]` stands for data."""
    for speaker, said in re.findall(r"^(->|<-) (.*(?:\n   .*)*)", text.replace("[…]", "[]"), re.MULTILINE):
        message = json.loads(said)
        MESSAGE.validate(message)
        if speaker == "->":
            messages.parse(said)


def nothing(text: str, folder: Path) -> None:
    pass


def _run(command: Sequence[str], text: str | None = None) -> None:
    done = subprocess.run(command, input=text, env=environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "caddy": caddy,
    "haproxy": haproxy,
    "html": html_page,
    "js": js,
    "json": json_lines,
    "jsx": jsx,
    "nginx": nginx,
    "python": python,
    "sh": sh,
    "sql": nothing,
    "text": output,
    "toml": toml,
    "yaml": yaml_documents,
}
